//! The same product by [`tiles`](crate::simd::tiles): a block of pixels is split, pair of lanes by pair of lanes, and goes through
//! all panels of weights, which were split when they were packed.

mod pairs;

use std::ops::Range;

use super::{Cut, Finish, share};
use crate::{
    columns::Columns,
    pack::Weights,
    reading::Reading,
    shared::Shared,
    simd::{
        Lane, Vector, Work, is_large,
        tiles::{Left, Parts, ROWS, Sums, Tiles},
    },
    team::Member,
};
use pairs::Pairs;

/// Rows of two tiles.
const TILE: usize = 2 * ROWS;

/// Lanes of outputs of two tiles.
const PANEL: usize = 2;

/// Lanes of scratch that [`product`] needs.
pub(super) fn scratch(columns: Columns<'_>, parts: Parts, outputs: usize, threads: usize) -> usize {
    Pairs { reading: Reading::new(columns), parts, outputs }.scratch(threads)
}

/// As [`product`](super::product), for a team whose level has tiles.
///
/// # Safety
/// As there.
pub(super) unsafe fn product(
    member: &Member<'_>,
    columns: Columns<'_>,
    parts: Parts,
    weights: Weights<'_>,
    scratch: Shared<'_>,
    finish: &Finish<'_>,
) {
    let reading = Reading::new(columns);
    let (pairs, total) = (Pairs { reading, parts, outputs: weights.outputs }, reading.rows());
    let places = reading.places();
    let panels = weights.outputs.div_ceil(PANEL);
    let run = |lanes: &[Lane], rows: Range<usize>, panels: Range<usize>| {
        let left = Left { lanes, parts, stride: pairs.stride(rows.len()), pairs: pairs.count(), places: &places };
        member.run(Block { reading, left, rows, weights, finish, panels });
    };
    // SAFETY of the parts: a block is one member's, or else a pair is until its phase is over, and is not written afterwards.
    match pairs.cut(member.threads()) {
        Cut::Pixels { blocks } => member.each(blocks, |block| {
            let rows = share(block, blocks, total);
            let (size, largest) = (pairs.block(rows.len()), pairs.block(total.div_ceil(blocks)));
            let lanes = unsafe { scratch.part(member.index() * largest, size) };
            let planes = lanes.chunks_mut(size / pairs.count()).enumerate();
            planes.for_each(|(pair, planes)| pairs.split(pair, &rows, planes));
            run(lanes, rows, 0..panels);
        }),
        Cut::Outputs { groups } => {
            let size = pairs.block(total);
            let planes = size / pairs.count();
            member.each(pairs.count(), |pair| {
                pairs.split(pair, &(0..total), unsafe { scratch.part(pair * planes, planes) });
            });
            let (lanes, groups) = (unsafe { scratch.read(0, size) }, groups.min(panels));
            member.each(groups, |group| run(lanes, 0..total, share(group, groups, panels)));
        }
    }
}

/// Some rows by some panels of outputs. Whoever makes one vouches that nobody else has that part of the output.
struct Block<'a> {
    reading: Reading<'a>,
    left: Left<'a>,
    rows: Range<usize>,
    weights: Weights<'a>,
    finish: &'a Finish<'a>,
    panels: Range<usize>,
}

impl Work for Block<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { left, weights, .. } = self;
        let tiles = self.rows.len().div_ceil(TILE);
        let mut sums: Sums = [Lane::default(); _];
        let registers = Tiles::begin();
        for panel in self.panels.clone() {
            let output = panel * PANEL;
            let outputs = PANEL.min(weights.outputs - output);
            // With one lane left both are the same, and the second sums nobody's.
            let right = [output, output + outputs - 1].map(|output| weights.panels(output, 1));
            for tile in 0..tiles {
                registers.multiply(left, tile * TILE, right, &mut sums);
                self.write::<V>(tile * TILE, output, &sums[..outputs * TILE]);
            }
        }
        V::settle();
    }
}

impl Block<'_> {
    /// Writes the sums of the rows from `first` of the block on, one lane of outputs after the other.
    #[inline(always)]
    fn write<V: Vector>(&self, first: usize, output: usize, sums: &[Lane]) {
        let (finish, first, end) = (self.finish, self.rows.start + first, self.rows.end);
        let stream = is_large(finish.stride * self.weights.outputs);
        for (output, sums) in (output..).zip(sums.chunks_exact(TILE)) {
            let bias = finish.bias::<V>(output);
            let mut row = first;
            while row < end.min(first + TILE) {
                let (pixel, count) = self.reading.pixels_from(row);
                let sums = &sums[row - first..];
                let count = count.min(end - row).min(sums.len());
                if let Some(pixel) = pixel {
                    let start = output * finish.stride + pixel;
                    // SAFETY: whoever made the block vouches for it.
                    let lanes = unsafe { finish.output.part(start, count) };
                    for (index, (lane, sum)) in lanes.iter_mut().zip(sums).enumerate() {
                        let sum = finish.finished(V::load(sum).add(bias), start + index);
                        if stream { sum.stream(lane) } else { sum.store(lane) }
                    }
                }
                row += count;
            }
        }
    }
}
