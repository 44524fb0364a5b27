//! One member's part of a product, tile by tile.

use std::ops::Range;

use super::{Finish, Pixels, share};
use crate::{
    pack::Weights,
    simd::{Lane, Vector, WIDTH, Work},
};

/// Lanes of inputs that all tiles go over before the next ones: their weights for a panel stay in the first-level cache, 16 KiB of them
/// with AVX-512.
const DEPTH: usize = 8;

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

/// `count` pixels, the first of which becomes the output's pixel `first`, by some panels of outputs. Whoever makes one vouches that
/// nobody else has that part of the output.
pub(crate) struct Tiles<'a> {
    pub(crate) pixels: Pixels<'a>,
    pub(crate) count: usize,
    pub(crate) first: usize,
    pub(crate) weights: Weights<'a>,
    pub(crate) finish: &'a Finish<'a>,
    pub(crate) panels: Range<usize>,
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
            let parts = weights.inputs.div_ceil(DEPTH);
            for part in 0..parts {
                let inputs = Inputs::of(part, parts, weights.inputs);
                for tile in 0..tiles {
                    let rows = share(tile, tiles, count);
                    // Each tile asks for its part of the next panel, so that it is there when its turn comes: fetched only when it is
                    // needed, a panel of many weights would keep the first tile waiting, and main memory idle during the others.
                    let ahead = &next[share(part * tiles + tile, parts * tiles, next.len())];
                    let panels = Panels { now: weights.panels(output, outputs), inputs, ahead };
                    let pixels = Pixels { lanes: &pixels.lanes[rows.start..], ..pixels };
                    let tile = Tile { first: first + rows.start, rows: rows.len(), output, outputs };
                    // SAFETY: this part of the output is nobody else's.
                    unsafe { multiply::<V>(pixels, panels, tile, finish) };
                }
            }
        }
    }
}

/// The weights of one tile.
#[derive(Clone, Copy)]
struct Panels<'a> {
    /// One panel for each lane of outputs.
    now: &'a [Lane],
    inputs: Inputs,
    /// What will be multiplied with later.
    ahead: &'a [Lane],
}

/// Lanes of inputs that a tile is multiplied with. Until the last of them are, its sums wait where the outputs will be.
#[derive(Clone, Copy)]
struct Inputs {
    start: usize,
    end: usize,
    is_last: bool,
}

impl Inputs {
    #[inline(always)]
    fn of(part: usize, parts: usize, lanes: usize) -> Self {
        let Range { start, end } = share(part, parts, lanes);
        Self { start, end, is_last: end == lanes }
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
                    let begun = begun::<V, $count, N>(panels.inputs, tile, finish);
                    write::<V, $count, N>(sums::<V, $count, N>(pixels, panels, begun), panels.inputs, tile, finish);
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

/// What [`write`] left of the inputs before these.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn begun<V: Vector, const M: usize, const N: usize>(
    inputs: Inputs,
    tile: Tile,
    finish: &Finish<'_>,
) -> [[V; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    if inputs.start > 0 {
        for n in 0..N {
            let start = (tile.output + n) * finish.stride + tile.first;
            // SAFETY: the caller vouches for it.
            let output = unsafe { finish.output.part(start, M) };
            for m in 0..M {
                sums[m][n] = V::load(&output[m]);
            }
        }
    }
    sums
}

#[inline(always)]
fn sums<V: Vector, const M: usize, const N: usize>(
    pixels: Pixels<'_>,
    panels: Panels<'_>,
    begun: [[V; N]; M],
) -> [[V; N]; M] {
    let mut sums = begun;
    let Panels { now: panels, inputs, ahead } = panels;
    let panel = panels.len() / N;
    let share = ahead.len().div_ceil(inputs.end - inputs.start);
    // Nothing here may be a call: the sums would leave their registers for it, once for each lane of inputs.
    for input in inputs.start..inputs.end {
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
        let asked = (input - inputs.start) * share;
        for lane in ahead.get(asked..asked + share).unwrap_or_default() {
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
/// As [`multiply`].
#[inline(always)]
unsafe fn write<V: Vector, const M: usize, const N: usize>(
    sums: [[V; N]; M],
    inputs: Inputs,
    tile: Tile,
    finish: &Finish<'_>,
) {
    for n in 0..N {
        let lane = tile.output + n;
        let start = lane * finish.stride + tile.first;
        // SAFETY: the caller vouches for it.
        let output = unsafe { finish.output.part(start, M) };
        if inputs.is_last {
            let bias = finish.bias::<V>(lane);
            for m in 0..M {
                finish.write(sums[m][n].add(bias), start + m, &mut output[m]);
            }
        } else {
            for m in 0..M {
                sums[m][n].store(&mut output[m]);
            }
        }
    }
}
