//! `thorax serve`: runs the server.

use std::io::Write;

use super::CliError;
use crate::{app::Server, config::ServerConfig};

/// Default data folder.
pub(super) const DATA_FOLDER: &str = "data";

pub(super) async fn serve(config: &ServerConfig) -> Result<(), CliError> {
    announce_and_run(Server::start(config, DATA_FOLDER).await?).await
}

/// Prints the ready line, the only line on standard output, and runs the server. Hints go to standard error.
pub(super) async fn announce_and_run(server: Server) -> Result<(), CliError> {
    writeln!(std::io::stdout(), "thorax is ready at {}", server.url())?;
    if let Some(hint) = server.hint().await? {
        eprintln!("{hint}");
    }
    Ok(server.run().await?)
}
