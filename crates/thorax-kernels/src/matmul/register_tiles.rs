//! One worker's part of a product, in tiles whose sums stay in vector registers.

use std::ops::Range;

use super::{Epilogue, PixelMatrix};
use crate::{
    layout::split_range,
    pack::Weights,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
};

/// Input blocks that all tiles process before the next ones. Their weights for one panel stay in the L1 cache: 16 KiB
/// with AVX-512.
const DEPTH: usize = 8;

/// Rows and output blocks of one tile.
#[derive(Clone, Copy)]
struct Tile {
    /// Output pixel of the first row.
    first: usize,
    rows: usize,
    /// First output block, and the number of them.
    output: usize,
    outputs: usize,
}

/// `count` pixels by some panels of outputs; the first pixel is output pixel `first`. The code that constructs this
/// guarantees exclusive access to that part of the output.
pub(crate) struct RegisterTiles<'a> {
    pub(crate) pixels: PixelMatrix<'a>,
    pub(crate) count: usize,
    pub(crate) first: usize,
    pub(crate) weights: Weights<'a>,
    pub(crate) epilogue: &'a Epilogue<'a>,
    pub(crate) panels: Range<usize>,
}

impl Kernel for RegisterTiles<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pixels, count, first, weights, epilogue, panels } = self;
        // Tiles of nearly equal size. A last tile of one row would be bound by the latency of its sums.
        let tiles = count.div_ceil(V::TILE.0);
        for panel in panels {
            let output = panel * V::TILE.1;
            let outputs = V::TILE.1.min(weights.outputs - output);
            let next = weights.panels(output + outputs, V::TILE.1.min(weights.outputs - output - outputs));
            let parts = weights.inputs.div_ceil(DEPTH);
            for part in 0..parts {
                let inputs = Inputs::of(part, parts, weights.inputs);
                for tile in 0..tiles {
                    let rows = split_range(tile, tiles, count);
                    // Each tile prefetches its share of the next panel. If a large panel were fetched only when
                    // needed, the first tile would wait for memory, and memory would be idle during the others.
                    let ahead = &next[split_range(part * tiles + tile, parts * tiles, next.len())];
                    let panels = Panels { now: weights.panels(output, outputs), inputs, ahead };
                    let pixels = PixelMatrix { blocks: &pixels.blocks[rows.start..], ..pixels };
                    let tile = Tile { first: first + rows.start, rows: rows.len(), output, outputs };
                    // SAFETY: the creator of this value guarantees exclusive access to this part of the output.
                    unsafe { multiply::<V>(pixels, panels, tile, epilogue) };
                }
            }
        }
    }
}

/// Weights of one tile.
#[derive(Clone, Copy)]
struct Panels<'a> {
    /// One panel per output block.
    now: &'a [ChannelBlock],
    inputs: Inputs,
    /// Weights of a later tile, to prefetch.
    ahead: &'a [ChannelBlock],
}

/// Range of input blocks that a tile multiplies. Until the last range, the partial sums are stored in the output.
#[derive(Clone, Copy)]
struct Inputs {
    start: usize,
    end: usize,
    is_last: bool,
}

impl Inputs {
    #[inline(always)]
    fn of(part: usize, parts: usize, blocks: usize) -> Self {
        let Range { start, end } = split_range(part, parts, blocks);
        Self { start, end, is_last: end == blocks }
    }
}

/// Multiplies one tile and stores it.
///
/// # Safety
/// No other thread may access the part of the output that the tile covers.
///
/// # Panics
/// If pixels, weights or output are too short, or the tile is larger than `V::TILE`.
#[inline(always)]
unsafe fn multiply<V: Vector>(pixels: PixelMatrix<'_>, panels: Panels<'_>, tile: Tile, epilogue: &Epilogue<'_>) {
    // SAFETY: the caller guarantees exclusive access to the output.
    unsafe {
        match tile.outputs {
            1 => rows_of::<V, 1>(pixels, panels, tile, epilogue),
            2 if V::TILE.1 >= 2 => rows_of::<V, 2>(pixels, panels, tile, epilogue),
            _ => unreachable!("a tile has at most two output blocks"),
        }
    }
}

/// Dispatches to the loop that is compiled for that number of rows.
///
/// # Safety
/// The safety requirements of [`multiply`] apply.
#[inline(always)]
unsafe fn rows_of<V: Vector, const N: usize>(
    pixels: PixelMatrix<'_>,
    panels: Panels<'_>,
    tile: Tile,
    epilogue: &Epilogue<'_>,
) {
    macro_rules! dispatch {
        ($($count:literal),*) => {
            match tile.rows {
                // SAFETY: the caller upholds the same contract.
                $($count if $count <= V::TILE.0 => unsafe {
                    prefetch::<V, $count, N>(tile, epilogue);
                    let partial_sums = partial_sums::<V, $count, N>(panels.inputs, tile, epilogue);
                    write::<V, $count, N>(sums::<V, $count, N>(pixels, panels, partial_sums), panels.inputs, tile, epilogue);
                },)*
                _ => unreachable!("a tile has at most 8 rows"),
            }
        };
    }
    dispatch!(1, 2, 3, 4, 5, 6, 7, 8);
}

/// Prefetches what [`write`] needs. It lies in one place per output block, and each is too short for the hardware
/// prefetcher.
///
/// # Safety
/// The safety requirements of [`multiply`] apply.
#[inline(always)]
unsafe fn prefetch<V: Vector, const M: usize, const N: usize>(tile: Tile, epilogue: &Epilogue<'_>) {
    for n in 0..N {
        let start = (tile.output + n) * epilogue.stride + tile.first;
        // SAFETY: the caller guarantees exclusive access.
        let output = unsafe { epilogue.output.slice_mut(start, M) };
        for m in 0..M {
            V::prefetch(&output[m]);
        }
        if let Some(residual) = epilogue.residual {
            for block in &residual[start..start + M] {
                V::prefetch(block);
            }
        }
    }
}

/// Partial sums of the previous input ranges, as [`write`] stored them.
///
/// # Safety
/// The safety requirements of [`multiply`] apply.
#[inline(always)]
unsafe fn partial_sums<V: Vector, const M: usize, const N: usize>(
    inputs: Inputs,
    tile: Tile,
    epilogue: &Epilogue<'_>,
) -> [[V; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    if inputs.start > 0 {
        for n in 0..N {
            let start = (tile.output + n) * epilogue.stride + tile.first;
            // SAFETY: the caller guarantees exclusive access.
            let output = unsafe { epilogue.output.slice_mut(start, M) };
            for m in 0..M {
                sums[m][n] = V::load(&output[m]);
            }
        }
    }
    sums
}

#[inline(always)]
fn sums<V: Vector, const M: usize, const N: usize>(
    pixels: PixelMatrix<'_>,
    panels: Panels<'_>,
    partial_sums: [[V; N]; M],
) -> [[V; N]; M] {
    let mut sums = partial_sums;
    let Panels { now: panels, inputs, ahead } = panels;
    let panel = panels.len() / N;
    let share = ahead.len().div_ceil(inputs.end - inputs.start);
    // Nothing here may be a call: it would spill the sums for each input block.
    for input in inputs.start..inputs.end {
        // Arrays of fixed size, so that the inner loops have no bounds checks.
        let rows: &[ChannelBlock; M] =
            pixels.blocks[input * pixels.stride..].first_chunk().expect("pixels for each input");
        let mut blocks: [&[ChannelBlock; BLOCK]; N] =
            [panels[input * BLOCK..].first_chunk().expect("sixteen channels"); N];
        for n in 1..N {
            blocks[n] = panels[n * panel + input * BLOCK..].first_chunk().expect("sixteen channels");
        }
        // The next block is too far away for the hardware prefetcher.
        if let Some(next) = pixels.blocks.get((input + 1) * pixels.stride..(input + 1) * pixels.stride + M) {
            for block in next {
                V::prefetch(block);
            }
        }
        let asked = (input - inputs.start) * share;
        for block in ahead.get(asked..asked + share).unwrap_or_default() {
            V::prefetch_far(block);
        }
        for channel in 0..BLOCK {
            let mut weights = [V::zero(); N];
            for n in 0..N {
                weights[n] = V::load(&blocks[n][channel]);
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

/// Stores a tile: through the epilogue if these are the last inputs, else as partial sums.
///
/// # Safety
/// The safety requirements of [`multiply`] apply.
#[inline(always)]
unsafe fn write<V: Vector, const M: usize, const N: usize>(
    sums: [[V; N]; M],
    inputs: Inputs,
    tile: Tile,
    epilogue: &Epilogue<'_>,
) {
    for n in 0..N {
        let block = tile.output + n;
        let start = block * epilogue.stride + tile.first;
        // SAFETY: the caller guarantees exclusive access.
        let output = unsafe { epilogue.output.slice_mut(start, M) };
        if inputs.is_last {
            let bias = epilogue.bias::<V>(block);
            for m in 0..M {
                epilogue.write(sums[m][n].add(bias), start + m, &mut output[m]);
            }
        } else {
            for m in 0..M {
                sums[m][n].store(&mut output[m]);
            }
        }
    }
}
