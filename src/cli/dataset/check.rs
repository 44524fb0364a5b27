//! `thorax dataset check`: audits a data set.

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
    /// Data set, by name or identifier.
    dataset: String,

    /// Accept leakage, so that it does not fail the command: `patient-overlap`, `duplicate-across-splits`.
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    acknowledge: Vec<LeakageKind>,

    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "markdown")]
    format: Format,

    #[command(flatten)]
    data: DataConfig,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Report in Markdown.
    Markdown,
    /// The response of `GET /v1/datasets/{id}/report`.
    Json,
}

pub(super) async fn run(args: CheckArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    let limits = imaging::Limits { max_pixels: args.data.max_pixels };
    let report = report(&folder.stores, &dataset, limits).await;
    folder.stores.db.close().await;
    let report = report?;
    let text = match args.format {
        Format::Markdown => report.to_markdown(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    write!(std::io::stdout(), "{text}")?;
    let leakage = report.leakage.iter().map(|finding| finding.name);
    let unacknowledged: Vec<LeakageKind> = leakage.filter(|name| !args.acknowledge.contains(name)).collect();
    if unacknowledged.is_empty() { Ok(()) } else { Err(CliError::Leakage(unacknowledged)) }
}
