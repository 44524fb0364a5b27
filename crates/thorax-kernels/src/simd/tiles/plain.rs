//! All of it in plain Rust.

use super::{Factors, Lane, Left, NUMBERS, Parts, ROWS, Sums, Tile, WIDTH};

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

/// Writes the high and the low parts of 32 numbers.
fn write(numbers: [f32; NUMBERS], high: &mut Lane, low: Option<&mut Lane>) {
    let upper = numbers.map(rounded);
    *high = bytemuck::cast(upper);
    if let Some(low) = low {
        let lower: [u16; NUMBERS] = std::array::from_fn(|i| rounded(numbers[i] - exact(upper[i])));
        *low = bytemuck::cast(lower);
    }
}

pub(super) fn split(first: &[Lane], second: Option<&[Lane]>, high: &mut [Lane], mut low: Option<&mut [Lane]>) {
    for (pixel, (first, high)) in first.iter().zip(high).enumerate() {
        let second = second.map_or(Lane::default(), |second| second[pixel]);
        let numbers = std::array::from_fn(|i| if i < WIDTH { first.0[i] } else { second.0[i - WIDTH] });
        write(numbers, high, low.as_mut().map(|low| &mut low[pixel]));
    }
}

pub(super) fn split_weights(inputs: &[Lane; NUMBERS], high: &mut [Lane], mut low: Option<&mut [Lane]>) {
    for row in 0..ROWS {
        let pair = std::array::from_fn(|i| inputs[2 * row + i % 2].0[i / 2]);
        write(pair, &mut high[row], low.as_mut().map(|low| &mut low[row]));
    }
}

pub(super) fn transpose(pixels: &[Lane; NUMBERS], row: usize, high: &mut [Lane], mut low: Option<&mut [Lane]>) {
    for channel in 0..WIDTH {
        let low = low.as_mut().map(|low| &mut low[channel * row]);
        write(pixels.map(|pixel| pixel.0[channel]), &mut high[channel * row], low);
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

/// Adds the product of the high parts of one row and its weights, and those of high and low parts where there are low ones.
fn add_parts<'a>(part: impl Fn(usize) -> &'a [u16; NUMBERS], weights: &[Lane], parts: Parts, sums: &mut Lane) {
    let upper = &weights[..ROWS];
    add(part(0), upper, sums);
    if parts == Parts::Two {
        add(part(0), &weights[ROWS..], sums);
        add(part(1), upper, sums);
    }
}

pub(super) fn multiply(left: Left<'_>, first: usize, right: [&[Lane]; 2], sums: &mut Sums) {
    let Left { lanes, parts, stride, pairs, places } = left;
    *sums = [Lane::default(); _];
    for (panel, sums) in right.iter().zip(sums.chunks_exact_mut(2 * ROWS)) {
        for (row, sum) in (first..).zip(sums) {
            for (step, weights) in panel.chunks_exact(parts.count() * ROWS).enumerate() {
                let (place, pair) = (places[step / pairs], step % pairs);
                let at = |part: usize| numbers(&lanes[(parts.count() * pair + part) * stride + place + row]);
                add_parts(at, weights, parts, sum);
            }
        }
    }
}

/// # Safety
/// Nobody else may have the sums.
pub(super) unsafe fn multiply_transposed(factors: Factors<'_>, sums: [[*mut Tile; 2]; 2], fresh: bool) {
    let Factors { parts, inputs, place, outputs } = factors;
    let row = inputs[0].len() / (parts.count() * ROWS);
    let found = outputs.map(|output| inputs.map(|input| (input, output)));
    // As in one instruction: all is read before anything is written, for a lane may be there twice.
    // SAFETY of both: the caller vouches for the sums.
    let begun = sums.map(|sums| sums.map(|sums| if fresh { [Lane::default(); _] } else { unsafe { *sums } }));
    for (n, m) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let ((input, output), mut tile) = (found[n][m], begun[n][m]);
        for (channel, sum) in tile.iter_mut().enumerate() {
            for (step, weights) in output.chunks_exact(parts.count() * ROWS).enumerate() {
                let at = |part: usize| -> &[u16; NUMBERS] {
                    let numbers: &[u16] = bytemuck::cast_slice(&input[(part * ROWS + channel) * row..][..row]);
                    numbers[place + step * NUMBERS..].first_chunk().expect("pixels of each channel")
                };
                add_parts(at, weights, parts, sum);
            }
        }
        unsafe { *sums[n][m] = tile };
    }
}
