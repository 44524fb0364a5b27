//! `thorax openapi`: prints the OpenAPI document.

use std::io::Write;

use super::CliError;
use crate::app;

pub(super) fn print() -> Result<(), CliError> {
    let document = app::openapi().to_pretty_json()?;
    Ok(writeln!(std::io::stdout(), "{document}")?)
}
