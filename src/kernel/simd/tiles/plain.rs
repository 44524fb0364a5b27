//! All of it in plain Rust.

use super::{Factors, Lane, Left, NUMBERS, ROWS, Sums, Tile, WIDTH};

fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    let up = if number.is_nan() { 0 } else { 0x7FFF + (bits >> 16 & 1) };
    (bits.wrapping_add(up) >> 16) as u16 | u16::from(number.is_nan()) << 6
}

fn exact(rounded: u16) -> f32 {
    f32::from_bits(u32::from(rounded) << 16)
}

fn numbers(lane: &Lane) -> &[u16; NUMBERS] {
    bytemuck::cast_ref(lane)
}

/// The high and the low parts of 32 numbers.
fn halves(numbers: [f32; NUMBERS]) -> (Lane, Lane) {
    let high = numbers.map(rounded);
    let low: [u16; NUMBERS] = std::array::from_fn(|i| rounded(numbers[i] - exact(high[i])));
    (bytemuck::cast(high), bytemuck::cast(low))
}

pub(super) fn parts(first: Lane, second: Lane) -> (Lane, Lane) {
    halves(std::array::from_fn(|i| if i < WIDTH { first.0[i] } else { second.0[i - WIDTH] }))
}

pub(super) fn split_weights(inputs: &mut [Lane; NUMBERS]) {
    let numbers = *inputs;
    for row in 0..ROWS {
        let pair = std::array::from_fn(|i| numbers[2 * row + i % 2].0[i / 2]);
        (inputs[row], inputs[ROWS + row]) = halves(pair);
    }
}

pub(super) fn transpose(pixels: &[Lane; NUMBERS], row: usize, high: &mut [Lane], low: &mut [Lane]) {
    for channel in 0..WIDTH {
        (high[channel * row], low[channel * row]) = halves(pixels.map(|pixel| pixel.0[channel]));
    }
}

/// Adds the products of one row with a tile of sixteen rows, two numbers at a time.
fn add(row: &[u16; NUMBERS], tile: &[Lane], sums: &mut Lane) {
    for (pair, outputs) in row.as_chunks::<2>().0.iter().zip(tile) {
        for (output, weights) in numbers(outputs).as_chunks::<2>().0.iter().enumerate() {
            sums.0[output] += exact(pair[0]) * exact(weights[0]) + exact(pair[1]) * exact(weights[1]);
        }
    }
}

/// Adds the three products of the parts of one row with those of its weights.
fn add_parts(high: &[u16; NUMBERS], low: &[u16; NUMBERS], weights: &[Lane], sums: &mut Lane) {
    let (upper, lower) = weights.split_at(ROWS);
    add(high, upper, sums);
    add(high, lower, sums);
    add(low, upper, sums);
}

pub(super) fn multiply(left: Left<'_>, first: usize, right: [&[Lane]; 2], sums: &mut Sums) {
    let Left { lanes, stride, pairs, places } = left;
    *sums = [Lane::default(); _];
    for (panel, sums) in right.iter().zip(sums.chunks_exact_mut(2 * ROWS)) {
        for (row, sum) in (first..).zip(sums) {
            for (step, weights) in panel.chunks_exact(2 * ROWS).enumerate() {
                let (place, pair) = (places[step / pairs], step % pairs);
                let at = |part: usize| numbers(&lanes[(2 * pair + part) * stride + place + row]);
                add_parts(at(0), at(1), weights, sum);
            }
        }
    }
}

/// # Safety
/// Nobody else may have the sums.
pub(super) unsafe fn multiply_transposed(factors: Factors<'_>, sums: [[*mut Tile; 2]; 2], fresh: bool) {
    let Factors { inputs, place, outputs } = factors;
    let row = inputs[0].len() / (2 * ROWS);
    let found = outputs.map(|output| inputs.map(|input| (input, output)));
    // As in one instruction: all is read before anything is written, for a lane may be there twice.
    // SAFETY of both: the caller vouches for the sums.
    let begun = sums.map(|sums| sums.map(|sums| if fresh { [Lane::default(); _] } else { unsafe { *sums } }));
    for (n, m) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let ((input, output), mut tile) = (found[n][m], begun[n][m]);
        for (channel, sum) in tile.iter_mut().enumerate() {
            let at = |part: usize, step: usize| -> &[u16; NUMBERS] {
                let numbers: &[u16] = bytemuck::cast_slice(&input[(part * ROWS + channel) * row..][..row]);
                numbers[place + step * NUMBERS..].first_chunk().expect("pixels of each channel")
            };
            for (step, weights) in output.chunks_exact(2 * ROWS).enumerate() {
                add_parts(at(0, step), at(1, step), weights, sum);
            }
        }
        unsafe { *sums[n][m] = tile };
    }
}
