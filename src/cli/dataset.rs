//! `thorax dataset …`: what the data folder says about a data set, whether a server runs or not.

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
    /// Tells the truth about a data set: leakage between its splits, what besides disease tells its classes apart, and what a score on it
    /// can mean. Fails when there is leakage that is not acknowledged.
    Check(check::CheckArgs),
    /// Counts images and unique patients by split and class, of a data set or of label files alone.
    Distribution(distribution::DistributionArgs),
    /// Assigns every image to a split: by patient, stratified by class, the same for the same seed.
    Split(split::SplitArgs),
    /// Brings the sources of COVIDx together, as they are distributed: by rules, or by published label files.
    Generate(generate::GenerateArgs),
    /// Writes a data set as files that other programs read, and an import reads back.
    Export(export::ExportArgs),
}

/// How tables are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TableFormat {
    Markdown,
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

/// The data set of that name or identifier.
pub(super) async fn find(folder: &DataFolder, asked: &str) -> Result<Dataset, CliError> {
    let by_name = store::datasets::find_by_name(&folder.stores.db, asked).await?;
    let found = match (by_name, asked.parse()) {
        (None, Ok(id)) => store::datasets::get(&folder.stores.db, id).await?,
        (by_name, _) => by_name,
    };
    found.ok_or_else(|| CliError::NoDataset { name: asked.to_owned(), folder: folder.path.clone() })
}

fn print_distribution(table: &DistributionTable, format: TableFormat) -> Result<(), CliError> {
    let text = match format {
        TableFormat::Markdown => table.to_markdown(),
        TableFormat::Text => table.to_text(),
    };
    Ok(write!(std::io::stdout(), "{text}")?)
}
