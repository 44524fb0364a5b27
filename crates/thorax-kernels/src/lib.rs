//! CPU kernels for convolutional networks in NCHW16c layout: convolution, batch normalisation, pooling, ReLU and Adam.
//!
//! Activations are `[channel blocks, images, side, side]` of [`ChannelBlock`], sixteen channels each, from the first convolution to the
//! global mean: no operation changes the layout. [`Graph`] is a trained network compiled for prediction; [`conv`] has the forward and
//! backward passes of a convolution in training. The instruction set is chosen at run time.
//!
//! `unsafe` code serves two purposes: `simd` calls vector and tile instructions, and `shared` lets the worker threads of a [`Team`]
//! write disjoint parts of one buffer. All indexing is checked. Tests run every kernel at every instruction level and with several
//! team sizes against plain loops in double precision.

#![expect(unsafe_code, reason = "vector and tile instructions, and buffers that several threads write at once")]
#![expect(
    clippy::needless_range_loop,
    reason = "loops over indices of a fixed size are unrolled; closures passed to iterators are compiled without the vector instructions"
)]

pub mod adam;
#[cfg(feature = "burn")]
mod burn;
pub mod conv;
#[cfg(test)]
mod fixtures;
mod graph;
mod halo;
mod im2col;
mod layout;
mod lerp;
mod matmul;
pub mod memory;
pub mod norm;
mod operand;
mod pack;
mod parallel;
pub mod pool;
pub mod preemption;
pub mod relu;
mod residue;
mod shared;
mod simd;
mod stem;
mod strided;
pub mod subsample;
mod team;
mod two_pass;
mod weight_gradient;
mod winograd;

#[cfg(test)]
mod tests;

pub use graph::{ChannelAffine, ConvLayer, Graph, GridMean, Op, Slot};
pub use layout::{ConvShape, Images};
pub use lerp::lerp;
pub use simd::{BLOCK, ChannelBlock, Precision};
pub use team::{Team, Worker, team};

/// `count` blocks of zeros. The system provides large allocations lazily, without writing to them.
pub fn zeros(count: usize) -> Vec<ChannelBlock> {
    bytemuck::allocation::zeroed_vec(count)
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
