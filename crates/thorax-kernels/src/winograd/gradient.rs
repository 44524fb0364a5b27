//! Winograd weight gradient: the transposed transforms.

use std::ops::Range;

use super::{
    IN, InputTransform, OUT, Order, POINTS, Pass, TAPS, Winograd, pitch, tiles,
    transforms::{KernelMatrixTransposed, OutputMatrixTransposed, Transform},
};
use crate::{
    layout::{ConvShape, Images},
    matmul::Epilogue,
    pack::scatter,
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
    team::Worker,
    weight_gradient::{Products, Rows},
};

/// Scratch blocks that [`weight_gradient`] needs for that many input and output blocks.
pub(crate) fn scratch(inputs: usize, outputs: usize, images: usize, side: usize) -> usize {
    let layer = Winograd { points: &[], inputs, outputs };
    layer.scratch_len(layer.chunk(tiles(images, side)))
}

/// Computes the gradient of the weights at the 36 points. Every worker of the team must call it.
///
/// `sums` has the length that [`packed`](super::packed) returns; its contents are replaced.
///
/// # Safety
/// No thread outside the team may access the sums or the scratch.
pub(crate) unsafe fn weight_gradient(
    worker: &Worker<'_>,
    input: Images<'_>,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    let (inputs, outputs) = (input.blocks.len() / input.pixels(), gradient.blocks.len() / gradient.pixels());
    let layer = Winograd { points: &[], inputs, outputs };
    let total = tiles(input.images, input.side);
    let chunk = layer.chunk(total);
    for first in (0..total).step_by(chunk) {
        let count = chunk.min(total - first);
        let epilogue = Epilogue::plain(scratch, 0);
        let pass = Pass { layer, input, first, count, scratch, offset: 0, order: Order::Points, epilogue: &epilogue };
        pass.by_block(worker, inputs, |block, tiles| worker.run(InputTransform { pass, block, tiles }));
        pass.by_block(worker, outputs, |block, tiles| worker.run(GradientTransform { pass, gradient, block, tiles }));
        let panels = outputs.div_ceil(worker.level().gradient_tile().1);
        worker.parallel_for(POINTS * panels, |item| {
            let (point, panel) = (item / panels, item % panels);
            // SAFETY: nothing writes the scratch in this phase.
            let (values, gradients) = unsafe {
                (
                    scratch.slice(pass.transformed_input(point, 0), inputs * count),
                    scratch.slice(pass.transformed_output(point, 0), outputs * count),
                )
            };
            worker.run(Products {
                inputs: Rows { blocks: values, stride: count, count: inputs },
                outputs: Rows { blocks: gradients, stride: count, count: outputs },
                pixels: count,
                sums,
                overwrite: first == 0,
                offset: point * pitch(inputs * BLOCK * outputs),
                input_blocks: 0..inputs,
                panels: panel..panel + 1,
            });
        });
    }
}

/// Transforms the sums at the 36 points to the weight gradients of one output block.
pub(crate) struct Unpack<'a> {
    pub(crate) sums: &'a [ChannelBlock],
    pub(crate) shape: ConvShape,
    pub(crate) output: usize,
    /// Rows of sixteen outputs.
    pub(crate) rows: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sums, shape, output, rows } = self;
        let (padded, outputs) = (shape.inputs.next_multiple_of(BLOCK), shape.outputs.div_ceil(BLOCK));
        for input in 0..shape.inputs {
            let mut values = [[V::zero(); IN]; IN];
            for point in 0..POINTS {
                values[point / IN][point % IN] =
                    V::load(&sums[point * pitch(outputs * padded) + output * padded + input]);
            }
            let taps = KernelMatrixTransposed::apply_2d(values);
            for tap in 0..TAPS * TAPS {
                let mut block = ChannelBlock::default();
                taps[tap / TAPS][tap % TAPS].store(&mut block);
                scatter(rows, shape, input * TAPS * TAPS + tap, &block);
            }
        }
    }
}

/// Transforms the output gradient of some tiles of one channel block.
struct GradientTransform<'a> {
    pass: Pass<'a>,
    gradient: Images<'a>,
    block: usize,
    tiles: Range<usize>,
}

impl Kernel for GradientTransform<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, gradient, block, tiles } = self;
        let (side, plane) = (gradient.side, gradient.plane(block));
        for tile in tiles {
            let (image, top, left) = pass.place(tile);
            let mut values = [[V::zero(); OUT]; OUT];
            for (y, row) in values.iter_mut().enumerate().take(side - top) {
                let line = &plane[(image * side + top + y) * side..][left..side];
                for (value, block) in row.iter_mut().zip(line) {
                    *value = V::load(block);
                }
            }
            let values = OutputMatrixTransposed::apply_2d(values);
            for point in 0..POINTS {
                let start = pass.transformed_output(point, block) + tile;
                // SAFETY: only this worker accesses this block of the transformed gradient during the phase.
                let place = unsafe { pass.scratch.slice_mut(start, 1) };
                values[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}
