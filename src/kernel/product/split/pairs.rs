//! How a product of tiles is shared out, and where its left side lies once it is split.

use std::ops::Range;

use super::{Cut, TILE};
use crate::kernel::{
    columns::Columns,
    reading::Reading,
    simd::{
        Lane, WIDTH,
        tiles::{split, split_in_place},
    },
};

/// Bytes of split numbers that stay in a core's second-level cache while panel after panel goes over them.
const BLOCK: usize = 1 << 20;

/// Bytes of all split numbers that each member may read, if that spares it from reading more weights than so many.
const WHOLE: usize = 3 << 19;

/// The left side in pairs of lanes, two planes each: the high parts and the low ones.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub(super) reading: Reading<'a>,
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
        2 * self.count() * self.stride(rows)
    }

    pub(super) fn cut(&self, threads: usize) -> Cut {
        let tiles = self.reading.rows().div_ceil(TILE);
        let tile = 2 * self.count() * TILE * size_of::<Lane>();
        let weights = self.outputs * self.reading.places().len() * 2 * self.count() * WIDTH * size_of::<Lane>();
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

    /// Writes the two planes of one pair of a block.
    pub(super) fn split(&self, pair: usize, rows: &Range<usize>, planes: &mut [Lane]) {
        let (high, low) = planes.split_at_mut(planes.len() / 2);
        let count = rows.len() + 2 * self.reading.halo();
        let (high, low) = (&mut high[..count], &mut low[..count]);
        let [first, second] = [2 * pair, 2 * pair + 1];
        let has_second = second < self.reading.lanes();
        if let Reading::Columns(Columns::Plain(images)) = self.reading {
            let plane = |lane| &images.plane(lane)[rows.clone()];
            return split(plane(first), has_second.then(|| plane(second)), high, low);
        }
        self.reading.gather(first, rows.start, high);
        if has_second {
            self.reading.gather(second, rows.start, low);
        } else {
            low.fill(Lane::default());
        }
        split_in_place(high, low);
    }
}
