//! The same for few squares, whose weights are transformed anew in each pass.
//!
//! The transformed weights are four times as large as the taps. What a few squares do with each of them takes less time than to bring it
//! from main memory; so the taps are brought, and what is made of them is used in the registers where it was made.

use std::ops::Range;

use super::{Enter, IN, Leave, Order, Pass, TAPS, Winograd, squares, transforms::Weigh};
use crate::kernel::{
    conv::Images,
    pack::Weights,
    product::{Finish, share},
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::Member,
};

/// More squares have work enough for weights that were transformed beforehand.
const MOST: usize = 8;

/// Lanes of inputs that go through all rows of points together: their taps stay in the first-level cache.
const TOGETHER: usize = 2;

/// Whether there are so few squares.
pub(in crate::kernel) fn are_few(images: usize, side: usize) -> bool {
    squares(images, side) <= MOST
}

/// What the weights of 36 points cost to make, in multiplications.
const TRANSFORM: usize = 140;

/// Whether it is less work than the plain product: 36 multiplications a square, and the transform for each few of them, against nine a
/// pixel.
pub(in crate::kernel) fn pays(level: Level, images: usize, side: usize) -> bool {
    let squares = squares(images, side);
    36 * squares + TRANSFORM * squares.div_ceil(level.sums() / IN) < 9 * images * side * side
}

/// A convolution of few squares.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Few<'a> {
    /// A packed matrix of the taps' places and inputs by outputs.
    pub(in crate::kernel) taps: Weights<'a>,
    /// Inputs in lanes.
    pub(in crate::kernel) inputs: usize,
}

impl Few<'_> {
    fn layer(&self) -> Winograd<'static> {
        Winograd { points: &[], inputs: self.inputs, outputs: self.taps.outputs }
    }

    /// Lanes of scratch that a pass needs.
    pub(in crate::kernel) fn scratch(&self, images: usize, side: usize) -> usize {
        self.layer().grids(squares(images, side))
    }

    /// One pass; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have the output or the scratch.
    pub(in crate::kernel) unsafe fn run(
        self,
        member: &Member<'_>,
        input: Images<'_>,
        scratch: Shared<'_>,
        finish: &Finish<'_>,
    ) {
        let (layer, count) = (self.layer(), squares(input.images, input.side));
        let pass = Pass { layer, input, first: 0, count, scratch, offset: 0, order: Order::Lanes, finish };
        pass.by_lane(member, layer.inputs, |lane, squares| member.run(Enter { pass, lane, squares }));
        member.each(layer.outputs, |output| {
            for first in (0..layer.inputs).step_by(TOGETHER) {
                let inputs = first..(first + TOGETHER).min(layer.inputs);
                member.run(Add { pass, taps: self.taps, inputs, output });
            }
            member.run(Leave { pass, lane: output, squares: 0..count });
        });
    }
}

/// What some lanes of inputs add to the sums of one lane of outputs.
struct Add<'a> {
    pass: Pass<'a>,
    taps: Weights<'a>,
    inputs: Range<usize>,
    output: usize,
}

impl Work for Add<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.row::<V, 0>();
        self.row::<V, 1>();
        self.row::<V, 2>();
        self.row::<V, 3>();
        self.row::<V, 4>();
        self.row::<V, 5>();
    }
}

impl Add<'_> {
    /// The points of row `R`: from each column of taps one sum, and from those three the six weights.
    #[inline(always)]
    fn row<V: Vector, const R: usize>(&self) {
        let count = self.pass.count;
        let tiles = count.div_ceil(V::SUMS / IN);
        for tile in 0..tiles {
            let squares = share(tile, tiles, count);
            macro_rules! pick {
                ($($count:literal),*) => {
                    match squares.len() {
                        $($count if $count * IN <= V::SUMS => self.tile::<V, R, $count>(squares.start),)*
                        _ => unreachable!("no vector has tiles of more squares"),
                    }
                };
            }
            pick!(1, 2, 3, 4);
        }
    }

    /// `M` squares.
    #[inline(always)]
    fn tile<V: Vector, const R: usize, const M: usize>(&self, first: usize) {
        let Self { pass, output, .. } = *self;
        let (count, padded, panel) = (pass.count, pass.layer.inputs * WIDTH, self.taps.panels(output, 1));
        // SAFETY: this member alone has this lane of the sums.
        let sums = unsafe { pass.scratch.part(pass.multiplied(R * IN, output), IN * count) };
        let mut found = [[V::zero(); M]; IN];
        if self.inputs.start > 0 {
            for point in 0..IN {
                for m in 0..M {
                    found[point][m] = V::load(&sums[point * count + first + m]);
                }
            }
        }
        for input in self.inputs.clone() {
            // SAFETY: in this phase nobody writes the transformed input.
            let entered = unsafe { pass.scratch.read(pass.entered(R * IN, input), IN * count) };
            let mut squares: [&[Lane; M]; IN] = [entered[first..].first_chunk().expect("as many"); IN];
            for point in 1..IN {
                squares[point] = entered[point * count + first..].first_chunk().expect("as many");
            }
            for channel in 0..WIDTH {
                let mut sums = [V::zero(); TAPS];
                for right in 0..TAPS {
                    let tap = |down: usize| V::load(&panel[(down * TAPS + right) * padded + input * WIDTH + channel]);
                    sums[right] = Weigh::bare::<V, R>([tap(0), tap(1), tap(2)]);
                }
                let weights = Weigh::bare_once(sums);
                for point in 0..IN {
                    for m in 0..M {
                        let value = V::splat(squares[point][m].0[channel]);
                        found[point][m] = value.mul_add(weights[point], found[point][m]);
                    }
                }
            }
        }
        // The weights were made without the scales of the transform, which here are cheaper.
        if self.inputs.end == pass.layer.inputs {
            for point in 0..IN {
                let scale = V::splat(Weigh::scale(R, point));
                for m in 0..M {
                    found[point][m] = found[point][m].mul(scale);
                }
            }
        }
        for point in 0..IN {
            for m in 0..M {
                found[point][m].store(&mut sums[point * count + first + m]);
            }
        }
    }
}
