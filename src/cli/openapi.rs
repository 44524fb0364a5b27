//! `thorax openapi`

use std::io::Write;

use super::CliError;
use crate::http;

pub(super) fn print() -> Result<(), CliError> {
    let document = http::openapi().to_pretty_json()?;
    Ok(writeln!(std::io::stdout(), "{document}")?)
}
