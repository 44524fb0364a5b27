//! The `thorax` program; [`thorax::cli`] says what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    thorax::cli::main()
}
