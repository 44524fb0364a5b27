//! Variant for more tiles than fit into registers: the transformed weights of one row of points and some input blocks
//! are buffered in the L1 cache, because transforming them again for each group of tiles would cost more.

use std::ops::Range;

use super::{ByRow, OnTheFly};
use crate::{
    layout::split_range,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
    winograd::{IN, Pass, transforms::KernelMatrix},
};

/// Input blocks whose weights are transformed together.
const TOGETHER: usize = 4;

/// Distance between the weights of two points. It is odd, because they are written side by side.
const PITCH: usize = (TOGETHER * BLOCK) | 1;

/// Scratch blocks per worker.
pub(super) const BUFFER: usize = IN * PITCH;

/// Sums of one output block before the output transform.
///
/// The code that constructs this guarantees exclusive access to that block of the sums and to the buffer, and that nothing
/// writes the transformed input.
pub(super) struct Sums<'a> {
    pub(super) conv: OnTheFly<'a>,
    pub(super) pass: Pass<'a>,
    pub(super) output: usize,
    /// Offset of the weight buffer in the scratch.
    pub(super) buffer: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.all::<V>(self.conv.inputs);
    }
}

impl ByRow for Sums<'_> {
    const TOGETHER: usize = TOGETHER;

    #[inline(always)]
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        self.make::<V, R>(inputs.clone());
        let count = super::tiles_needed::<R>(&self.pass);
        let groups = count.div_ceil(V::ACCUMULATORS);
        for (point, group) in (0..IN).flat_map(|point| (0..groups).map(move |group| (point, group))) {
            let tiles = split_range(group, groups, count);
            macro_rules! dispatch {
                ($($count:literal),*) => {
                    match tiles.len() {
                        $($count if $count <= V::ACCUMULATORS => {
                            self.group::<V, R, $count>(point, inputs.clone(), tiles.start);
                        })*
                        _ => unreachable!("a group has at most MAX_TILES tiles"),
                    }
                };
            }
            dispatch!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
        }
    }
}

impl Sums<'_> {
    /// Transforms the weights of row `R` into the buffer.
    #[inline(always)]
    fn make<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        // SAFETY: only this item accesses the buffer.
        let buffer = unsafe { self.pass.scratch.slice_mut(self.buffer, BUFFER) };
        let (points, _) = buffer.as_chunks_mut::<PITCH>();
        let points: &mut [_; IN] = points.first_chunk_mut().expect("the buffer holds a row of points");
        for (block, input) in inputs.enumerate() {
            let taps = self.conv.taps(self.output, input);
            let ahead = self.conv.ahead::<R>(self.output, input, TOGETHER);
            for channel in 0..BLOCK {
                super::prefetch::<V>(ahead, channel);
                let weights = super::weights::<V, R>(&taps, channel);
                for point in 0..IN {
                    weights[point].store(&mut points[point][block * BLOCK + channel]);
                }
            }
        }
    }

    /// `M` tiles at one point.
    #[inline(always)]
    fn group<V: Vector, const R: usize, const M: usize>(&self, point: usize, inputs: Range<usize>, first: usize) {
        let Self { pass, output, buffer, .. } = *self;
        let place = R * IN + point;
        // SAFETY: only this item accesses this block of the sums.
        let sums = unsafe { pass.scratch.slice_mut(pass.transformed_output(place, output) + first, M) };
        let mut found = [V::zero(); M];
        if inputs.start > 0 {
            for m in 0..M {
                found[m] = V::load(&sums[m]);
            }
        }
        for (block, input) in inputs.clone().enumerate() {
            // SAFETY: nothing writes the transformed input in this phase, and the buffer is complete.
            let (transformed_input, weights) = unsafe {
                let weights = pass.scratch.slice(buffer + point * PITCH + block * BLOCK, BLOCK);
                (pass.scratch.slice(pass.transformed_input(place, input) + first, M), weights)
            };
            let tiles: &[ChannelBlock; M] = transformed_input.first_chunk().expect("M tiles");
            let weights: &[ChannelBlock; BLOCK] = weights.first_chunk().expect("sixteen channels");
            for channel in 0..BLOCK {
                let weight = V::load(&weights[channel]);
                for m in 0..M {
                    found[m] = V::splat(tiles[m].0[channel]).mul_add(weight, found[m]);
                }
            }
        }
        // The scales of the kernel transform are applied to the sums: here that is cheaper than to the weights.
        let scale = V::splat(if inputs.end == self.conv.inputs { KernelMatrix::scale(R, point) } else { 1.0 });
        for m in 0..M {
            found[m].mul(scale).store(&mut sums[m]);
        }
    }
}
