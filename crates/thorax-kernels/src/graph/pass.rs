//! One forward pass of a batch through a graph.

use std::ops::Range;

use super::{CompiledOp, Graph, OpKind, SlotShape, compile::ConvMethod};
use crate::{
    im2col::Im2col,
    layout::Images,
    matmul::{self, Epilogue},
    pool::{padding, pooled_side},
    shared::Shared,
    simd::{ChannelBlock, Kernel, Vector},
    stem::PaddedPlanes,
    subsample::subsample_plane,
    team::Worker,
};

/// Buffers of one call.
pub(super) struct Pass<'a> {
    pub(super) graph: &'a Graph,
    pub(super) images: usize,
    pub(super) slots: Vec<Shared<'a>>,
    pub(super) scratch: Shared<'a>,
}

impl Pass<'_> {
    /// # Safety
    /// No thread outside the team may access the buffers.
    pub(super) unsafe fn run(&self, worker: &Worker<'_>, planes: PaddedPlanes<'_>, means: Shared<'_>) {
        let columns = Im2col::Stem(planes);
        let epilogue = Epilogue {
            bias: Some(&self.graph.stem.bias),
            relu: true,
            ..Epilogue::plain(self.slots[0], columns.pixels())
        };
        // SAFETY: the caller guarantees exclusive buffers, and no op writes a slot that it reads.
        unsafe {
            matmul::matmul(worker, columns, self.graph.stem.weights(worker.level()), self.scratch, &epilogue);
            for op in &self.graph.ops {
                self.op(worker, op);
            }
            let (result, grid) = (self.graph.result, self.graph.grid);
            let images = self.activation(result);
            worker.parallel_for(result.blocks, |block| {
                let count = images.images * grid * grid;
                let means = means.slice_mut(block * count, count);
                worker.run(GridMeanKernel { plane: images.plane(block), side: result.side, grid, means });
            });
        }
    }

    /// # Safety
    /// No thread may write the slot while the result is used.
    unsafe fn activation(&self, shape: SlotShape) -> Images<'_> {
        // SAFETY: the caller guarantees that nothing writes the slot.
        let blocks = unsafe { self.slots[shape.slot.0].slice(0, shape.size() * self.images) };
        Images { blocks, images: self.images, side: shape.side }
    }

    /// # Safety
    /// No thread outside the team may access the buffers.
    unsafe fn op(&self, worker: &Worker<'_>, op: &CompiledOp) {
        let output = self.slots[op.output.slot.0];
        let pixels = self.images * op.output.side.pow(2);
        // SAFETY: the caller guarantees exclusive buffers, and compilation rejects an op that writes a slot that it
        // reads.
        unsafe {
            let input = self.activation(op.input);
            match &op.work {
                OpKind::MaxPool { window } => self.planes(worker, op, |plane, pooled| {
                    worker.run(MaxPool { plane, side: input.side, window: *window, pooled });
                }),
                OpKind::Subsample => {
                    self.planes(worker, op, |plane, output| subsample_plane(plane, input.side, output))
                }
                OpKind::Conv { convolution, residual, relu } => {
                    let residual = residual.map(|slot| self.slots[slot.0].slice(0, op.output.size() * self.images));
                    let bias = Some(convolution.bias.as_slice());
                    let epilogue = Epilogue { bias, residual, relu: *relu, output, stride: pixels };
                    match convolution.method(worker.level(), self.images, op) {
                        ConvMethod::Winograd(winograd) => winograd.run(worker, input, self.scratch, &epilogue),
                        ConvMethod::OnTheFly(winograd) => winograd.run(worker, input, self.scratch, &epilogue),
                        ConvMethod::Direct(weights) => {
                            let columns = convolution.columns(input);
                            matmul::matmul(worker, columns, weights, self.scratch, &epilogue);
                        }
                    }
                }
            }
        }
    }

    /// Runs one phase over each channel block of each image. `work` gets the input plane and the output plane.
    ///
    /// # Safety
    /// No thread outside the team may access the buffers.
    unsafe fn planes(&self, worker: &Worker<'_>, op: &CompiledOp, work: impl Fn(&[ChannelBlock], &mut [ChannelBlock])) {
        let (area, written) = (op.input.side.pow(2), op.output.side.pow(2));
        let output = self.slots[op.output.slot.0];
        worker.parallel_for(op.output.blocks * self.images, |item| {
            // SAFETY: the caller guarantees exclusive buffers, and compilation rejects an op that writes a slot that
            // it reads; only this worker processes this item.
            unsafe {
                let plane = &self.activation(op.input).blocks[item * area..][..area];
                work(plane, output.slice_mut(item * written, written));
            }
        });
    }
}

/// Mean of each grid cell of each image, for one channel block.
struct GridMeanKernel<'a> {
    plane: &'a [ChannelBlock],
    side: usize,
    /// Cells per side.
    grid: usize,
    means: &'a mut [ChannelBlock],
}

impl Kernel for GridMeanKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { plane, side, grid, means } = self;
        let cells = means.chunks_exact_mut(grid * grid).zip(plane.chunks_exact(side * side));
        for (means, image) in cells {
            for (cell, mean) in means.iter_mut().enumerate() {
                let (rows, columns) = (span(cell / grid, side, grid), span(cell % grid, side, grid));
                let share = V::splat(1.0 / (rows.len() * columns.len()) as f32);
                let mut sum = V::zero();
                for y in rows {
                    for block in &image[y * side..][columns.clone()] {
                        sum = sum.add(V::load(block));
                    }
                }
                share.mul_add(sum, V::zero()).store(mean);
            }
        }
    }
}

/// Range of pixels that a cell covers along one side.
#[inline(always)]
fn span(cell: usize, side: usize, grid: usize) -> Range<usize> {
    cell * side / grid..((cell + 1) * side).div_ceil(grid)
}

/// Max pooling of one channel block of one image. Padding counts as zero, which is the minimum after a ReLU.
struct MaxPool<'a> {
    plane: &'a [ChannelBlock],
    side: usize,
    window: usize,
    pooled: &'a mut [ChannelBlock],
}

impl Kernel for MaxPool<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (side, padding) = (pooled_side(self.side, self.window), padding(self.window));
        let near =
            |place: usize| (2 * place).max(padding) - padding..(2 * place + self.window - padding).min(self.side);
        for (index, pooled) in self.pooled.iter_mut().enumerate() {
            let mut maximum = V::zero();
            for y in near(index / side) {
                for block in &self.plane[y * self.side..][near(index % side)] {
                    maximum = maximum.max(V::load(block));
                }
            }
            maximum.store(pooled);
        }
    }
}
