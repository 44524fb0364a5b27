//! Logs: one line an event on standard error; standard output belongs to the ready line and to results.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging at the given level or filter (`info`, `warn,thorax=debug`). To be called once.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    Ok(())
}
