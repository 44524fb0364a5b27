//! `thorax dataset`: inspects and changes data sets in the data folder, with or without a running server.

mod check;
mod distribution;
mod export;
mod generate;
mod split;

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};

use super::CliError;
use crate::{
    app::DataFolder,
    dataset::DistributionTable,
    store::{self, Dataset},
};

#[derive(Args, Debug)]
pub(super) struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Subcommand, Debug)]
enum DatasetCommand {
    /// Audit a data set for leakage, shortcuts and confounders. Exits with 1 on leakage that is not acknowledged.
    Check(check::CheckArgs),
    /// Count images and unique patients by split and class, in a data set or in label files.
    Distribution(distribution::DistributionArgs),
    /// Split a data set into train, validation and test: by patient, stratified by class, reproducible by seed.
    Split(split::SplitArgs),
    /// Generate a COVIDx data set from its original sources, by rules or by published label files.
    Generate(generate::GenerateArgs),
    /// Export a data set as label files or NumPy arrays, which `thorax import` can read.
    Export(export::ExportArgs),
}

/// Output format of a table.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableFormat {
    /// Markdown table.
    Markdown,
    /// Aligned columns for a terminal.
    Text,
}

pub(super) async fn run(args: DatasetArgs) -> Result<(), CliError> {
    match args.command {
        DatasetCommand::Check(args) => check::run(args).await,
        DatasetCommand::Distribution(args) => distribution::run(args).await,
        DatasetCommand::Split(args) => split::run(args).await,
        DatasetCommand::Generate(args) => generate::run(args).await,
        DatasetCommand::Export(args) => export::run(args).await,
    }
}

/// Finds a data set by name or, if no data set has that name, by identifier.
pub(super) async fn find(folder: &DataFolder, name_or_id: &str) -> Result<Dataset, CliError> {
    let by_name = store::datasets::find_by_name(&folder.stores.db, name_or_id).await?;
    let dataset = match (by_name, name_or_id.parse()) {
        (None, Ok(id)) => store::datasets::get(&folder.stores.db, id).await?,
        (by_name, _) => by_name,
    };
    dataset.ok_or_else(|| CliError::NoDataset { name: name_or_id.to_owned(), folder: folder.path.clone() })
}

fn print_distribution(table: &DistributionTable, format: TableFormat) -> Result<(), CliError> {
    let text = match format {
        TableFormat::Markdown => table.to_markdown(),
        TableFormat::Text => table.to_text(),
    };
    Ok(write!(std::io::stdout(), "{text}")?)
}
