//! Matrix product of pixels and packed weights. Nearly all of the time is spent here.

mod register_tiles;
mod tiled;

pub(super) use register_tiles::RegisterTiles;

use super::{
    im2col::Im2col,
    layout::split_range,
    pack::Weights,
    shared::Shared,
    simd::{ChannelBlock, Level, Vector},
    team::{Team, Worker},
};

/// Bytes of pixels that stay in a core's L2 cache while all weight panels are applied to them.
const L2_BYTES: usize = 384 << 10;

/// Minimum number of items per worker if the pixels need no gathering. With several items per worker, the others take
/// over when one worker is delayed.
const ITEMS: usize = 16;

/// A matrix of pixels. `blocks` starts at the first pixel; the channel blocks of a pixel are `stride` apart, and
/// pixels are adjacent.
#[derive(Clone, Copy)]
pub(super) struct PixelMatrix<'a> {
    pub(super) blocks: &'a [ChannelBlock],
    pub(super) stride: usize,
}

/// Epilogue of the product: `sum + bias + residual`, then ReLU, then the store.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// One block per output block.
    pub(super) bias: Option<&'a [ChannelBlock]>,
    /// Same layout as the output.
    pub(super) residual: Option<&'a [ChannelBlock]>,
    pub(super) relu: bool,
    pub(super) output: Shared<'a>,
    /// Distance between the channel blocks of a pixel in the output and the residual.
    pub(super) stride: usize,
}

impl<'a> Epilogue<'a> {
    /// Stores the sums unchanged.
    pub(super) fn plain(output: Shared<'a>, stride: usize) -> Self {
        Self { bias: None, residual: None, relu: false, output, stride }
    }

    #[inline(always)]
    pub(super) fn bias<V: Vector>(&self, block: usize) -> V {
        match self.bias {
            Some(bias) => V::load(&bias[block]),
            None => V::zero(),
        }
    }

    /// Adds the residual at `index`, applies ReLU, and stores.
    #[inline(always)]
    pub(super) fn write<V: Vector>(&self, sum: V, index: usize, output: &mut ChannelBlock) {
        self.apply(sum, index).store(output);
    }

    /// Adds the residual at `index` and applies ReLU.
    #[inline(always)]
    fn apply<V: Vector>(&self, mut sum: V, index: usize) -> V {
        if let Some(residual) = self.residual {
            sum = sum.add(V::load(&residual[index]));
        }
        if self.relu {
            // The operand order propagates NaN: a ReLU must not hide it.
            sum = V::zero().max(sum);
        }
        sum
    }
}

/// Partition of the product among workers.
///
/// By pixels if there are enough of them: a worker then reads what it wrote in the previous layer, which is in its
/// own cache. By output blocks if there are few pixels and many weights, as in the last layers: then no two workers
/// read the same weights.
#[derive(Clone, Copy)]
enum Partition {
    /// Chunks of pixel tiles.
    ByPixels { chunks: usize },
    /// Groups of weight panels.
    ByOutputs { groups: usize },
}

/// Scratch blocks that [`matmul`] needs for `outputs` output blocks.
pub(super) fn scratch(team: &Team, columns: Im2col<'_>, outputs: usize) -> usize {
    if let Some(parts) = team.level().bf16_parts() {
        return tiled::scratch(columns, parts, outputs, team.threads());
    }
    if matches!(columns, Im2col::Identity(_)) {
        return 0;
    }
    let shape = MatmulShape::of(&columns);
    match shape.partition(team.threads(), team.level()) {
        Partition::ByPixels { chunks } => team.threads() * shape.chunk_len(chunks),
        Partition::ByOutputs { .. } => shape.blocks * shape.pixels,
    }
}

/// Shape of the left operand.
#[derive(Clone, Copy)]
struct MatmulShape {
    /// Blocks per pixel.
    blocks: usize,
    pixels: usize,
}

impl MatmulShape {
    fn of(columns: &Im2col<'_>) -> Self {
        Self { blocks: columns.blocks(), pixels: columns.pixels() }
    }

    /// Blocks of the largest chunk.
    fn chunk_len(&self, chunks: usize) -> usize {
        self.blocks * self.pixels.div_ceil(chunks)
    }

    fn partition(&self, threads: usize, level: Level) -> Partition {
        let (rows, _) = level.tile();
        let tiles = self.pixels.div_ceil(rows);
        if tiles < 4 * threads {
            return Partition::ByOutputs { groups: 4 * threads };
        }
        let fits = L2_BYTES / (self.blocks * rows * size_of::<ChannelBlock>());
        // The same number for each worker.
        let chunks = tiles.div_ceil(fits.clamp(1, tiles / threads)).next_multiple_of(threads);
        Partition::ByPixels { chunks }
    }
}

/// Multiplies pixels by weights. Every worker of the team must call it.
///
/// # Safety
/// No thread outside the team may access the output or the scratch.
pub(super) unsafe fn matmul(
    worker: &Worker<'_>,
    columns: Im2col<'_>,
    weights: Weights<'_>,
    scratch: Shared<'_>,
    epilogue: &Epilogue<'_>,
) {
    if let Some(parts) = worker.level().bf16_parts() {
        // SAFETY: the caller upholds the same contract.
        return unsafe { tiled::matmul(worker, columns, parts, weights, scratch, epilogue) };
    }
    let shape = MatmulShape::of(&columns);
    let MatmulShape { blocks, pixels: total } = shape;
    let panels = weights.outputs.div_ceil(worker.level().tile().1);
    match (shape.partition(worker.threads(), worker.level()), columns) {
        (Partition::ByPixels { chunks }, Im2col::Identity(images)) => {
            let groups = (ITEMS * worker.threads() / chunks).clamp(1, panels);
            worker.parallel_for(chunks * groups, |item| {
                let range = split_range(item / groups, chunks, total);
                let pixels = PixelMatrix { blocks: &images.blocks[range.start..], stride: total };
                let panels = split_range(item % groups, groups, panels);
                worker.run(RegisterTiles { pixels, count: range.len(), first: range.start, weights, epilogue, panels });
            });
        }
        (Partition::ByPixels { chunks }, _) => worker.parallel_for(chunks, |chunk| {
            let range = split_range(chunk, chunks, total);
            let (first, count, size) = (range.start, range.len(), shape.chunk_len(chunks));
            // SAFETY: this part of the scratch belongs to this worker.
            let gathered = unsafe { scratch.slice_mut(worker.index() * size, blocks * count) };
            (0..blocks).for_each(|block| columns.gather(block, first, &mut gathered[block * count..][..count]));
            let pixels = PixelMatrix { blocks: gathered, stride: count };
            worker.run(RegisterTiles { pixels, count, first, weights, epilogue, panels: 0..panels });
        }),
        (Partition::ByOutputs { groups }, _) => {
            let pixels = if let Im2col::Identity(images) = columns {
                images.blocks
            } else {
                worker.parallel_for(blocks, |block| {
                    // SAFETY: only this worker accesses this block of the scratch during the phase.
                    columns.gather(block, 0, unsafe { scratch.slice_mut(block * total, total) });
                });
                // SAFETY: the scratch is not written any more.
                unsafe { scratch.slice(0, blocks * total) }
            };
            let (pixels, groups) = (PixelMatrix { blocks: pixels, stride: total }, groups.min(panels));
            worker.parallel_for(groups, |group| {
                let panels = split_range(group, groups, panels);
                worker.run(RegisterTiles { pixels, count: total, first: 0, weights, epilogue, panels });
            });
        }
    }
}
