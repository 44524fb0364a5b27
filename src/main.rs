//! The `thorax` program. [`thorax::cli`] defines its commands.

use std::process::ExitCode;

/// jemalloc returns unused memory to the system; `Cargo.toml` gives the measurements.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    thorax::cli::main()
}
