//! The product of a few pixels with packed weights: where nearly all of the time goes.

use super::{
    shared::Shared,
    simd::{Lane, Vector, WIDTH},
};

/// A matrix `[inputs, outputs]`, packed: for each lane of outputs, for each input, the sixteen weights.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    lanes: Vec<Lane>,
    /// Inputs in lanes; what is missing to a whole lane counts as weights of zero.
    pub(super) inputs: usize,
    /// Outputs in lanes.
    pub(super) outputs: usize,
}

impl Packed {
    /// Packs `weight(input, output)`.
    pub(super) fn new(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        let (input_lanes, output_lanes) = (inputs.div_ceil(WIDTH), outputs.div_ceil(WIDTH));
        let mut lanes = vec![Lane::default(); output_lanes * input_lanes * WIDTH];
        for output in 0..outputs {
            for input in 0..inputs {
                lanes[output / WIDTH * input_lanes * WIDTH + input].0[output % WIDTH] = weight(input, output);
            }
        }
        Self { lanes, inputs: input_lanes, outputs: output_lanes }
    }

    /// The weights of `count` lanes of outputs from `first` on.
    #[inline(always)]
    pub(super) fn panels(&self, first: usize, count: usize) -> &[Lane] {
        let panel = self.inputs * WIDTH;
        &self.lanes[first * panel..(first + count) * panel]
    }
}

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

/// Multiplies a tile and writes it.
///
/// # Safety
/// Nobody else may have the tile's part of the output.
///
/// # Panics
/// If pixels, weights or output are too short, or the tile is larger than `V::TILE`.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector>(pixels: Pixels<'_>, weights: &Packed, tile: Tile, finish: &Finish<'_>) {
    let inputs = weights.inputs;
    assert!(tile.rows > 0 && inputs > 0, "something to do");
    assert!((inputs - 1) * pixels.stride + tile.rows <= pixels.lanes.len(), "inside the pixels");
    assert!(tile.rows <= V::TILE.0 && tile.outputs <= V::TILE.1, "a tile that fits the registers");
    let panels = weights.panels(tile.output, tile.outputs);
    // SAFETY: the caller vouches for the output; the bounds have been checked.
    unsafe {
        match tile.outputs {
            1 => rows_of::<V, 1>(pixels, panels, inputs, tile, finish),
            2 => rows_of::<V, 2>(pixels, panels, inputs, tile, finish),
            _ => unreachable!("no vector has tiles of more lanes"),
        }
    }
}

/// Picks the loop that was compiled for that many rows.
#[inline(always)]
unsafe fn rows_of<V: Vector, const N: usize>(
    pixels: Pixels<'_>,
    panels: &[Lane],
    inputs: usize,
    tile: Tile,
    finish: &Finish<'_>,
) {
    macro_rules! pick {
        ($($count:literal),*) => {
            match tile.rows {
                // SAFETY: as the caller's.
                $($count if $count <= V::TILE.0 && N <= V::TILE.1 => unsafe {
                    let sums = sums::<V, $count, N>(pixels, panels, inputs);
                    write::<V, $count, N>(sums, tile, finish);
                },)*
                _ => unreachable!("no vector has tiles of more rows"),
            }
        };
    }
    pick!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
}

/// # Safety
/// `M` pixels of `inputs` lanes and `N` panels of that length must be there.
#[inline(always)]
unsafe fn sums<V: Vector, const M: usize, const N: usize>(
    pixels: Pixels<'_>,
    panels: &[Lane],
    inputs: usize,
) -> [[V; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    for input in 0..inputs {
        for channel in 0..WIDTH {
            let mut weights = [V::zero(); N];
            for (n, weight) in weights.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the panels.
                *weight = V::load(unsafe { panels.get_unchecked((n * inputs + input) * WIDTH + channel) });
            }
            for (m, row) in sums.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the pixels; a lane has `WIDTH` channels.
                let lane = unsafe { pixels.lanes.get_unchecked(input * pixels.stride + m) };
                let value = V::splat(unsafe { *lane.0.get_unchecked(channel) });
                for (sum, &weight) in row.iter_mut().zip(&weights) {
                    *sum = value.mul_add(weight, *sum);
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
        let bias = finish.bias.map_or(V::zero(), |bias| V::load(&bias[lane]));
        let residual = finish.residual.map(|residual| &residual[start..start + M]);
        for m in 0..M {
            let mut sum = sums[m][n].add(bias);
            if let Some(residual) = residual {
                sum = sum.add(V::load(&residual[m]));
            }
            if finish.relu {
                sum = sum.max(V::zero());
            }
            sum.store(&mut output[m]);
        }
    }
}
