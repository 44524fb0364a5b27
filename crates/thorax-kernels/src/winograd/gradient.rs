//! The gradient of the weights, by the transposes of the transforms.

use std::ops::Range;

use super::{
    Enter, IN, OUT, Order, POINTS, Pass, TAPS, Winograd, pitch, squares,
    transforms::{SpreadSums, Transform, WeighBack},
};
use crate::{
    conv::{ConvShape, Images},
    gradient::{Products, Rows},
    product::Finish,
    shared::Shared,
    simd::{Lane, Vector, WIDTH, Work},
    team::Member,
    train::scatter,
};

/// Lanes of scratch that [`weight_gradient`] needs for that many channels in lanes.
pub(crate) fn scratch(inputs: usize, outputs: usize, images: usize, side: usize) -> usize {
    let layer = Winograd { points: &[], inputs, outputs };
    layer.grids(layer.chunk(squares(images, side)))
}

/// The gradient of the weights `[outputs, inputs, 3, 3]`, by the transforms' transposes; every member of the team comes here.
///
/// `sums` takes what [`packed`](super::packed) says, whatever is in there.
///
/// # Safety
/// Nobody outside the team may have the sums or the scratch.
pub(crate) unsafe fn weight_gradient(
    member: &Member<'_>,
    input: Images<'_>,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    let (inputs, outputs) = (input.lanes.len() / input.pixels(), gradient.lanes.len() / gradient.pixels());
    let layer = Winograd { points: &[], inputs, outputs };
    let total = squares(input.images, input.side);
    let chunk = layer.chunk(total);
    for first in (0..total).step_by(chunk) {
        let count = chunk.min(total - first);
        let finish = Finish::plain(scratch, 0);
        let pass = Pass { layer, input, first, count, scratch, offset: 0, order: Order::Points, finish: &finish };
        pass.by_lane(member, inputs, |lane, squares| member.run(Enter { pass, lane, squares }));
        pass.by_lane(member, outputs, |lane, squares| member.run(Spread { pass, gradient, lane, squares }));
        let panels = outputs.div_ceil(member.level().gradient_tile().1);
        member.each(POINTS * panels, |item| {
            let (point, panel) = (item / panels, item % panels);
            // SAFETY: in this phase nobody writes the scratch.
            let (values, gradients) = unsafe {
                (
                    scratch.read(pass.entered(point, 0), inputs * count),
                    scratch.read(pass.multiplied(point, 0), outputs * count),
                )
            };
            member.run(Products {
                inputs: Rows { lanes: values, stride: count, count: inputs },
                outputs: Rows { lanes: gradients, stride: count, count: outputs },
                pixels: count,
                sums,
                fresh: first == 0,
                offset: point * pitch(inputs * WIDTH * outputs),
                input_lanes: 0..inputs,
                panels: panel..panel + 1,
            });
        });
    }
}

/// From the 36 sums of each input and output to the gradients of the weights of one lane of outputs.
pub(crate) struct Unpack<'a> {
    pub(crate) sums: &'a [Lane],
    pub(crate) shape: ConvShape,
    pub(crate) output: usize,
    /// Rows of sixteen outputs.
    pub(crate) rows: &'a mut [f32],
}

impl Work for Unpack<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sums, shape, output, rows } = self;
        let (padded, outputs) = (shape.inputs.next_multiple_of(WIDTH), shape.outputs.div_ceil(WIDTH));
        for input in 0..shape.inputs {
            let mut values = [[V::zero(); IN]; IN];
            for point in 0..POINTS {
                values[point / IN][point % IN] =
                    V::load(&sums[point * pitch(outputs * padded) + output * padded + input]);
            }
            let taps = WeighBack::twice(values);
            for tap in 0..TAPS * TAPS {
                let mut lane = Lane::default();
                taps[tap / TAPS][tap % TAPS].store(&mut lane);
                scatter(rows, shape, input * TAPS * TAPS + tap, &lane);
            }
        }
    }
}

/// The gradients of the outputs for the weights' gradient, for some squares of one lane of channels.
struct Spread<'a> {
    pass: Pass<'a>,
    gradient: Images<'a>,
    lane: usize,
    squares: Range<usize>,
}

impl Work for Spread<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, gradient, lane, squares } = self;
        let (side, plane) = (gradient.side, gradient.plane(lane));
        for square in squares {
            let (image, top, left) = pass.place(square);
            let mut values = [[V::zero(); OUT]; OUT];
            for (y, row) in values.iter_mut().enumerate().take(side - top) {
                let line = &plane[(image * side + top + y) * side..][left..side];
                for (value, lane) in row.iter_mut().zip(line) {
                    *value = V::load(lane);
                }
            }
            let values = SpreadSums::twice(values);
            for point in 0..POINTS {
                let start = pass.multiplied(point, lane) + square;
                // SAFETY: this member alone has this lane of the transformed gradient until the phase is over.
                let place = unsafe { pass.scratch.part(start, 1) };
                values[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}
