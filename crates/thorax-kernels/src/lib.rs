//! What the CPU computes most: convolutions and what stands between them, on sixteen channels at a time.
//!
//! Activations lie in lanes of sixteen channels, `[lanes of channels, images, side, side]`, from the stem to the mean: nothing changes
//! layout between two layers. [`Plan`] is a trained network made ready for prediction; [`train`] has the three products of a
//! convolution that learns. The best instructions of the processor are chosen when the program runs.
//!
//! The only room where `unsafe` may stand, for two reasons: `simd` calls the processor's vector and tile instructions, and `shared` lets
//! the threads of a [`Team`] write disjoint parts of one buffer. All indexing is checked. Tests run every kernel at every level and with
//! several team sizes against plain loops in double precision.

#![expect(unsafe_code, reason = "vector and tile instructions, and buffers that several threads write at once")]
#![expect(
    clippy::needless_range_loop,
    reason = "loops over indices of a fixed size become straight code; what is passed to an iterator is compiled without the vectors"
)]

pub mod adam;
mod around;
#[cfg(feature = "burn")]
mod burn;
mod columns;
mod conv;
#[cfg(test)]
mod fixtures;
mod gradient;
pub mod memory;
pub mod norm;
mod pack;
mod parts;
mod plan;
pub mod pool;
pub mod precedence;
mod product;
mod reading;
pub mod relu;
mod shared;
mod simd;
mod stem;
mod strided;
mod sweeps;
mod team;
pub mod thin;
mod towards;
pub mod train;
mod winograd;

#[cfg(test)]
mod tests;

pub use conv::{ConvShape, Images};
pub use plan::{Channels, Layer, Means, Plan, Slot, Step};
pub use simd::{Lane, Precision, WIDTH};
pub use team::{Team, team};
pub use towards::towards;

/// Lanes of zeros. The system gives large ones without touching them.
pub fn zeros(count: usize) -> Vec<Lane> {
    bytemuck::allocation::zeroed_vec(count)
}
