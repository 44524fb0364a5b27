//! The split into bfloat16 parts, and AMX compared with the emulation.

use super::*;
use crate::fixtures::random_values;

fn blocks(seed: u64, count: usize) -> Vec<ChannelBlock> {
    let numbers: Vec<f32> = random_values(seed, count * BLOCK).into_iter().map(|number| number as f32).collect();
    numbers.as_chunks().0.iter().copied().map(ChannelBlock).collect()
}

fn bits(blocks: &[ChannelBlock]) -> &[u16] {
    bytemuck::cast_slice(blocks)
}

fn assert_close(found: &[ChannelBlock], expected: &[ChannelBlock]) {
    for (found, expected) in found.iter().flat_map(|block| block.0).zip(expected.iter().flat_map(|block| block.0)) {
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
}

fn exact(part: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(part) << 16))
}

/// Planes of the parts of two blocks.
fn parted(first: &[ChannelBlock], second: Option<&[ChannelBlock]>, parts: Bf16Parts) -> Vec<ChannelBlock> {
    let mut planes = vec![ChannelBlock::default(); parts.count() * first.len()];
    let (high, low) = parts.of(&mut planes);
    split(first, second, high, low);
    planes
}

fn rows(panel: &[ChannelBlock], parts: Bf16Parts) -> Vec<ChannelBlock> {
    let mut rows = vec![ChannelBlock::default(); panel.len() / 2 * parts.count()];
    split_weights(panel, parts, &mut rows);
    rows
}

#[test]
fn one_bf16_part_holds_eight_bits_and_two_hold_sixteen() {
    let (first, second) = (blocks(1, 20), blocks(2, 20));
    let both = parted(&first, Some(&second), Bf16Parts::Two);
    let (high, low) = both.split_at(20);
    let numbers = first.iter().zip(&second).flat_map(|(first, second)| [first.0, second.0].concat());
    for ((number, high), low) in numbers.zip(bits(high)).zip(bits(low)) {
        let lost = f64::from(number) - exact(*high);
        assert!(lost.abs() <= f64::from(number.abs()) / f64::from(1 << 8), "{number}: {high:x}");
        assert!(
            (lost - exact(*low)).abs() <= f64::from(number.abs()) / f64::from(1 << 17),
            "{number}: {high:x} {low:x}"
        );
    }
    assert_eq!(bits(&parted(&first, Some(&second), Bf16Parts::One)), bits(high));
    for (alone, both) in parted(&first, None, Bf16Parts::Two).iter().zip(&both) {
        assert_eq!(bits(&[*alone])[..BLOCK], bits(&[*both])[..BLOCK]);
        assert_eq!(bits(&[*alone])[BLOCK..], [0; BLOCK]);
    }
}

#[test]
fn amx_splits_and_transposes_like_the_emulation() {
    if !is_available() {
        eprintln!("skipped: the processor has no AMX");
        return;
    }
    for parts in [Bf16Parts::One, Bf16Parts::Two] {
        let (first, second) = (blocks(3, 7), blocks(4, 7));
        let mut expected = vec![ChannelBlock::default(); 7 * parts.count()];
        let (high, low) = parts.of(&mut expected);
        emulated::split(&first, Some(&second), high, low);
        assert_eq!(bits(&parted(&first, Some(&second), parts)), bits(&expected));

        let weights: [ChannelBlock; TILE_ROW_LEN] =
            *blocks(5, TILE_ROW_LEN).as_array().expect("the length is checked above");
        let mut expected = vec![ChannelBlock::default(); TILE_ROWS * parts.count()];
        let (high, low) = parts.of(&mut expected);
        emulated::split_weights(&weights, high, low);
        assert_eq!(bits(&rows(&weights, parts)), bits(&expected));

        let row = 3;
        let mut turned = [(); 2].map(|()| vec![ChannelBlock::default(); TILE_ROWS * row * parts.count()]);
        let [found, expected] = turned.each_mut().map(|rows| parts.of(rows));
        transpose(&weights, row, found.0, found.1);
        emulated::transpose(&weights, row, expected.0, expected.1);
        assert_eq!(bits(&turned[0]), bits(&turned[1]));
    }
}

#[test]
fn amx_products_match_the_emulation() {
    if !is_available() {
        eprintln!("skipped: the processor has no AMX");
        return;
    }
    let registers = TileRegisters::acquire();
    for parts in [Bf16Parts::One, Bf16Parts::Two] {
        // Two taps and two pairs of blocks, 40 rows.
        let (stride, places) = (51, [3, 0]);
        let pair = |seed| parted(&blocks(seed, stride), Some(&blocks(seed + 1, stride)), parts);
        let planes = [pair(20), pair(22)].concat();
        let panels = [8, 9].map(|seed| rows(&blocks(seed, 4 * TILE_ROW_LEN), parts));
        let left = TileOperand { blocks: &planes, parts, stride, pairs: 2, tap_offsets: &places };
        let right = [panels[0].as_slice(), &panels[1]];
        let mut sums = [[ChannelBlock::default(); _]; 2];
        registers.multiply(left, 8, right, &mut sums[0]);
        emulated::multiply(left, 8, right, &mut sums[1]);
        assert_close(&sums[0], &sums[1]);

        let row = 5;
        let mut inputs = [(); 2].map(|()| vec![ChannelBlock::default(); parts.count() * TILE_ROWS * row]);
        for (seed, rows) in inputs.iter_mut().enumerate() {
            let (high, mut low) = parts.of(rows);
            for column in 0..row {
                let pixels = blocks((10 * seed + column) as u64 + 10, TILE_ROW_LEN);
                let low = low.as_mut().map(|low| &mut low[column..]);
                transpose(pixels.as_array().expect("the length is checked above"), row, &mut high[column..], low);
            }
        }
        let factors = TransposedOperands { parts, inputs: [&inputs[0], &inputs[1]], place: 31, outputs: right };
        let begun: Tile = *blocks(30, TILE_ROWS).as_array().expect("the length is checked above");
        for overwrite in [true, false] {
            let mut sums = [[[begun; 2]; 2]; 2];
            let [found, expected] = &mut sums;
            let places =
                |sums: &mut [[Tile; 2]; 2]| sums.each_mut().map(|sums| sums.each_mut().map(std::ptr::from_mut));
            // SAFETY: this function owns the sums.
            unsafe {
                registers.multiply_transposed(factors, places(found), overwrite);
                emulated::multiply_transposed(factors, places(expected), overwrite);
            }
            assert_close(found.as_flattened().as_flattened(), expected.as_flattened().as_flattened());
        }
    }
}
