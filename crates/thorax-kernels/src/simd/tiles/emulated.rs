//! Emulation of the tiles in plain Rust.

use super::{BLOCK, Bf16Parts, ChannelBlock, TILE_ROW_LEN, TILE_ROWS, Tile, TileOperand, TileSums, TransposedOperands};

fn rounded(number: f32) -> u16 {
    let bits = number.to_bits();
    let up = if number.is_nan() { 0 } else { 0x7FFF + (bits >> 16 & 1) };
    (bits.wrapping_add(up) >> 16) as u16 | u16::from(number.is_nan()) << 6
}

fn exact(rounded: u16) -> f32 {
    f32::from_bits(u32::from(rounded) << 16)
}

fn numbers(block: &ChannelBlock) -> &[u16; TILE_ROW_LEN] {
    bytemuck::cast_ref(block)
}

/// Writes the high and the low parts of 32 numbers.
fn write(numbers: [f32; TILE_ROW_LEN], high: &mut ChannelBlock, low: Option<&mut ChannelBlock>) {
    let upper = numbers.map(rounded);
    *high = bytemuck::cast(upper);
    if let Some(low) = low {
        let lower: [u16; TILE_ROW_LEN] = std::array::from_fn(|i| rounded(numbers[i] - exact(upper[i])));
        *low = bytemuck::cast(lower);
    }
}

pub(super) fn split(
    first: &[ChannelBlock],
    second: Option<&[ChannelBlock]>,
    high: &mut [ChannelBlock],
    mut low: Option<&mut [ChannelBlock]>,
) {
    for (pixel, (first, high)) in first.iter().zip(high).enumerate() {
        let second = second.map_or(ChannelBlock::default(), |second| second[pixel]);
        let numbers = std::array::from_fn(|i| if i < BLOCK { first.0[i] } else { second.0[i - BLOCK] });
        write(numbers, high, low.as_mut().map(|low| &mut low[pixel]));
    }
}

pub(super) fn split_weights(
    inputs: &[ChannelBlock; TILE_ROW_LEN],
    high: &mut [ChannelBlock],
    mut low: Option<&mut [ChannelBlock]>,
) {
    for row in 0..TILE_ROWS {
        let pair = std::array::from_fn(|i| inputs[2 * row + i % 2].0[i / 2]);
        write(pair, &mut high[row], low.as_mut().map(|low| &mut low[row]));
    }
}

pub(super) fn transpose(
    pixels: &[ChannelBlock; TILE_ROW_LEN],
    row: usize,
    high: &mut [ChannelBlock],
    mut low: Option<&mut [ChannelBlock]>,
) {
    for channel in 0..BLOCK {
        let low = low.as_mut().map(|low| &mut low[channel * row]);
        write(pixels.map(|pixel| pixel.0[channel]), &mut high[channel * row], low);
    }
}

/// Adds the products of one row and a tile of sixteen rows, two numbers at a time.
fn add(row: &[u16; TILE_ROW_LEN], tile: &[ChannelBlock], sums: &mut ChannelBlock) {
    for (pair, outputs) in row.as_chunks::<2>().0.iter().zip(tile) {
        for (output, weights) in numbers(outputs).as_chunks::<2>().0.iter().enumerate() {
            sums.0[output] += exact(pair[0]) * exact(weights[0]) + exact(pair[1]) * exact(weights[1]);
        }
    }
}

/// Adds high times high, and, if there are low parts, high times low and low times high.
fn add_parts<'a>(
    part: impl Fn(usize) -> &'a [u16; TILE_ROW_LEN],
    weights: &[ChannelBlock],
    parts: Bf16Parts,
    sums: &mut ChannelBlock,
) {
    let upper = &weights[..TILE_ROWS];
    add(part(0), upper, sums);
    if parts == Bf16Parts::Two {
        add(part(0), &weights[TILE_ROWS..], sums);
        add(part(1), upper, sums);
    }
}

pub(super) fn multiply(left: TileOperand<'_>, first: usize, right: [&[ChannelBlock]; 2], sums: &mut TileSums) {
    let TileOperand { blocks, parts, stride, pairs, tap_offsets } = left;
    *sums = [ChannelBlock::default(); _];
    for (panel, sums) in right.iter().zip(sums.chunks_exact_mut(2 * TILE_ROWS)) {
        for (row, sum) in (first..).zip(sums) {
            for (step, weights) in panel.chunks_exact(parts.count() * TILE_ROWS).enumerate() {
                let (place, pair) = (tap_offsets[step / pairs], step % pairs);
                let at = |part: usize| numbers(&blocks[(parts.count() * pair + part) * stride + place + row]);
                add_parts(at, weights, parts, sum);
            }
        }
    }
}

/// # Safety
/// No other thread may access the sums.
pub(super) unsafe fn multiply_transposed(factors: TransposedOperands<'_>, sums: [[*mut Tile; 2]; 2], overwrite: bool) {
    let TransposedOperands { parts, inputs, place, outputs } = factors;
    let row = inputs[0].len() / (parts.count() * TILE_ROWS);
    let found = outputs.map(|output| inputs.map(|input| (input, output)));
    // As the instruction does, read everything before the first write, because a block may be passed twice. SAFETY of
    // both accesses: the caller guarantees exclusive sums.
    let initial =
        sums.map(|sums| sums.map(|sums| if overwrite { [ChannelBlock::default(); _] } else { unsafe { *sums } }));
    for (n, m) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let ((input, output), mut tile) = (found[n][m], initial[n][m]);
        for (channel, sum) in tile.iter_mut().enumerate() {
            for (step, weights) in output.chunks_exact(parts.count() * TILE_ROWS).enumerate() {
                let at = |part: usize| -> &[u16; TILE_ROW_LEN] {
                    let numbers: &[u16] = bytemuck::cast_slice(&input[(part * TILE_ROWS + channel) * row..][..row]);
                    numbers[place + step * TILE_ROW_LEN..].first_chunk().expect("the channel rows are too short")
                };
                add_parts(at, weights, parts, sum);
            }
        }
        unsafe { *sums[n][m] = tile };
    }
}
