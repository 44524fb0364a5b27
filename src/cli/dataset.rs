//! `thorax dataset …`: what the data folder says about a data set, whether a server runs or not.

mod check;

use clap::{Args, Subcommand};

use super::CliError;

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
