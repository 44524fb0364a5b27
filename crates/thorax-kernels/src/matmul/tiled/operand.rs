//! Left operand of a tiled product: partition among workers, and layout after the split into bfloat16 parts.

use std::ops::Range;

use super::{Partition, TILE};
use crate::{
    im2col::Im2col,
    operand::LeftOperand,
    simd::{
        ChannelBlock,
        tiles::{Bf16Parts, TILE_ROWS, split},
    },
};

/// Bytes of split numbers that stay in a core's L2 cache while all weight panels are applied to them.
const L2_BYTES: usize = 1 << 20;

/// Bytes of split numbers that each worker may read in full, if that avoids reading more bytes of weights than this.
const WHOLE: usize = 3 << 19;

/// Rows that are gathered before they are split. Two blocks of them stay in the L1 cache.
const GATHERED: usize = 128;

/// Left operand in pairs of channel blocks, one plane per bfloat16 part.
#[derive(Clone, Copy)]
pub(super) struct PairedOperand<'a> {
    pub(super) operand: LeftOperand<'a>,
    pub(super) parts: Bf16Parts,
    /// Output blocks of the product.
    pub(super) outputs: usize,
}

impl PairedOperand<'_> {
    pub(super) fn count(&self) -> usize {
        self.operand.blocks().div_ceil(2)
    }

    /// Distance between two planes of a chunk of that many rows. It is odd, so that the planes do not map to the same
    /// cache sets.
    pub(super) fn stride(&self, rows: usize) -> usize {
        (rows.next_multiple_of(TILE) + 2 * self.operand.margin()) | 1
    }

    /// Blocks of a chunk of that many rows.
    pub(super) fn chunk_len(&self, rows: usize) -> usize {
        self.parts.count() * self.count() * self.stride(rows)
    }

    pub(super) fn partition(&self, threads: usize) -> Partition {
        let tiles = self.operand.rows().div_ceil(TILE);
        let tile = self.parts.count() * self.count() * TILE * size_of::<ChannelBlock>();
        let panel = self.operand.tap_offsets().len() * self.count() * self.parts.count() * TILE_ROWS;
        let weights = self.outputs * panel * size_of::<ChannelBlock>();
        if tiles < 4 * threads || tiles * tile < weights.min(WHOLE) {
            return Partition::ByOutputs { groups: 4 * threads };
        }
        let fits = L2_BYTES / tile;
        Partition::ByPixels { chunks: tiles.div_ceil(fits.clamp(1, tiles / threads)).next_multiple_of(threads) }
    }

    /// Scratch blocks of a product with that many threads.
    pub(super) fn scratch(&self, threads: usize) -> usize {
        match self.partition(threads) {
            Partition::ByPixels { chunks } => threads * self.chunk_len(self.operand.rows().div_ceil(chunks)),
            Partition::ByOutputs { .. } => self.chunk_len(self.operand.rows()),
        }
    }

    /// Splits one pair of blocks of a chunk into its planes.
    pub(super) fn split(&self, pair: usize, rows: &Range<usize>, planes: &mut [ChannelBlock]) {
        let (high, low) = self.parts.of(planes);
        let count = rows.len() + 2 * self.operand.margin();
        let (high, mut low) = (&mut high[..count], low.map(|low| &mut low[..count]));
        let [first, second] = [2 * pair, 2 * pair + 1];
        let has_second = second < self.operand.blocks();
        if let LeftOperand::Im2col(Im2col::Identity(images)) = self.operand {
            let plane = |block| &images.plane(block)[rows.clone()];
            return split(plane(first), has_second.then(|| plane(second)), high, low);
        }
        let mut gathered = [[ChannelBlock::default(); GATHERED]; 2];
        for (index, high) in high.chunks_mut(GATHERED).enumerate() {
            let start = index * GATHERED;
            let [one, other] = gathered.each_mut().map(|block| &mut block[..high.len()]);
            self.operand.gather(first, rows.start + start, one);
            if has_second {
                self.operand.gather(second, rows.start + start, other);
            }
            let low = low.as_mut().map(|low| &mut low[start..][..high.len()]);
            split(one, has_second.then_some(other), high, low);
        }
    }
}
