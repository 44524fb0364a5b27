//! The `thorax` program; [`thorax::cli`] says what it does.

use std::process::ExitCode;

/// The system's (glibc) keeps what a run's threads have freed, hundreds of megabytes a run, in heaps of its own for each thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    thorax::cli::main()
}
