//! Weight gradient by bfloat16 tiles: the pixels of a channel are adjacent, stored once for all nine taps of a 3x3
//! kernel.

use std::ops::Range;

use super::groups;
use crate::{
    halo::Halo,
    im2col::Im2col,
    layout::{Images, split_range},
    operand::LeftOperand,
    shared::Shared,
    simd::{
        BLOCK, ChannelBlock, Kernel, Vector,
        tiles::{self, Bf16Parts, TILE_ROWS, Tile, TileRegisters, TransposedOperands},
    },
    team::Worker,
};

/// Pixels that one instruction sums over.
const STEP: usize = 2 * BLOCK;

/// Blocks of split numbers that are processed for all sums together. Tests use a small value to get several chunks.
const CHUNK_BLOCKS: usize = if cfg!(test) { 8 << 10 } else { 3 << 19 } / size_of::<ChannelBlock>();

/// Minimum number of steps per chunk: each chunk reads and writes all sums.
const MIN_STEPS: usize = if cfg!(test) { 2 } else { 32 };

/// Some rows of inputs and gradients, split into bfloat16 parts.
#[derive(Clone, Copy)]
struct Chunk {
    parts: Bf16Parts,
    steps: usize,
    /// Blocks of a channel row, with its margin. It is odd, so that the rows do not map to the same cache sets.
    row: usize,
    inputs: usize,
    outputs: usize,
}

impl Chunk {
    /// Shape of the largest chunk.
    fn new(operand: &LeftOperand<'_>, parts: Bf16Parts, outputs: usize) -> Self {
        let inputs = operand.blocks();
        let total = operand.rows().div_ceil(STEP);
        let fits = (CHUNK_BLOCKS / ((inputs + outputs) * parts.count() * TILE_ROWS)).max(MIN_STEPS);
        // Chunks of nearly equal size.
        let steps = total.div_ceil(total.div_ceil(fits));
        let row = (steps + (2 * operand.margin()).div_ceil(STEP)) | 1;
        Self { parts, steps, row, inputs, outputs }
    }

    /// Length of one input block.
    fn input(&self) -> usize {
        self.parts.count() * TILE_ROWS * self.row
    }

    /// Length of one gradient block.
    fn output(&self) -> usize {
        self.parts.count() * TILE_ROWS * self.steps
    }

    fn blocks(&self) -> usize {
        self.inputs * self.input() + self.outputs * self.output()
    }

    /// Offset of a gradient block, after all inputs.
    fn output_at(&self, block: usize) -> usize {
        self.inputs * self.input() + block * self.output()
    }
}

/// Scratch blocks that [`weight_gradient`] needs.
pub(super) fn scratch(columns: Im2col<'_>, parts: Bf16Parts, outputs: usize) -> usize {
    Chunk::new(&LeftOperand::new(columns), parts, outputs).blocks()
}

/// [`weight_gradient`](super::weight_gradient) for a team whose level has tiles.
///
/// # Safety
/// The safety requirements of [`weight_gradient`](super::weight_gradient) apply.
pub(super) unsafe fn weight_gradient(
    worker: &Worker<'_>,
    columns: Im2col<'_>,
    parts: Bf16Parts,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    let operand = LeftOperand::new(columns);
    let chunk = Chunk::new(&operand, parts, gradient.channel_blocks());
    let tap_offsets = operand.tap_offsets();
    let (inputs, outputs) = (chunk.inputs.div_ceil(2), chunk.outputs.div_ceil(2));
    let (input_groups, output_groups) = groups(inputs, outputs, worker.threads());
    for first in (0..operand.rows()).step_by(chunk.steps * STEP) {
        worker.parallel_for(chunk.inputs + chunk.outputs, |block| match block.checked_sub(chunk.inputs) {
            // SAFETY of both slices: only this worker accesses this block of the scratch during the phase.
            None => transpose(operand, block, first, chunk, unsafe {
                scratch.slice_mut(block * chunk.input(), chunk.input())
            }),
            Some(output) => {
                let rows = unsafe { scratch.slice_mut(chunk.output_at(output), chunk.output()) };
                split(operand, gradient, output, first, chunk, rows);
            }
        });
        worker.parallel_for(input_groups * output_groups, |item| {
            let (input, output) = (item / output_groups, item % output_groups);
            worker.run(Products {
                chunk,
                // SAFETY: nothing writes the scratch in this phase.
                blocks: unsafe { scratch.slice(0, chunk.blocks()) },
                tap_offsets: &tap_offsets,
                sums,
                overwrite: first == 0,
                inputs: split_range(input, input_groups, inputs),
                outputs: split_range(output, output_groups, outputs),
            });
        });
    }
}

/// Writes the channel rows of one input block.
fn transpose(operand: LeftOperand<'_>, block: usize, first: usize, chunk: Chunk, rows: &mut [ChannelBlock]) {
    let end = operand.rows() + 2 * operand.margin();
    let (high, mut low) = chunk.parts.of(rows);
    let mut pixels = [ChannelBlock::default(); STEP];
    for column in 0..chunk.row {
        let start = end.min(first + column * STEP);
        let (there, beyond) = pixels.split_at_mut(STEP.min(end - start));
        operand.gather(block, start, there);
        beyond.fill(ChannelBlock::default());
        let low = low.as_mut().map(|low| &mut low[column..]);
        tiles::transpose(&pixels, chunk.row, &mut high[column..], low);
    }
}

/// Writes one gradient block for the rows starting at `first`; zeros for padding.
fn split(
    operand: LeftOperand<'_>,
    gradient: Images<'_>,
    block: usize,
    first: usize,
    chunk: Chunk,
    rows: &mut [ChannelBlock],
) {
    let mut pixels = [ChannelBlock::default(); STEP];
    for (step, rows) in rows.chunks_exact_mut(chunk.parts.count() * TILE_ROWS).enumerate() {
        let start = operand.rows().min(first + step * STEP);
        let (there, beyond) = pixels.split_at_mut(STEP.min(operand.rows() - start));
        match operand {
            LeftOperand::Im2col(_) => there.copy_from_slice(&gradient.plane(block)[start..][..there.len()]),
            LeftOperand::Halo(halo) => Halo { images: gradient }.gather(block, start + halo.margin(), there),
        }
        beyond.fill(ChannelBlock::default());
        tiles::split_weights(&pixels, chunk.parts, rows);
    }
}

/// Products of some pairs of input blocks with some pairs of gradient blocks.
struct Products<'a> {
    chunk: Chunk,
    blocks: &'a [ChannelBlock],
    tap_offsets: &'a [usize],
    sums: Shared<'a>,
    /// True to replace the sums instead of adding to them.
    overwrite: bool,
    inputs: Range<usize>,
    outputs: Range<usize>,
}

impl Kernel for Products<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { chunk, blocks, overwrite, .. } = self;
        let registers = TileRegisters::acquire();
        for output in self.outputs.clone() {
            let outputs = pair(output, chunk.outputs);
            for input in self.inputs.clone() {
                let inputs = pair(input, chunk.inputs);
                for (index, &place) in self.tap_offsets.iter().enumerate() {
                    let factors = TransposedOperands {
                        parts: chunk.parts,
                        inputs: inputs.map(|block| &blocks[block * chunk.input()..][..chunk.input()]),
                        place,
                        outputs: outputs.map(|block| &blocks[chunk.output_at(block)..][..chunk.output()]),
                    };
                    let sums = |output, input| self.sums(output, index * chunk.inputs + input);
                    let sums = outputs.map(|output| inputs.map(|input| sums(output, input)));
                    // SAFETY: only this item accesses these inputs and outputs during the phase.
                    unsafe { registers.multiply_transposed(factors, sums, overwrite) };
                }
            }
        }
    }
}

impl Products<'_> {
    /// Sums of one output block and one input block at one tap.
    fn sums(&self, output: usize, input: usize) -> *mut Tile {
        let start = (output * self.tap_offsets.len() * self.chunk.inputs + input) * BLOCK;
        // SAFETY: only this item accesses them.
        let sums = unsafe { self.sums.slice_mut(start, TILE_ROWS) };
        std::ptr::from_mut(sums.as_mut_array().expect("sixteen blocks"))
    }
}

/// The blocks of a pair. If the last pair has only one block, it is returned twice.
fn pair(pair: usize, blocks: usize) -> [usize; 2] {
    [2 * pair, (2 * pair + 1).min(blocks - 1)]
}
