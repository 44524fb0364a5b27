//! The product of pixels with packed weights: where nearly all of the time goes.

use std::ops::Range;

use super::{
    columns::Columns,
    pack::Weights,
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
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
    pub(super) fn write<V: Vector>(&self, mut sum: V, index: usize, output: &mut Lane) {
        if let Some(residual) = self.residual {
            sum = sum.add(V::load(&residual[index]));
        }
        if self.relu {
            // In this order what is not a number stays so, and is not hidden by the ReLU.
            sum = V::zero().max(sum);
        }
        sum.store(output);
    }
}

/// Rows and lanes of outputs of one tile.
#[derive(Clone, Copy)]
struct Tile {
    /// The pixel in the output that the first row becomes.
    first: usize,
    rows: usize,
    /// First lane of outputs, and how many.
    output: usize,
    outputs: usize,
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

/// Measures of a product.
#[derive(Clone, Copy)]
pub(super) struct Measures {
    /// Lanes of numbers for each pixel.
    pub(super) lanes: usize,
    pub(super) pixels: usize,
    /// Whether they have to be gathered.
    pub(super) gathered: bool,
}

impl Measures {
    pub(super) fn of(columns: &Columns<'_>) -> Self {
        let gathered = !matches!(columns, Columns::Plain(_));
        Self { lanes: columns.lanes(), pixels: columns.pixels(), gathered }
    }

    /// Lanes of scratch that [`product`] needs.
    pub(super) fn scratch(&self, team: &Team) -> usize {
        if !self.gathered {
            return 0;
        }
        match self.cut(team.threads(), team.level()) {
            Cut::Pixels { blocks } => team.threads() * self.block(blocks),
            Cut::Outputs { .. } => self.lanes * self.pixels,
        }
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
    let measures = Measures::of(&columns);
    let Measures { lanes, pixels: total, .. } = measures;
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

/// `count` pixels, the first of which becomes the output's pixel `first`, by some panels of outputs. Whoever makes one vouches that
/// nobody else has that part of the output.
pub(super) struct Tiles<'a> {
    pub(super) pixels: Pixels<'a>,
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) weights: Weights<'a>,
    pub(super) finish: &'a Finish<'a>,
    pub(super) panels: Range<usize>,
}

impl Work for Tiles<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pixels, count, first, weights, finish, panels } = self;
        // Tiles of nearly the same size: a last one of a single row would wait for its sums instead of computing.
        let tiles = count.div_ceil(V::TILE.0);
        for panel in panels {
            let output = panel * V::TILE.1;
            let outputs = V::TILE.1.min(weights.outputs - output);
            let next = weights.panels(output + outputs, V::TILE.1.min(weights.outputs - output - outputs));
            for tile in 0..tiles {
                let rows = share(tile, tiles, count);
                // Each tile asks for its part of the next panel, so that it is there when its turn comes: fetched only when it is
                // needed, a panel of many weights would keep the first tile waiting, and main memory idle during the others.
                let panels =
                    Panels { now: weights.panels(output, outputs), ahead: &next[share(tile, tiles, next.len())] };
                let pixels = Pixels { lanes: &pixels.lanes[rows.start..], ..pixels };
                let tile = Tile { first: first + rows.start, rows: rows.len(), output, outputs };
                // SAFETY: this part of the output is nobody else's.
                unsafe { multiply::<V>(pixels, panels, tile, finish) };
            }
        }
    }
}

/// The weights of one tile.
#[derive(Clone, Copy)]
struct Panels<'a> {
    /// One panel for each lane of outputs.
    now: &'a [Lane],
    /// What will be multiplied with later.
    ahead: &'a [Lane],
}

/// Multiplies a tile and writes it.
///
/// # Safety
/// Nobody else may have the tile's part of the output.
///
/// # Panics
/// If pixels, weights or output are too short, or the tile is larger than `V::TILE`.
#[inline(always)]
unsafe fn multiply<V: Vector>(pixels: Pixels<'_>, panels: Panels<'_>, tile: Tile, finish: &Finish<'_>) {
    // SAFETY: the caller vouches for the output.
    unsafe {
        match tile.outputs {
            1 => rows_of::<V, 1>(pixels, panels, tile, finish),
            2 if V::TILE.1 >= 2 => rows_of::<V, 2>(pixels, panels, tile, finish),
            _ => unreachable!("no vector has tiles of more lanes"),
        }
    }
}

/// Picks the loop that was compiled for that many rows.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn rows_of<V: Vector, const N: usize>(pixels: Pixels<'_>, panels: Panels<'_>, tile: Tile, finish: &Finish<'_>) {
    macro_rules! pick {
        ($($count:literal),*) => {
            match tile.rows {
                // SAFETY: as the caller's.
                $($count if $count <= V::TILE.0 => unsafe {
                    ask::<V, $count, N>(tile, finish);
                    write::<V, $count, N>(sums::<V, $count, N>(pixels, panels), tile, finish);
                },)*
                _ => unreachable!("no vector has tiles of more rows"),
            }
        };
    }
    pick!(1, 2, 3, 4, 5, 6, 7, 8);
}

/// Asks for what [`write`] will need: it lies in as many places as the tile has lanes, too short each for the processor to guess.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn ask<V: Vector, const M: usize, const N: usize>(tile: Tile, finish: &Finish<'_>) {
    for n in 0..N {
        let start = (tile.output + n) * finish.stride + tile.first;
        // SAFETY: the caller vouches for it.
        let output = unsafe { finish.output.part(start, M) };
        for m in 0..M {
            V::prefetch(&output[m]);
        }
        if let Some(residual) = finish.residual {
            for lane in &residual[start..start + M] {
                V::prefetch(lane);
            }
        }
    }
}

#[inline(always)]
fn sums<V: Vector, const M: usize, const N: usize>(pixels: Pixels<'_>, panels: Panels<'_>) -> [[V; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    let Panels { now: panels, ahead } = panels;
    let panel = panels.len() / N;
    let share = ahead.len().div_ceil(panel / WIDTH);
    // Nothing here may be a call: the sums would leave their registers for it, once for each lane of inputs.
    for input in 0..panel / WIDTH {
        // Fixed sizes here, so that nothing is checked inside.
        let rows: &[Lane; M] = pixels.lanes[input * pixels.stride..].first_chunk().expect("pixels for each input");
        let mut lanes: [&[Lane; WIDTH]; N] = [panels[input * WIDTH..].first_chunk().expect("sixteen channels"); N];
        for n in 1..N {
            lanes[n] = panels[n * panel + input * WIDTH..].first_chunk().expect("sixteen channels");
        }
        // The next lane is too far away for the processor to guess.
        if let Some(next) = pixels.lanes.get((input + 1) * pixels.stride..(input + 1) * pixels.stride + M) {
            for lane in next {
                V::prefetch(lane);
            }
        }
        for lane in ahead.get(input * share..(input + 1) * share).unwrap_or_default() {
            V::prefetch_far(lane);
        }
        for channel in 0..WIDTH {
            let mut weights = [V::zero(); N];
            for n in 0..N {
                weights[n] = V::load(&lanes[n][channel]);
            }
            for m in 0..M {
                let value = V::splat(rows[m].0[channel]);
                for n in 0..N {
                    sums[m][n] = value.mul_add(weights[n], sums[m][n]);
                }
            }
        }
    }
    sums
}

/// # Safety
/// Nobody else may have the tile's part of the output.
#[inline(always)]
unsafe fn write<V: Vector, const M: usize, const N: usize>(sums: [[V; N]; M], tile: Tile, finish: &Finish<'_>) {
    for n in 0..N {
        let lane = tile.output + n;
        let start = lane * finish.stride + tile.first;
        // SAFETY: the caller vouches for it.
        let output = unsafe { finish.output.part(start, M) };
        let bias = finish.bias::<V>(lane);
        for (m, output) in output.iter_mut().enumerate() {
            finish.write(sums[m][n].add(bias), start + m, output);
        }
    }
}
