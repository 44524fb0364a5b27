//! `thorax dataset check NAME`

use std::io::Write;

use clap::{Args, ValueEnum};

use super::find;
use crate::{
    cli::{CliError, open_existing, serve::DATA_FOLDER},
    config::DataConfig,
    domain::LeakageKind,
    imaging,
    service::report,
};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Name or identifier of the data set.
    dataset: String,

    /// Leakage that is known and accepted, so that the command does not fail for it: patient-overlap or duplicate-across-splits.
    #[arg(long, value_name = "FINDING")]
    acknowledge: Vec<LeakageKind>,

    /// How the report is printed; `json` is as GET /v1/datasets/{id}/report answers.
    #[arg(long, value_name = "FORMAT", default_value = "markdown")]
    format: Format,

    #[command(flatten)]
    data: DataConfig,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Markdown,
    Json,
}

pub(super) async fn run(args: CheckArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    let limits = imaging::Limits { max_pixels: args.data.max_pixels };
    let made = report(&folder.stores, &dataset, limits).await;
    folder.stores.db.close().await;
    let report = made?;
    let text = match args.format {
        Format::Markdown => report.to_markdown(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    write!(std::io::stdout(), "{text}")?;
    let found = report.leakage.iter().map(|finding| finding.name);
    let others: Vec<LeakageKind> = found.filter(|name| !args.acknowledge.contains(name)).collect();
    if others.is_empty() { Ok(()) } else { Err(CliError::Leakage(others)) }
}
