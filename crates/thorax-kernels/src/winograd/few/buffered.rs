//! Weights for so many squares that making them anew for each few of them would cost more than to lay them by: those of one row of
//! points and some lanes of inputs at a time, in the nearest cache.

use std::ops::Range;

use super::{ByRow, Few};
use crate::{
    product::share,
    simd::{Lane, Vector, WIDTH, Work},
    winograd::{IN, Pass, transforms::Weigh},
};

/// Lanes of inputs whose weights are made together.
const TOGETHER: usize = 4;

/// Lanes between the weights of two points: an odd number, for they are written side by side.
const PITCH: usize = (TOGETHER * WIDTH) | 1;

/// Lanes of scratch that each member needs.
pub(super) const BUFFER: usize = IN * PITCH;

/// The sums of one lane of outputs, before the last transform.
///
/// Whoever makes one vouches that nobody else has that lane of the sums or the buffer, and that nobody writes the transformed input.
pub(super) struct Sums<'a> {
    pub(super) few: Few<'a>,
    pub(super) pass: Pass<'a>,
    pub(super) output: usize,
    /// Where in the scratch the weights are laid by.
    pub(super) buffer: usize,
}

impl Work for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.all::<V>(self.few.inputs);
    }
}

impl ByRow for Sums<'_> {
    const TOGETHER: usize = TOGETHER;

    #[inline(always)]
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        self.make::<V, R>(inputs.clone());
        let count = super::needed::<R>(&self.pass);
        let tiles = count.div_ceil(V::SUMS);
        for (point, tile) in (0..IN).flat_map(|point| (0..tiles).map(move |tile| (point, tile))) {
            let squares = share(tile, tiles, count);
            macro_rules! pick {
                ($($count:literal),*) => {
                    match squares.len() {
                        $($count if $count <= V::SUMS => {
                            self.tile::<V, R, $count>(point, inputs.clone(), squares.start);
                        })*
                        _ => unreachable!("no more squares than these are few"),
                    }
                };
            }
            pick!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
        }
    }
}

impl Sums<'_> {
    /// Lays the weights of row `R` by.
    #[inline(always)]
    fn make<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        // SAFETY: this item alone has the buffer.
        let buffer = unsafe { self.pass.scratch.part(self.buffer, BUFFER) };
        let (points, _) = buffer.as_chunks_mut::<PITCH>();
        let points: &mut [_; IN] = points.first_chunk_mut().expect("a row of points");
        for (lane, input) in inputs.enumerate() {
            let taps = self.few.taps(self.output, input);
            let ahead = self.few.ahead::<R>(self.output, input, TOGETHER);
            for channel in 0..WIDTH {
                super::ask::<V>(ahead, channel);
                let weights = super::weights::<V, R>(&taps, channel);
                for point in 0..IN {
                    weights[point].store(&mut points[point][lane * WIDTH + channel]);
                }
            }
        }
    }

    /// `M` squares at one point.
    #[inline(always)]
    fn tile<V: Vector, const R: usize, const M: usize>(&self, point: usize, inputs: Range<usize>, first: usize) {
        let Self { pass, output, buffer, .. } = *self;
        let place = R * IN + point;
        // SAFETY: this item alone has this lane of the sums.
        let sums = unsafe { pass.scratch.part(pass.multiplied(place, output) + first, M) };
        let mut found = [V::zero(); M];
        if inputs.start > 0 {
            for m in 0..M {
                found[m] = V::load(&sums[m]);
            }
        }
        for (lane, input) in inputs.clone().enumerate() {
            // SAFETY: in this phase nobody writes the transformed input, and the weights lie there by now.
            let (entered, weights) = unsafe {
                let weights = pass.scratch.read(buffer + point * PITCH + lane * WIDTH, WIDTH);
                (pass.scratch.read(pass.entered(place, input) + first, M), weights)
            };
            let squares: &[Lane; M] = entered.first_chunk().expect("as many squares");
            let weights: &[Lane; WIDTH] = weights.first_chunk().expect("sixteen channels");
            for channel in 0..WIDTH {
                let weight = V::load(&weights[channel]);
                for m in 0..M {
                    found[m] = V::splat(squares[m].0[channel]).mul_add(weight, found[m]);
                }
            }
        }
        // The weights were made without the scales of the transform, which here are cheaper.
        let scale = V::splat(if inputs.end == self.few.inputs { Weigh::scale(R, point) } else { 1.0 });
        for m in 0..M {
            found[m].mul(scale).store(&mut sums[m]);
        }
    }
}
