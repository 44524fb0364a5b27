//! What the CPU computes most.

#![expect(unsafe_code, reason = "vector instructions, and buffers that several threads write at once")]

pub mod adam;
#[cfg(test)]
mod fixtures;
pub mod memory;
pub mod norm;
mod parts;
pub mod plain;
pub mod pool;
mod simd;
mod sweeps;
mod team;
pub mod train;

pub use simd::{Lane, Level, WIDTH};
pub use team::Team;
pub use train::{ConvShape, Images};

/// The process's team: a thread for each core.
pub fn team() -> &'static Team {
    static TEAM: std::sync::LazyLock<Team> =
        std::sync::LazyLock::new(|| Team::new(std::thread::available_parallelism().map_or(1, usize::from)));
    &TEAM
}
