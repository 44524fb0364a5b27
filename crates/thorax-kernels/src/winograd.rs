//! 3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin & Gray 2015, arXiv:1509.09308).
//!
//! The image is cut into squares of 4x4 outputs. Each looks at 6x6 inputs; 36 fixed sums of those, times 36 fixed sums of the 3x3
//! weights, channel by channel, are 36 fixed sums of the outputs. So the work is 36 matrix products of squares by channels.

mod few;
mod gradient;
mod transforms;

pub(super) use few::{Few, are_few, pays};
pub(super) use gradient::{Unpack, scratch as gradient_scratch, weight_gradient};

use std::ops::Range;

use super::{
    conv::{ConvShape, Images},
    pack::{Source, Weights},
    product::{Finish, Pixels, Tiles, share},
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::{Member, Team},
};
use transforms::{EnterSums, LeaveSums, Transform, Weigh};

/// Side of the square of outputs.
const OUT: usize = 4;
/// Side of what it looks at.
const IN: usize = 6;
/// Side of the kernel.
const TAPS: usize = 3;
/// Matrix products.
const POINTS: usize = IN * IN;

/// Bytes of transformed inputs and outputs that a member holds when it works alone, in lanes: most of a second-level cache.
const HELD: usize = (896 << 10) / size_of::<Lane>();

/// The same for all members together where they share the squares.
const SHARED: usize = (3 << 19) / size_of::<Lane>();

/// Bytes of transformed weights that each member may read for itself.
const OWN_WEIGHTS: usize = 3 << 20;

/// Transformed weights of one convolution: a packed matrix `[inputs, outputs]` for each of the 36 points.
#[derive(Clone, Copy)]
pub(super) struct Winograd<'a> {
    pub(super) points: &'a [Lane],
    /// Inputs in lanes.
    pub(super) inputs: usize,
    /// Outputs in lanes.
    pub(super) outputs: usize,
}

/// Whether it is the way to do that convolution. Tiles multiply faster than it saves multiplications.
pub(super) fn suits(level: Level, shape: ConvShape) -> bool {
    (shape.kernel, shape.stride, shape.padding) == (3, 1, 1) && level.parts().is_none()
}

/// Lanes of the transformed weights, or of their gradient.
pub(super) fn packed(source: &Source<'_>) -> usize {
    let (inputs, outputs) = source.channels();
    of_points(inputs.next_multiple_of(WIDTH) * outputs.div_ceil(WIDTH))
}

/// Transforms and packs weights, one lane of outputs an item; every member of the team comes here.
///
/// # Safety
/// Nobody outside the team may have `packed`.
pub(super) unsafe fn pack(member: &Member<'_>, source: Source<'_>, packed: Shared<'_>) {
    let (_, outputs) = source.channels();
    member.each(outputs.div_ceil(WIDTH), |output| member.run(Pack { source, output, packed }));
}

/// The weights of one lane of outputs.
struct Pack<'a> {
    source: Source<'a>,
    output: usize,
    packed: Shared<'a>,
}

impl Work for Pack<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { source, output, packed } = self;
        let (inputs, outputs) = source.channels();
        let (padded, outputs) = (inputs.next_multiple_of(WIDTH), outputs.div_ceil(WIDTH));
        for input in 0..inputs {
            let mut taps = [[V::zero(); TAPS]; TAPS];
            for place in 0..TAPS * TAPS {
                taps[place / TAPS][place % TAPS] = V::load(&source.lane(input, place, output));
            }
            let points = Weigh::twice(taps);
            for point in 0..POINTS {
                // SAFETY: this member alone has this lane of outputs until the phase is over.
                let place = unsafe { packed.part(point * pitch(outputs * padded) + output * padded + input, 1) };
                points[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}

impl Winograd<'_> {
    /// What goes with these weights; the points are still to come.
    pub(super) fn of(source: &Source<'_>) -> Self {
        let (inputs, outputs) = source.channels();
        Self { points: &[], inputs: inputs.div_ceil(WIDTH), outputs: outputs.div_ceil(WIDTH) }
    }

    /// Lanes of scratch that a pass needs.
    pub(super) fn scratch(&self, team: &Team, images: usize, side: usize) -> usize {
        let total = squares(images, side);
        match self.apart(team.threads(), total) {
            Some(chunks) => team.threads() * self.grids(total.div_ceil(chunks)),
            None => self.grids(self.chunk(total)),
        }
    }

    /// Lanes of scratch of one square.
    fn square(&self) -> usize {
        POINTS * (self.inputs + self.outputs)
    }

    /// Lanes of scratch of so many squares.
    fn grids(&self, count: usize) -> usize {
        of_points(self.inputs * count) + of_points(self.outputs * count)
    }

    /// Into how many chunks the squares are cut where each member takes some through all three phases alone, all in its own cache.
    /// `None` where the weights are too many to be read by each of them, or the squares of a chunk too few to be worth it.
    fn apart(&self, threads: usize, total: usize) -> Option<usize> {
        let bytes = POINTS * self.inputs * WIDTH * self.outputs * size_of::<Lane>();
        let fits = (HELD / self.square()).max(1);
        let chunks = total.div_ceil(fits).next_multiple_of(threads);
        (bytes <= OWN_WEIGHTS && total >= 16 * chunks).then_some(chunks)
    }

    /// How many squares go through the three phases together where all members work on the same ones.
    fn chunk(&self, total: usize) -> usize {
        let fits = SHARED / self.square();
        let chunks = total.div_ceil(fits.max(32));
        total.div_ceil(chunks)
    }

    /// One pass; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have the output or the scratch.
    pub(super) unsafe fn run(self, member: &Member<'_>, input: Images<'_>, scratch: Shared<'_>, finish: &Finish<'_>) {
        let total = squares(input.images, input.side);
        let panels = self.outputs.div_ceil(member.level().tile().1);
        let pass = |squares: Range<usize>, offset| Pass {
            layer: self,
            input,
            first: squares.start,
            count: squares.len(),
            scratch,
            offset,
            order: Order::Points,
            finish,
        };
        if let Some(chunks) = self.apart(member.threads(), total) {
            let size = self.grids(total.div_ceil(chunks));
            return member.each(chunks, |chunk| {
                let pass = pass(share(chunk, chunks, total), member.index() * size);
                (0..self.inputs).for_each(|lane| member.run(Enter { pass, lane, squares: 0..pass.count }));
                (0..POINTS).for_each(|point| pass.multiply(member, point, 0..panels));
                (0..self.outputs).for_each(|lane| member.run(Leave { pass, lane, squares: 0..pass.count }));
            });
        }
        let chunk = self.chunk(total);
        for first in (0..total).step_by(chunk) {
            let pass = pass(first..(first + chunk).min(total), 0);
            pass.by_lane(member, self.inputs, |lane, squares| member.run(Enter { pass, lane, squares }));
            member.each(POINTS * panels, |item| {
                let panel = item % panels;
                pass.multiply(member, item / panels, panel..panel + 1);
            });
            pass.by_lane(member, self.outputs, |lane, squares| member.run(Leave { pass, lane, squares }));
        }
    }

    fn point(&self, point: usize) -> Weights<'_> {
        let length = self.inputs * WIDTH * self.outputs;
        Weights::plain(&self.points[point * pitch(length)..][..length], self.inputs, self.outputs)
    }
}

/// How far apart the matrices of two points lie that have so many lanes: an odd number of them. A member writes and reads the same
/// place of all 36 one after the other; with a power of two between them all would want the same few places of a cache.
#[inline(always)]
fn pitch(lanes: usize) -> usize {
    lanes | 1
}

/// Lanes of 36 matrices of so many.
pub(super) fn of_points(lanes: usize) -> usize {
    POINTS * pitch(lanes)
}

/// Squares of outputs of all images; those at the right and lower edge may reach beyond.
fn squares(images: usize, side: usize) -> usize {
    images * side.div_ceil(OUT) * side.div_ceil(OUT)
}

/// Some squares on their way through the three phases.
#[derive(Clone, Copy)]
struct Pass<'a> {
    layer: Winograd<'a>,
    input: Images<'a>,
    first: usize,
    count: usize,
    scratch: Shared<'a>,
    /// Where its part of the scratch begins.
    offset: usize,
    order: Order,
    finish: &'a Finish<'a>,
}

/// How transformed numbers lie in the scratch.
#[derive(Clone, Copy)]
enum Order {
    /// `[point, lane, square]`: a point's are a matrix.
    Points,
    /// `[lane, point, square]`: a lane's are side by side.
    Lanes,
}

impl Pass<'_> {
    /// One phase over lanes of channels and, where they are few, parts of the squares.
    fn by_lane(&self, member: &Member<'_>, lanes: usize, work: impl Fn(usize, Range<usize>)) {
        let parts = (4 * member.threads()).div_ceil(lanes).min(self.count);
        member.each(lanes * parts, |item| work(item / parts, share(item % parts, parts, self.count)));
    }

    /// Second phase: the matrix product of one point, for some panels of outputs, which no other member may have.
    fn multiply(&self, member: &Member<'_>, point: usize, panels: Range<usize>) {
        // SAFETY: in this phase nobody writes the transformed input.
        let entered = unsafe { self.scratch.read(self.entered(point, 0), self.layer.inputs * self.count) };
        member.run(Tiles {
            pixels: Pixels { lanes: entered, stride: self.count },
            count: self.count,
            first: self.multiplied(point, 0),
            weights: self.layer.point(point),
            finish: &Finish::plain(self.scratch, self.count),
            panels,
        });
    }

    /// Where point and lane of the transformed input begin.
    #[inline(always)]
    fn entered(&self, point: usize, lane: usize) -> usize {
        self.offset + self.row(point, lane, self.layer.inputs)
    }

    /// Where point and lane of the transformed output begin, after all of the input.
    #[inline(always)]
    fn multiplied(&self, point: usize, lane: usize) -> usize {
        self.offset + of_points(self.layer.inputs * self.count) + self.row(point, lane, self.layer.outputs)
    }

    /// Where they begin in their part.
    #[inline(always)]
    fn row(&self, point: usize, lane: usize, lanes: usize) -> usize {
        match self.order {
            Order::Points => point * pitch(lanes * self.count) + lane * self.count,
            Order::Lanes => (lane * POINTS + point) * self.count,
        }
    }

    /// Image, and the first row and column of outputs, of a square of this pass.
    #[inline(always)]
    fn place(&self, square: usize) -> (usize, usize, usize) {
        let across = self.input.side.div_ceil(OUT);
        let square = self.first + square;
        (square / (across * across), square / across % across * OUT, square % across * OUT)
    }
}

/// First phase: the sums of the inputs, for some squares of one lane of channels.
struct Enter<'a> {
    pass: Pass<'a>,
    lane: usize,
    squares: Range<usize>,
}

impl Work for Enter<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, lane, squares } = self;
        let (side, plane) = (pass.input.side, pass.input.plane(lane));
        for square in squares {
            let (image, top, left) = pass.place(square);
            let mut values = [[V::zero(); IN]; IN];
            for (y, row) in values.iter_mut().enumerate() {
                // One row above the outputs and one below; outside of the image are zeros.
                let y = (top + y).wrapping_sub(1);
                if y < side {
                    let line = &plane[(image * side + y) * side..][..side];
                    for (x, value) in row.iter_mut().enumerate() {
                        if let Some(lane) = line.get((left + x).wrapping_sub(1)) {
                            *value = V::load(lane);
                        }
                    }
                }
            }
            let values = EnterSums::twice(values);
            for point in 0..POINTS {
                // SAFETY: this member alone has this lane of the transformed input until the phase is over.
                let place = unsafe { pass.scratch.part(pass.entered(point, lane) + square, 1) };
                values[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}

/// Third phase: the outputs from their sums, for some squares of one lane of channels.
struct Leave<'a> {
    pass: Pass<'a>,
    lane: usize,
    squares: Range<usize>,
}

impl Work for Leave<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, lane, squares } = self;
        let (side, finish) = (pass.input.side, pass.finish);
        let bias = finish.bias::<V>(lane);
        for square in squares {
            let (image, top, left) = pass.place(square);
            let mut values = [[V::zero(); IN]; IN];
            for point in 0..POINTS {
                // SAFETY: nobody writes this lane's sums any more.
                let sum = unsafe { pass.scratch.read(pass.multiplied(point, lane) + square, 1) };
                values[point / IN][point % IN] = V::load(&sum[0]);
            }
            let outputs = LeaveSums::twice(values);
            for (y, row) in outputs.iter().enumerate().take(side - top) {
                let start = lane * finish.stride + (image * side + top + y) * side + left;
                let length = OUT.min(side - left);
                // SAFETY: this member alone has this lane of the output; nobody outside the team has any.
                let line = unsafe { finish.output.part(start, length) };
                for (x, (lane, &value)) in line.iter_mut().zip(row).enumerate() {
                    finish.write(value.add(bias), start + x, lane);
                }
            }
        }
    }
}
