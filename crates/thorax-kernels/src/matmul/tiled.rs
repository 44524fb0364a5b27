//! Matrix product by bfloat16 [`tiles`](crate::simd::tiles): a chunk of pixels is split into bfloat16 parts, two
//! channel blocks at a time, and multiplied by all weight panels, which were split when they were packed.

mod operand;

use std::ops::Range;

use super::{Epilogue, Partition};
use crate::{
    im2col::Im2col,
    layout::split_range,
    operand::LeftOperand,
    pack::Weights,
    shared::Shared,
    simd::{
        ChannelBlock, Kernel, Vector, exceeds_cache,
        tiles::{Bf16Parts, TILE_ROWS, TileOperand, TileRegisters, TileSums},
    },
    team::Worker,
};
use operand::PairedOperand;

/// Rows of two tiles.
const TILE: usize = 2 * TILE_ROWS;

/// Output blocks of two tiles.
const PANEL: usize = 2;

/// Scratch blocks that [`matmul`] needs.
pub(super) fn scratch(columns: Im2col<'_>, parts: Bf16Parts, outputs: usize, threads: usize) -> usize {
    PairedOperand { operand: LeftOperand::new(columns), parts, outputs }.scratch(threads)
}

/// [`matmul`](super::matmul) for a team whose level has tiles.
///
/// # Safety
/// The safety requirements of [`matmul`](super::matmul) apply.
pub(super) unsafe fn matmul(
    worker: &Worker<'_>,
    columns: Im2col<'_>,
    parts: Bf16Parts,
    weights: Weights<'_>,
    scratch: Shared<'_>,
    epilogue: &Epilogue<'_>,
) {
    let operand = LeftOperand::new(columns);
    let (pairs, total) = (PairedOperand { operand, parts, outputs: weights.outputs }, operand.rows());
    let tap_offsets = operand.tap_offsets();
    let panels = weights.outputs.div_ceil(PANEL);
    let run = |blocks: &[ChannelBlock], rows: Range<usize>, panels: Range<usize>| {
        let left = TileOperand {
            blocks,
            parts,
            stride: pairs.stride(rows.len()),
            pairs: pairs.count(),
            tap_offsets: &tap_offsets,
        };
        worker.run(RowChunk { operand, left, rows, weights, epilogue, panels });
    };
    // SAFETY of the slices: either a chunk belongs to one worker; or one worker writes a pair during its phase, and
    // nothing writes it afterwards.
    match pairs.partition(worker.threads()) {
        Partition::ByPixels { chunks } => worker.parallel_for(chunks, |chunk| {
            let rows = split_range(chunk, chunks, total);
            let (size, largest) = (pairs.chunk_len(rows.len()), pairs.chunk_len(total.div_ceil(chunks)));
            let blocks = unsafe { scratch.slice_mut(worker.index() * largest, size) };
            let planes = blocks.chunks_mut(size / pairs.count()).enumerate();
            planes.for_each(|(pair, planes)| pairs.split(pair, &rows, planes));
            run(blocks, rows, 0..panels);
        }),
        Partition::ByOutputs { groups } => {
            let size = pairs.chunk_len(total);
            let planes = size / pairs.count();
            worker.parallel_for(pairs.count(), |pair| {
                pairs.split(pair, &(0..total), unsafe { scratch.slice_mut(pair * planes, planes) });
            });
            let (blocks, groups) = (unsafe { scratch.slice(0, size) }, groups.min(panels));
            worker.parallel_for(groups, |group| run(blocks, 0..total, split_range(group, groups, panels)));
        }
    }
}

/// Some rows by some panels of outputs. The code that constructs this guarantees exclusive access to that part of the
/// output.
struct RowChunk<'a> {
    operand: LeftOperand<'a>,
    left: TileOperand<'a>,
    rows: Range<usize>,
    weights: Weights<'a>,
    epilogue: &'a Epilogue<'a>,
    panels: Range<usize>,
}

impl Kernel for RowChunk<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { left, weights, .. } = self;
        let tiles = self.rows.len().div_ceil(TILE);
        let mut sums: TileSums = [ChannelBlock::default(); _];
        let registers = TileRegisters::acquire();
        for panel in self.panels.clone() {
            let output = panel * PANEL;
            let outputs = PANEL.min(weights.outputs - output);
            // With an odd number of output blocks the last one is multiplied twice, and the second result is
            // discarded.
            let right = [output, output + outputs - 1].map(|output| weights.panels(output, 1));
            for tile in 0..tiles {
                registers.multiply(left, tile * TILE, right, &mut sums);
                self.write::<V>(tile * TILE, output, &sums[..outputs * TILE]);
            }
        }
        V::store_fence();
    }
}

impl RowChunk<'_> {
    /// Stores the sums of the rows starting at `first` of the chunk, one output block after the other.
    #[inline(always)]
    fn write<V: Vector>(&self, first: usize, output: usize, sums: &[ChannelBlock]) {
        let (epilogue, first, end) = (self.epilogue, self.rows.start + first, self.rows.end);
        let nontemporal = exceeds_cache(epilogue.stride * self.weights.outputs);
        for (output, sums) in (output..).zip(sums.chunks_exact(TILE)) {
            let bias = epilogue.bias::<V>(output);
            let mut row = first;
            while row < end.min(first + TILE) {
                let (pixel, count) = self.operand.pixels_from(row);
                let sums = &sums[row - first..];
                let count = count.min(end - row).min(sums.len());
                if let Some(pixel) = pixel {
                    let start = output * epilogue.stride + pixel;
                    // SAFETY: the creator of this value guarantees exclusive access.
                    let blocks = unsafe { epilogue.output.slice_mut(start, count) };
                    for (index, (block, sum)) in blocks.iter_mut().zip(sums).enumerate() {
                        let sum = epilogue.apply(V::load(sum).add(bias), start + index);
                        if nontemporal { sum.store_nontemporal(block) } else { sum.store(block) }
                    }
                }
                row += count;
            }
        }
    }
}
