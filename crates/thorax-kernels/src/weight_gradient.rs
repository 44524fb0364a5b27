//! Gradient of the weights: for each input and output channel, the sum over all pixels of their product.

mod tiled;

use std::ops::Range;

use super::{
    im2col::Im2col,
    layout::{Images, split_range},
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
    team::{Team, Worker},
};

/// Pixels that are processed for all channels together. One input block and the gradient blocks of a tile stay in the
/// L1 cache.
const CHUNK: usize = 192;

/// Blocks that are gathered at once.
const GATHERED: usize = (1 << 20) / size_of::<ChannelBlock>();

/// A matrix of channel blocks that are `stride` apart; the pixels of a block are adjacent.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) blocks: &'a [ChannelBlock],
    pub(super) stride: usize,
    /// Number of channel blocks.
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, block: usize, pixels: Range<usize>) -> &'a [ChannelBlock] {
        &self.blocks[block * self.stride..][pixels]
    }
}

/// Scratch blocks that [`weight_gradient`] needs for `outputs` gradient blocks.
pub(super) fn scratch(team: &Team, columns: Im2col<'_>, outputs: usize) -> usize {
    if let Some(parts) = team.level().bf16_parts() {
        return tiled::scratch(columns, parts, outputs);
    }
    match columns {
        Im2col::Identity(_) => 0,
        _ => columns.blocks() * chunk(&columns),
    }
}

fn chunk(columns: &Im2col<'_>) -> usize {
    (GATHERED / columns.blocks()).max(CHUNK).min(columns.pixels())
}

/// Writes the gradient of a packed matrix `[columns, channels]` to `sums`. Every worker of the team must call it.
///
/// # Safety
/// No thread outside the team may access the sums or the scratch.
pub(super) unsafe fn weight_gradient(
    worker: &Worker<'_>,
    columns: Im2col<'_>,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    if let Some(parts) = worker.level().bf16_parts() {
        // SAFETY: the caller upholds the same contract.
        return unsafe { tiled::weight_gradient(worker, columns, parts, gradient, scratch, sums) };
    }
    let (total, outputs) = (gradient.pixels(), gradient.channel_blocks());
    if let Im2col::Identity(images) = columns {
        let inputs = Rows { blocks: images.blocks, stride: total, count: images.channel_blocks() };
        let outputs = Rows { blocks: gradient.blocks, stride: total, count: outputs };
        // SAFETY: the caller guarantees exclusive sums.
        return unsafe { add_products(worker, inputs, outputs, total, sums, true) };
    }
    let (blocks, chunk) = (columns.blocks(), chunk(&columns));
    for first in (0..total).step_by(chunk) {
        let count = chunk.min(total - first);
        worker.parallel_for(blocks, |block| {
            // SAFETY: only this worker accesses this block of the scratch during the phase.
            columns.gather(block, first, unsafe { scratch.slice_mut(block * count, count) });
        });
        // SAFETY: nothing writes the scratch in this phase, and the caller guarantees exclusive sums.
        unsafe {
            let inputs = Rows { blocks: scratch.slice(0, blocks * count), stride: count, count: blocks };
            let outputs = Rows { blocks: &gradient.blocks[first..], stride: total, count: outputs };
            add_products(worker, inputs, outputs, count, sums, first == 0);
        }
    }
}

/// For each input and output channel, sums their products over `pixels` and adds the result to `sums`, or replaces it
/// if `overwrite` is set. The order of summation is that of the pixels, for any number of threads.
///
/// # Safety
/// No thread outside the team may access the sums.
pub(super) unsafe fn add_products(
    worker: &Worker<'_>,
    inputs: Rows<'_>,
    outputs: Rows<'_>,
    pixels: usize,
    sums: Shared<'_>,
    overwrite: bool,
) {
    let panels = outputs.count.div_ceil(worker.level().gradient_tile().1);
    let (input_groups, output_groups) = groups(inputs.count, panels, worker.threads());
    worker.parallel_for(input_groups * output_groups, |item| {
        let (input, output) = (item / output_groups, item % output_groups);
        worker.run(Products {
            inputs,
            outputs,
            pixels,
            sums,
            overwrite,
            offset: 0,
            input_blocks: split_range(input, input_groups, inputs.count),
            panels: split_range(output, output_groups, panels),
        });
    });
}

/// Number of groups of inputs and of outputs.
fn groups(inputs: usize, outputs: usize, threads: usize) -> (usize, usize) {
    // Each item reads the smaller side completely, so the larger side is split.
    let wanted = 4 * threads;
    if inputs > outputs {
        let groups = inputs.min(wanted);
        (groups, outputs.min(wanted.div_ceil(groups)))
    } else {
        let groups = outputs.min(wanted);
        (inputs.min(wanted.div_ceil(groups)), groups)
    }
}

/// Products of some input blocks with some panels of outputs.
pub(super) struct Products<'a> {
    pub(super) inputs: Rows<'a>,
    pub(super) outputs: Rows<'a>,
    pub(super) pixels: usize,
    /// The packed matrix of sums starts at `offset`.
    pub(super) sums: Shared<'a>,
    pub(super) offset: usize,
    /// True to replace the sums instead of adding to them.
    pub(super) overwrite: bool,
    pub(super) input_blocks: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl Kernel for Products<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for first in (0..self.pixels).step_by(CHUNK) {
            let pixels = first..(first + CHUNK).min(self.pixels);
            for panel in self.panels.clone() {
                let output = panel * V::GRADIENT_TILE.1;
                for input in self.input_blocks.clone() {
                    if V::GRADIENT_TILE.1 >= 2 && output + 2 <= self.outputs.count {
                        self.block::<V, 2>(input, output, pixels.clone());
                    } else {
                        self.block::<V, 1>(input, output, pixels.clone());
                    }
                }
            }
        }
    }
}

impl Products<'_> {
    /// One input block with `N` output blocks.
    #[inline(always)]
    fn block<V: Vector, const N: usize>(&self, input: usize, output: usize, pixels: Range<usize>) {
        let overwrite = self.overwrite && pixels.start == 0;
        let values = self.inputs.row(input, pixels.clone());
        let mut gradients: [&[ChannelBlock]; N] = [&[]; N];
        for (n, gradients) in gradients.iter_mut().enumerate() {
            *gradients = self.outputs.row(output + n, pixels.clone());
        }
        for channel in (0..BLOCK).step_by(V::GRADIENT_TILE.0) {
            match V::GRADIENT_TILE.0 {
                8 => self.tile::<V, 8, N>(input, output, channel, values, gradients, overwrite),
                4 => self.tile::<V, 4, N>(input, output, channel, values, gradients, overwrite),
                _ => unreachable!("a gradient tile has 4 or 8 channels"),
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector, const M: usize, const N: usize>(
        &self,
        input: usize,
        output: usize,
        channel: usize,
        values: &[ChannelBlock],
        gradients: [&[ChannelBlock]; N],
        overwrite: bool,
    ) {
        let place = |n: usize| self.offset + ((output + n) * self.inputs.count + input) * BLOCK + channel;
        let mut sums = [[V::zero(); N]; M];
        if !overwrite {
            for n in 0..N {
                // SAFETY: only this item accesses these inputs and outputs during the phase.
                let place = unsafe { self.sums.slice_mut(place(n), M) };
                for m in 0..M {
                    sums[m][n] = V::load(&place[m]);
                }
            }
        }
        for (pixel, value) in values.iter().enumerate() {
            let value: &[f32; M] = value.0[channel..].first_chunk().expect("a tile of channels");
            let mut gradient = [V::zero(); N];
            for n in 0..N {
                gradient[n] = V::load(&gradients[n][pixel]);
            }
            for m in 0..M {
                let value = V::splat(value[m]);
                for n in 0..N {
                    sums[m][n] = value.mul_add(gradient[n], sums[m][n]);
                }
            }
        }
        for n in 0..N {
            // SAFETY: as above.
            let place = unsafe { self.sums.slice_mut(place(n), M) };
            for m in 0..M {
                sums[m][n].store(&mut place[m]);
            }
        }
    }
}
