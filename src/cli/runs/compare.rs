//! `thorax runs compare`: compares the scores of runs.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{CliError, DATA_FOLDER, open_existing};
use crate::{
    config::DataConfig,
    domain::{RunId, Split},
    service::{MAX_COMPARED_RUNS, compare},
};

#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// Identifiers of 2 to 20 runs. The others are tested against the first.
    #[arg(value_name = "ID", required = true, num_args = 2..=MAX_COMPARED_RUNS)]
    runs: Vec<RunId>,

    /// Split of the scores: train, validation or test.
    #[arg(long, value_name = "SPLIT", default_value = "test")]
    split: Split,

    /// Stage whose models are compared. [default: the last stage of each run]
    #[arg(long, value_name = "STAGE", value_parser = clap::value_parser!(u32).range(1..))]
    stage: Option<u32>,

    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    data: DataConfig,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Aligned columns for a terminal.
    Table,
    /// Markdown table.
    Markdown,
    /// Comma-separated values.
    Csv,
    /// The response of `GET /v1/training-runs/compare`.
    Json,
}

pub(super) async fn run(args: CompareArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let comparison = compare(&folder.stores, &args.runs, args.split, args.stage).await;
    folder.stores.db.close().await;
    let comparison = comparison?;
    let text = match args.format {
        Format::Table => comparison.to_plain(),
        Format::Markdown => comparison.to_markdown(),
        Format::Csv => comparison.to_csv(),
        Format::Json => serde_json::to_string_pretty(&comparison)? + "\n",
    };
    Ok(write!(std::io::stdout(), "{text}")?)
}
