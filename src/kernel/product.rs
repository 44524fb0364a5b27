//! The product of pixels with packed weights: where nearly all of the time goes.

use std::ops::Range;

use super::{
    columns::Columns,
    conv::ConvShape,
    pack::Weights,
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::Member,
};

/// Weights up to this many bytes stay in a core's second-level cache while the pixels go by.
const CACHED: usize = 384 << 10;

/// Bytes of gathered pixels that are held at once.
const GATHERED: usize = 1 << 20;

/// Into how many items a product is cut for each member of the team, so that all are done at about the same time.
const ITEMS: usize = 8;

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
            sum = sum.max(V::zero());
        }
        sum.store(output);
    }
}

/// Rows and lanes of outputs of one tile.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The pixel in the output that the first row becomes.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// First lane of outputs, and how many.
    pub(super) output: usize,
    pub(super) outputs: usize,
}

/// Lanes of scratch that [`product`] needs.
pub(super) fn scratch(columns: &Columns<'_>, level: Level) -> usize {
    match columns {
        Columns::Plain(_) => 0,
        _ => columns.lanes() * chunk(columns.lanes(), columns.pixels(), level),
    }
}

/// The same for a convolution of that many lanes of channels that gives that many pixels.
pub(super) fn scratch_of(shape: ConvShape, level: Level, channels: usize, pixels: usize) -> usize {
    let lanes = shape.kernel * shape.kernel * channels;
    if shape.is_pointwise() { 0 } else { lanes * chunk(lanes, pixels, level) }
}

/// How many pixels are gathered at once: whole tiles.
fn chunk(lanes: usize, pixels: usize, level: Level) -> usize {
    let (rows, _) = level.tile();
    let fits = (GATHERED / (lanes * size_of::<Lane>()) / rows).max(4) * rows;
    fits.min(pixels)
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
    let total = columns.pixels();
    if let Columns::Plain(images) = columns {
        let job =
            Job { pixels: Pixels { lanes: images.lanes, stride: total }, count: total, first: 0, weights, finish };
        // SAFETY: the caller vouches for the output.
        return unsafe { job.run(member) };
    }
    let lanes = columns.lanes();
    let chunk = chunk(lanes, total, member.level());
    for first in (0..total).step_by(chunk) {
        let count = chunk.min(total - first);
        member.each(lanes, |lane| {
            // SAFETY: this member alone has this lane of the scratch until the phase is over.
            columns.gather(lane, first, unsafe { scratch.part(lane * count, count) });
        });
        // SAFETY: nobody writes the scratch in this phase; the output is vouched for by the caller.
        unsafe {
            let pixels = Pixels { lanes: scratch.read(0, lanes * count), stride: count };
            Job { pixels, count, first, weights, finish }.run(member);
        }
    }
}

/// `count` pixels, the first of which becomes the output's pixel `first`.
#[derive(Clone, Copy)]
struct Job<'a> {
    pixels: Pixels<'a>,
    count: usize,
    first: usize,
    weights: Weights<'a>,
    finish: &'a Finish<'a>,
}

impl Job<'_> {
    /// Small weights: one tile of pixels after the other goes through all of them. Large ones: one panel after the other goes over the
    /// pixels.
    ///
    /// # Safety
    /// Nobody outside the team may have the output.
    unsafe fn run(self, member: &Member<'_>) {
        let (rows, width) = member.level().tile();
        let (tiles, panels) = (self.count.div_ceil(rows), self.weights.outputs.div_ceil(width));
        let bytes = size_of_val(self.weights.lanes);
        let wanted = ITEMS * member.threads();
        let (tile_groups, panel_groups) = if bytes <= CACHED && tiles >= member.threads() * 4 {
            (tiles.min(wanted), 1)
        } else {
            let panel_groups = panels.min(wanted);
            (wanted.div_ceil(panel_groups).min(tiles), panel_groups)
        };
        member.each(tile_groups * panel_groups, |item| {
            let (panel, tile) = (item / tile_groups, item % tile_groups);
            let tiles = Tiles {
                job: self,
                of: tiles,
                tiles: share(tile, tile_groups, tiles),
                panels: share(panel, panel_groups, panels),
            };
            member.run(tiles);
        });
    }
}

/// The `index`th of `parts` nearly equal parts of `total` things.
#[inline(always)]
pub(super) fn share(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// Some tiles of pixels by some panels of outputs.
struct Tiles<'a> {
    job: Job<'a>,
    of: usize,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Tiles<'_> {
    #[inline(always)]
    fn tile<V: Vector>(&self, tile: usize, panel: usize) {
        let Job { pixels, count, first, weights, finish } = self.job;
        // Tiles of nearly the same size: a last one of a single row would wait for its sums instead of computing.
        let rows = share(tile, self.of, count);
        let output = panel * V::TILE.1;
        let outputs = V::TILE.1.min(weights.outputs - output);
        let tile = Tile { first: first + rows.start, rows: rows.len(), output, outputs };
        let pixels = Pixels { lanes: &pixels.lanes[rows.start..], ..pixels };
        // SAFETY: each tile and panel belongs to one item of the phase, and the caller of `Job::run` vouches for the rest.
        unsafe { multiply::<V>(pixels, weights, tile, finish) };
    }
}

impl Work for Tiles<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        // The pixels of a few tiles stay in the first-level cache while a panel goes over them, the panel's weights in the second.
        for tile in self.tiles.clone() {
            for panel in self.panels.clone() {
                self.tile::<V>(tile, panel);
            }
        }
    }
}

/// Multiplies a tile and writes it.
///
/// # Safety
/// Nobody else may have the tile's part of the output.
///
/// # Panics
/// If pixels, weights or output are too short, or the tile is larger than `V::TILE`.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector>(pixels: Pixels<'_>, weights: Weights<'_>, tile: Tile, finish: &Finish<'_>) {
    let panels = weights.panels(tile.output, tile.outputs);
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
unsafe fn rows_of<V: Vector, const N: usize>(pixels: Pixels<'_>, panels: &[Lane], tile: Tile, finish: &Finish<'_>) {
    macro_rules! pick {
        ($($count:literal),*) => {
            match tile.rows {
                // SAFETY: as the caller's.
                $($count if $count <= V::TILE.0 => unsafe {
                    write::<V, $count, N>(sums::<V, $count, N>(pixels, panels), tile, finish);
                },)*
                _ => unreachable!("no vector has tiles of more rows"),
            }
        };
    }
    pick!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
}

#[inline(always)]
fn sums<V: Vector, const M: usize, const N: usize>(pixels: Pixels<'_>, panels: &[Lane]) -> [[V; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    let panel = panels.len() / N;
    for (input, weights) in panels[..panel].chunks_exact(WIDTH).enumerate() {
        // Fixed sizes here, so that nothing is checked inside.
        let rows: &[Lane; M] = pixels.lanes[input * pixels.stride..].first_chunk().expect("pixels for each input");
        let mut lanes: [&[Lane; WIDTH]; N] = [weights.first_chunk().expect("sixteen channels"); N];
        for (n, lanes) in lanes.iter_mut().enumerate().skip(1) {
            *lanes = panels[n * panel + input * WIDTH..].first_chunk().expect("sixteen channels");
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
