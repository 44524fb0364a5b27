//! Packing of weights into the layout that the products read.

use super::{
    layout::ConvShape,
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Level},
    team::Worker,
};

/// A packed matrix `[inputs, outputs]`: for each output block and each input, sixteen weights.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) blocks: &'a [ChannelBlock],
    /// Input blocks. Weights beyond the last input are zero.
    pub(super) inputs: usize,
    /// Output blocks.
    pub(super) outputs: usize,
    /// Length of the panel of one output block.
    pub(super) panel: usize,
}

impl<'a> Weights<'a> {
    /// Weights packed for that level. `inputs` is rounded up to the number of input blocks that a product of that
    /// level takes at a time.
    pub(super) fn new(level: Level, blocks: &'a [ChannelBlock], inputs: usize, outputs: usize) -> Self {
        let inputs = inputs.next_multiple_of(level.depth());
        Self { blocks, inputs, outputs, panel: level.panel(inputs) }
    }

    /// Weights in single precision.
    pub(super) fn plain(blocks: &'a [ChannelBlock], inputs: usize, outputs: usize) -> Self {
        Self { blocks, inputs, outputs, panel: inputs * BLOCK }
    }

    /// Length of all panels.
    pub(super) fn packed(&self) -> usize {
        self.panel * self.outputs
    }

    /// Panels of `count` output blocks starting at `first`.
    #[inline(always)]
    pub(super) fn panels(&self, first: usize, count: usize) -> &'a [ChannelBlock] {
        let panel = self.panel;
        &self.blocks[first * panel..(first + count) * panel]
    }
}

/// Direction in which the weights of a convolution are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From input to output.
    Forward,
    /// From the gradient of the output to that of the input: inputs and outputs are swapped, and the kernel is
    /// rotated by 180 degrees.
    Backward,
}

/// Weights `[outputs, inputs, kernel, kernel]` in PyTorch's order, seen in one direction.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    weights: &'a [f32],
    shape: ConvShape,
    direction: Direction,
}

impl<'a> Source<'a> {
    /// # Panics
    /// If the number of weights does not match the shape.
    pub(super) fn new(shape: ConvShape, weights: &'a [f32], direction: Direction) -> Self {
        assert_eq!(weights.len(), shape.weights(), "number of weights of {shape:?}");
        Self { weights, shape, direction }
    }

    /// Input and output channels of the product in this direction.
    pub(super) fn channels(&self) -> (usize, usize) {
        match self.direction {
            Direction::Forward => (self.shape.inputs, self.shape.outputs),
            Direction::Backward => (self.shape.outputs, self.shape.inputs),
        }
    }

    /// The convolution that a product with these weights performs.
    ///
    /// # Panics
    /// If the direction is backward and the stride is not 1.
    pub(super) fn convolution(&self) -> ConvShape {
        let (inputs, outputs) = self.channels();
        let ConvShape { kernel, stride, padding, .. } = self.shape;
        match self.direction {
            Direction::Forward => self.shape,
            Direction::Backward => {
                assert_eq!(stride, 1, "the input gradient of a strided convolution is not one convolution");
                ConvShape { inputs, outputs, kernel, stride, padding: kernel - 1 - padding }
            }
        }
    }

    /// The matrix that [`Source::pack`] packed for that level.
    pub(super) fn matrix<'b>(&self, level: Level, blocks: &'b [ChannelBlock]) -> Weights<'b> {
        let (inputs, outputs) = self.channels();
        Weights::new(level, blocks, self.area() * inputs.div_ceil(BLOCK), outputs.div_ceil(BLOCK))
    }

    fn area(&self) -> usize {
        self.shape.kernel * self.shape.kernel
    }

    /// The sixteen weights of one input, one tap and one output block.
    #[inline(always)]
    pub(super) fn block(&self, input: usize, tap: usize, output_block: usize) -> ChannelBlock {
        let (_, outputs) = self.channels();
        let area = self.area();
        let row = self.shape.inputs * area;
        let first = output_block * BLOCK;
        let (start, step) = match self.direction {
            Direction::Forward => (first * row + input * area + tap, row),
            Direction::Backward => (input * row + first * area + (area - 1 - tap), area),
        };
        let mut block = ChannelBlock::default();
        for (index, weight) in block.0.iter_mut().enumerate().take(outputs - first) {
            *weight = self.weights[start + index * step];
        }
        block
    }

    /// Length of the packed matrix `[taps * inputs, outputs]`.
    pub(super) fn packed(&self, level: Level) -> usize {
        self.matrix(level, &[]).packed()
    }

    /// Packs the matrix into `packed`, which must be zero where packing leaves gaps. One item per output block; every
    /// worker of the team must call it.
    ///
    /// # Safety
    /// No thread outside the team may access `packed`.
    pub(super) unsafe fn pack(&self, worker: &Worker<'_>, packed: Shared<'_>) {
        let (inputs, _) = self.channels();
        let padded = inputs.next_multiple_of(BLOCK);
        let matrix = self.matrix(worker.level(), &[]);
        worker.parallel_for(matrix.outputs, |output| {
            // SAFETY: only this worker accesses this panel during the phase.
            let panel = unsafe { packed.slice_mut(output * matrix.panel, matrix.panel) };
            worker.level().pack(panel, |panel| {
                // In this order, because all taps of one input are adjacent in memory.
                for input in 0..inputs {
                    for tap in 0..self.area() {
                        panel[tap * padded + input] = self.block(input, tap, output);
                    }
                }
            });
        });
    }
}

/// Bias of each output, in blocks.
pub(super) fn bias_blocks(shape: ConvShape, bias: &[f32]) -> Vec<ChannelBlock> {
    assert_eq!(bias.len(), shape.outputs, "there must be one bias per output");
    let mut blocks = vec![ChannelBlock::default(); shape.outputs.div_ceil(BLOCK)];
    for (block, bias) in blocks.iter_mut().zip(bias.chunks(BLOCK)) {
        block.0[..bias.len()].copy_from_slice(bias);
    }
    blocks
}

/// Writes one block of outputs to their sixteen rows of weights.
#[inline(always)]
pub(super) fn scatter(rows: &mut [f32], shape: ConvShape, column: usize, block: &ChannelBlock) {
    let row = shape.weights() / shape.outputs;
    for (row, value) in rows.chunks_exact_mut(row).zip(block.0) {
        row[column] = value;
    }
}
