//! `thorax serve`

use std::io::Write;

use super::CliError;
use crate::{app::Server, config::ServerConfig};

/// The data folder where none was named.
pub(super) const DATA_FOLDER: &str = "data";

pub(super) async fn serve(config: &ServerConfig) -> Result<(), CliError> {
    announce_and_run(Server::start(config, DATA_FOLDER).await?).await
}

/// The ready line goes to standard output, alone; what to do next to standard error.
pub(super) async fn announce_and_run(server: Server) -> Result<(), CliError> {
    writeln!(std::io::stdout(), "thorax is ready at http://{}", server.address())?;
    if let Some(step) = server.next_step().await? {
        eprintln!("{step}");
    }
    Ok(server.run().await?)
}
