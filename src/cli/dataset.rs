//! `thorax dataset …`: what the data folder says about a data set, whether a server runs or not.

mod check;

use clap::{Args, Subcommand};

use super::CliError;
use crate::{
    app::DataFolder,
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
}

pub(super) async fn run(args: DatasetArgs) -> Result<(), CliError> {
    match args.command {
        DatasetCommand::Check(args) => check::run(args).await,
    }
}

/// The data set of that name or identifier.
pub(super) async fn find(folder: &DataFolder, asked: &str) -> Result<Dataset, CliError> {
    let by_name = store::datasets::find_by_name(&folder.db, asked).await?;
    let found = match (by_name, asked.parse()) {
        (None, Ok(id)) => store::datasets::get(&folder.db, id).await?,
        (by_name, _) => by_name,
    };
    found.ok_or_else(|| CliError::NoDataset { name: asked.to_owned(), folder: folder.path.clone() })
}
