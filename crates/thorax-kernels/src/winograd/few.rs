//! The same for few squares, whose weights are transformed anew in each pass.
//!
//! The transformed weights are four times as large as the taps. What a few squares do with each of them takes less time than to bring it
//! from main memory; so the taps are brought, and what is made of them is used at once: in the registers where it was made, or, with
//! more squares than go through there together, from the nearest cache.

mod buffered;

use std::ops::Range;

use super::{Enter, IN, Leave, OUT, Order, Pass, TAPS, Winograd, squares, transforms::Weigh};
use crate::{
    conv::Images,
    pack::Weights,
    product::{Finish, share},
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::{Member, Team},
};

/// More squares have work enough for weights that were transformed beforehand.
const MOST: usize = 16;

/// Up to so many the weights stay in registers, made anew for each few squares that have room for their sums there.
const IN_REGISTERS: usize = 8;

/// Whether there are so few squares.
pub(crate) fn are_few(images: usize, side: usize) -> bool {
    squares(images, side) <= MOST
}

/// What the weights of 36 points cost to make, in multiplications.
const TRANSFORM: usize = 140;

/// Whether it is less work than the plain product: 36 multiplications a square, and the transform, against nine a pixel.
pub(crate) fn pays(level: Level, images: usize, side: usize) -> bool {
    let squares = squares(images, side);
    let transforms = if squares > IN_REGISTERS { 1 } else { squares.div_ceil(level.sums() / IN) };
    36 * squares + TRANSFORM * transforms < 9 * images * side * side
}

/// A convolution of few squares.
#[derive(Clone, Copy)]
pub(crate) struct Few<'a> {
    /// A packed matrix of the taps' places and inputs by outputs.
    pub(crate) taps: Weights<'a>,
    /// Inputs in lanes.
    pub(crate) inputs: usize,
}

impl<'a> Few<'a> {
    fn layer(&self) -> Winograd<'static> {
        Winograd { points: &[], inputs: self.inputs, outputs: self.taps.outputs }
    }

    /// Lanes of scratch that a pass needs.
    pub(crate) fn scratch(&self, team: &Team, images: usize, side: usize) -> usize {
        self.layer().grids(squares(images, side)) + team.threads() * buffered::BUFFER
    }

    /// One pass; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have the output or the scratch.
    pub(crate) unsafe fn run(self, member: &Member<'_>, input: Images<'_>, scratch: Shared<'_>, finish: &Finish<'_>) {
        let (layer, count) = (self.layer(), squares(input.images, input.side));
        let pass = Pass { layer, input, first: 0, count, scratch, offset: 0, order: Order::Lanes, finish };
        pass.by_lane(member, layer.inputs, |lane, squares| member.run(Enter { pass, lane, squares }));
        let buffer = layer.grids(count) + member.index() * buffered::BUFFER;
        member.each(layer.outputs, |output| {
            if count > IN_REGISTERS {
                member.run(buffered::Sums { few: self, pass, output, buffer });
            } else {
                member.run(Sums { few: self, pass, output });
            }
            member.run(Leave { pass, lane: output, squares: 0..count });
        });
    }

    /// The taps from one lane of inputs to one of outputs, by place.
    #[inline(always)]
    fn taps(&self, output: usize, input: usize) -> [&'a [Lane; WIDTH]; TAPS * TAPS] {
        let (panel, padded) = (self.taps.panels(output, 1), self.inputs * WIDTH);
        let lane = |place: usize| panel[place * padded + input * WIDTH..].first_chunk().expect("sixteen channels");
        let mut taps = [lane(0); TAPS * TAPS];
        for place in 1..TAPS * TAPS {
            taps[place] = lane(place);
        }
        taps
    }

    /// What to ask for while row `R` is at a lane of inputs: taps of the lane that comes `further` lanes later, three places in each
    /// second of the six rows.
    #[inline(always)]
    fn ahead<const R: usize>(&self, output: usize, input: usize, further: usize) -> Option<[&'a [Lane; WIDTH]; TAPS]> {
        (R.is_multiple_of(2) && input + further < self.inputs).then(|| {
            let taps = self.taps(output, input + further);
            [taps[R / 2 * TAPS], taps[R / 2 * TAPS + 1], taps[R / 2 * TAPS + 2]]
        })
    }
}

/// How many squares, the first ones, need row `R` of points. The last row of points counts for nothing but the last row of outputs, which
/// in the lowest squares of an image may lie beyond it.
#[inline(always)]
fn needed<const R: usize>(pass: &Pass<'_>) -> usize {
    let Images { images, side, .. } = pass.input;
    let beyond = R == IN - 1 && images == 1 && !side.is_multiple_of(OUT);
    if beyond { pass.count - side.div_ceil(OUT) } else { pass.count }
}

#[inline(always)]
fn ask<V: Vector>(ahead: Option<[&[Lane; WIDTH]; TAPS]>, channel: usize) {
    for lanes in ahead.iter().flatten() {
        V::prefetch_far(&lanes[channel]);
    }
}

/// The weights of row `R` of points from one channel, without the transform's scales: from each column of taps one sum, and from those
/// three the six.
#[inline(always)]
fn weights<V: Vector, const R: usize>(taps: &[&[Lane; WIDTH]; TAPS * TAPS], channel: usize) -> [V; IN] {
    let mut sums = [V::zero(); TAPS];
    for right in 0..TAPS {
        let mut column = [V::zero(); TAPS];
        for down in 0..TAPS {
            column[down] = V::load(&taps[down * TAPS + right][channel]);
        }
        sums[right] = Weigh::bare::<V, R>(column);
    }
    Weigh::bare_once(sums)
}

/// Sums that grow by row of points, some lanes of inputs at a time.
trait ByRow {
    /// Lanes of inputs that go through all rows together.
    const TOGETHER: usize;

    /// What those lanes of inputs add to the points of row `R`; the first of them to nothing.
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>);

    /// What all `inputs` lanes of inputs add.
    #[inline(always)]
    fn all<V: Vector>(&self, inputs: usize) {
        for first in (0..inputs).step_by(Self::TOGETHER) {
            let inputs = first..(first + Self::TOGETHER).min(inputs);
            self.add::<V, 0>(inputs.clone());
            self.add::<V, 1>(inputs.clone());
            self.add::<V, 2>(inputs.clone());
            self.add::<V, 3>(inputs.clone());
            self.add::<V, 4>(inputs.clone());
            self.add::<V, 5>(inputs);
        }
    }
}

/// The sums of one lane of outputs, before the last transform, with weights that stay in registers.
///
/// Whoever makes one vouches that nobody else has that lane of the sums, and that nobody writes the transformed input.
struct Sums<'a> {
    few: Few<'a>,
    pass: Pass<'a>,
    output: usize,
}

impl Work for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.all::<V>(self.few.inputs);
    }
}

impl ByRow for Sums<'_> {
    /// Their taps stay in the first-level cache.
    const TOGETHER: usize = 2;

    #[inline(always)]
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        let count = needed::<R>(&self.pass);
        let tiles = count.div_ceil(V::SUMS / IN);
        for tile in 0..tiles {
            let squares = share(tile, tiles, count);
            macro_rules! pick {
                ($($count:literal),*) => {
                    match squares.len() {
                        $($count if $count * IN <= V::SUMS => {
                            self.tile::<V, R, $count>(inputs.clone(), squares.start);
                        })*
                        _ => unreachable!("no vector has tiles of more squares"),
                    }
                };
            }
            pick!(1, 2, 3, 4);
        }
    }
}

impl Sums<'_> {
    /// `M` squares.
    #[inline(always)]
    fn tile<V: Vector, const R: usize, const M: usize>(&self, inputs: Range<usize>, first: usize) {
        let Self { few, pass, output } = *self;
        let count = pass.count;
        // SAFETY: this item alone has this lane of the sums.
        let sums = unsafe { pass.scratch.part(pass.multiplied(R * IN, output), IN * count) };
        let mut found = [[V::zero(); M]; IN];
        if inputs.start > 0 {
            for point in 0..IN {
                for m in 0..M {
                    found[point][m] = V::load(&sums[point * count + first + m]);
                }
            }
        }
        for input in inputs.clone() {
            let (taps, ahead) = (few.taps(output, input), few.ahead::<R>(output, input, Self::TOGETHER));
            // SAFETY: in this phase nobody writes the transformed input.
            let entered = unsafe { pass.scratch.read(pass.entered(R * IN, input), IN * count) };
            let mut squares: [&[Lane; M]; IN] = [entered[first..].first_chunk().expect("as many"); IN];
            for point in 1..IN {
                squares[point] = entered[point * count + first..].first_chunk().expect("as many");
            }
            for channel in 0..WIDTH {
                ask::<V>(ahead, channel);
                let weights = weights::<V, R>(&taps, channel);
                for point in 0..IN {
                    for m in 0..M {
                        let value = V::splat(squares[point][m].0[channel]);
                        found[point][m] = value.mul_add(weights[point], found[point][m]);
                    }
                }
            }
        }
        // The weights were made without the scales of the transform, which here are cheaper.
        if inputs.end == few.inputs {
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
