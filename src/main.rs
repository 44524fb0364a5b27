//! The `thorax` program; [`thorax::cli`] says what it does.

use std::process::ExitCode;

/// Gives memory back to the system that nobody needs any more; Cargo.toml has the reasons.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    thorax::cli::main()
}
