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
pub use team::{Team, team};
