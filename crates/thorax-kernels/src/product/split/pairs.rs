//! How a product of tiles is shared out, and where its left side lies once it is split.

use std::ops::Range;

use super::{Cut, TILE};
use crate::{
    columns::Columns,
    reading::Reading,
    simd::{
        Lane,
        tiles::{Parts, ROWS, split},
    },
};

/// Bytes of split numbers that stay in a core's second-level cache while panel after panel goes over them.
const BLOCK: usize = 1 << 20;

/// Bytes of all split numbers that each member may read, if that spares it from reading more weights than so many.
const WHOLE: usize = 3 << 19;

/// Rows that are gathered before they are split: of two lanes they stay in a core's first-level cache.
const GATHERED: usize = 128;

/// The left side in pairs of lanes, a plane for each part.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub(super) reading: Reading<'a>,
    pub(super) parts: Parts,
    /// Lanes of the product's outputs.
    pub(super) outputs: usize,
}

impl Pairs<'_> {
    pub(super) fn count(&self) -> usize {
        self.reading.lanes().div_ceil(2)
    }

    /// Lanes from one plane to the next of a block of so many rows. An odd number, or all would want the same few places of a cache.
    pub(super) fn stride(&self, rows: usize) -> usize {
        (rows.next_multiple_of(TILE) + 2 * self.reading.halo()) | 1
    }

    /// Lanes of a block of so many rows.
    pub(super) fn block(&self, rows: usize) -> usize {
        self.parts.count() * self.count() * self.stride(rows)
    }

    pub(super) fn cut(&self, threads: usize) -> Cut {
        let tiles = self.reading.rows().div_ceil(TILE);
        let tile = self.parts.count() * self.count() * TILE * size_of::<Lane>();
        let panel = self.reading.places().len() * self.count() * self.parts.count() * ROWS;
        let weights = self.outputs * panel * size_of::<Lane>();
        if tiles < 4 * threads || tiles * tile < weights.min(WHOLE) {
            return Cut::Outputs { groups: 4 * threads };
        }
        let fits = BLOCK / tile;
        Cut::Pixels { blocks: tiles.div_ceil(fits.clamp(1, tiles / threads)).next_multiple_of(threads) }
    }

    /// Lanes of scratch that a product by so many threads needs.
    pub(super) fn scratch(&self, threads: usize) -> usize {
        match self.cut(threads) {
            Cut::Pixels { blocks } => threads * self.block(self.reading.rows().div_ceil(blocks)),
            Cut::Outputs { .. } => self.block(self.reading.rows()),
        }
    }

    /// Writes the planes of one pair of a block.
    pub(super) fn split(&self, pair: usize, rows: &Range<usize>, planes: &mut [Lane]) {
        let (high, low) = self.parts.of(planes);
        let count = rows.len() + 2 * self.reading.halo();
        let (high, mut low) = (&mut high[..count], low.map(|low| &mut low[..count]));
        let [first, second] = [2 * pair, 2 * pair + 1];
        let has_second = second < self.reading.lanes();
        if let Reading::Columns(Columns::Plain(images)) = self.reading {
            let plane = |lane| &images.plane(lane)[rows.clone()];
            return split(plane(first), has_second.then(|| plane(second)), high, low);
        }
        let mut gathered = [[Lane::default(); GATHERED]; 2];
        for (index, high) in high.chunks_mut(GATHERED).enumerate() {
            let start = index * GATHERED;
            let [one, other] = gathered.each_mut().map(|lane| &mut lane[..high.len()]);
            self.reading.gather(first, rows.start + start, one);
            if has_second {
                self.reading.gather(second, rows.start + start, other);
            }
            let low = low.as_mut().map(|low| &mut low[start..][..high.len()]);
            split(one, has_second.then_some(other), high, low);
        }
    }
}
