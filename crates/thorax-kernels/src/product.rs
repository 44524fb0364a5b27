//! The product of pixels with packed weights: where nearly all of the time goes.

mod split;
mod tiles;

pub(super) use tiles::Tiles;

use std::ops::Range;

use super::{
    columns::Columns,
    pack::Weights,
    shared::Shared,
    simd::{Lane, Level, Vector},
    team::{Member, Team},
};

/// Bytes of pixels that stay in a core's second-level cache while panel after panel goes over them.
const BLOCK: usize = 384 << 10;

/// Into how many items at least each member's share of pixels that need not be gathered is cut: something else may hold up a member,
/// and then the others do the rest of its items.
const ITEMS: usize = 16;

/// Pixels by their first lane: the lanes of a pixel stand `stride` apart, the pixels side by side.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    pub(super) lanes: &'a [Lane],
    pub(super) stride: usize,
}

/// What becomes of the sums, and where they go: `sum + bias + residual`, and never below zero after a ReLU.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// A lane for each lane of outputs.
    pub(super) bias: Option<&'a [Lane]>,
    /// Laid out as the output.
    pub(super) residual: Option<&'a [Lane]>,
    pub(super) relu: bool,
    pub(super) output: Shared<'a>,
    /// Lanes between a pixel's lanes in output and residual.
    pub(super) stride: usize,
}

impl<'a> Finish<'a> {
    /// The sums as they are.
    pub(super) fn plain(output: Shared<'a>, stride: usize) -> Self {
        Self { bias: None, residual: None, relu: false, output, stride }
    }

    #[inline(always)]
    pub(super) fn bias<V: Vector>(&self, lane: usize) -> V {
        match self.bias {
            Some(bias) => V::load(&bias[lane]),
            None => V::zero(),
        }
    }

    /// Adds the residual at `index`, applies the ReLU and writes.
    #[inline(always)]
    pub(super) fn write<V: Vector>(&self, sum: V, index: usize, output: &mut Lane) {
        self.finished(sum, index).store(output);
    }

    /// With the residual at `index` and after the ReLU.
    #[inline(always)]
    fn finished<V: Vector>(&self, mut sum: V, index: usize) -> V {
        if let Some(residual) = self.residual {
            sum = sum.add(V::load(&residual[index]));
        }
        if self.relu {
            // In this order what is not a number stays so, and is not hidden by the ReLU.
            sum = V::zero().max(sum);
        }
        sum
    }
}

/// How a product is shared out.
///
/// By pixels where there are enough: a member then finds what it reads in its own cache, because it wrote it in the layer before. By
/// lanes of outputs where there are few pixels and, as in the last layers, many weights: then no two members read the same ones.
#[derive(Clone, Copy)]
enum Cut {
    /// Into blocks of tiles.
    Pixels { blocks: usize },
    /// Into groups of panels.
    Outputs { groups: usize },
}

/// Lanes of scratch that a [`product`] with so many lanes of outputs needs.
pub(super) fn scratch(team: &Team, columns: Columns<'_>, outputs: usize) -> usize {
    if let Some(parts) = team.level().parts() {
        return split::scratch(columns, parts, outputs, team.threads());
    }
    if matches!(columns, Columns::Plain(_)) {
        return 0;
    }
    let measures = Measures::of(&columns);
    match measures.cut(team.threads(), team.level()) {
        Cut::Pixels { blocks } => team.threads() * measures.block(blocks),
        Cut::Outputs { .. } => measures.lanes * measures.pixels,
    }
}

/// Measures of a product.
#[derive(Clone, Copy)]
struct Measures {
    /// Lanes of numbers for each pixel.
    lanes: usize,
    pixels: usize,
}

impl Measures {
    fn of(columns: &Columns<'_>) -> Self {
        Self { lanes: columns.lanes(), pixels: columns.pixels() }
    }

    /// Lanes of the largest block.
    fn block(&self, blocks: usize) -> usize {
        self.lanes * self.pixels.div_ceil(blocks)
    }

    fn cut(&self, threads: usize, level: Level) -> Cut {
        let (rows, _) = level.tile();
        let tiles = self.pixels.div_ceil(rows);
        if tiles < 4 * threads {
            return Cut::Outputs { groups: 4 * threads };
        }
        let fits = BLOCK / (self.lanes * rows * size_of::<Lane>());
        // As many for each member.
        let blocks = tiles.div_ceil(fits.clamp(1, tiles / threads)).next_multiple_of(threads);
        Cut::Pixels { blocks }
    }
}

/// Pixels times weights, shared out over the team; every member comes here.
///
/// # Safety
/// Nobody outside the team may have the output or the scratch.
pub(super) unsafe fn product(
    member: &Member<'_>,
    columns: Columns<'_>,
    weights: Weights<'_>,
    scratch: Shared<'_>,
    finish: &Finish<'_>,
) {
    if let Some(parts) = member.level().parts() {
        // SAFETY: as the caller's.
        return unsafe { split::product(member, columns, parts, weights, scratch, finish) };
    }
    let measures = Measures::of(&columns);
    let Measures { lanes, pixels: total } = measures;
    let panels = weights.outputs.div_ceil(member.level().tile().1);
    match (measures.cut(member.threads(), member.level()), columns) {
        (Cut::Pixels { blocks }, Columns::Plain(images)) => {
            let groups = (ITEMS * member.threads() / blocks).clamp(1, panels);
            member.each(blocks * groups, |item| {
                let range = share(item / groups, blocks, total);
                let pixels = Pixels { lanes: &images.lanes[range.start..], stride: total };
                let panels = share(item % groups, groups, panels);
                member.run(Tiles { pixels, count: range.len(), first: range.start, weights, finish, panels });
            });
        }
        (Cut::Pixels { blocks }, _) => member.each(blocks, |block| {
            let range = share(block, blocks, total);
            let (first, count, size) = (range.start, range.len(), measures.block(blocks));
            // SAFETY: this part of the scratch is this member's.
            let gathered = unsafe { scratch.part(member.index() * size, lanes * count) };
            (0..lanes).for_each(|lane| columns.gather(lane, first, &mut gathered[lane * count..][..count]));
            let pixels = Pixels { lanes: gathered, stride: count };
            member.run(Tiles { pixels, count, first, weights, finish, panels: 0..panels });
        }),
        (Cut::Outputs { groups }, _) => {
            let pixels = if let Columns::Plain(images) = columns {
                images.lanes
            } else {
                member.each(lanes, |lane| {
                    // SAFETY: this member alone has this lane of the scratch until the phase is over.
                    columns.gather(lane, 0, unsafe { scratch.part(lane * total, total) });
                });
                // SAFETY: nobody writes the scratch in what follows.
                unsafe { scratch.read(0, lanes * total) }
            };
            let (pixels, groups) = (Pixels { lanes: pixels, stride: total }, groups.min(panels));
            member.each(groups, |group| {
                let panels = share(group, groups, panels);
                member.run(Tiles { pixels, count: total, first: 0, weights, finish, panels });
            });
        }
    }
}

/// The `index`th of `parts` nearly equal parts of `total` things.
#[inline(always)]
pub(super) fn share(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}
