//! The parts of numbers, and the processor's tiles against plain Rust.

use super::*;
use crate::fixtures::drawn;

fn lanes(seed: u64, count: usize) -> Vec<Lane> {
    let numbers: Vec<f32> = drawn(seed, count * WIDTH).into_iter().map(|number| number as f32).collect();
    numbers.as_chunks().0.iter().copied().map(Lane).collect()
}

fn bits(lanes: &[Lane]) -> &[u16] {
    bytemuck::cast_slice(lanes)
}

fn close(found: &[Lane], twins: &[Lane]) {
    for (found, twin) in found.iter().flat_map(|lane| lane.0).zip(twins.iter().flat_map(|lane| lane.0)) {
        assert!((found - twin).abs() < 1e-5, "{found} and {twin}");
    }
}

fn exact(part: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(part) << 16))
}

/// The planes of the parts of two lanes.
fn parted(first: &[Lane], second: Option<&[Lane]>, parts: Parts) -> Vec<Lane> {
    let mut planes = vec![Lane::default(); parts.count() * first.len()];
    let (high, low) = parts.of(&mut planes);
    split(first, second, high, low);
    planes
}

fn rows(panel: &[Lane], parts: Parts) -> Vec<Lane> {
    let mut rows = vec![Lane::default(); panel.len() / 2 * parts.count()];
    split_weights(panel, parts, &mut rows);
    rows
}

#[test]
fn a_part_of_a_number_holds_eight_of_its_bits_and_two_hold_sixteen() {
    let (first, second) = (lanes(1, 20), lanes(2, 20));
    let both = parted(&first, Some(&second), Parts::Two);
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
    assert_eq!(bits(&parted(&first, Some(&second), Parts::One)), bits(high));
    for (alone, both) in parted(&first, None, Parts::Two).iter().zip(&both) {
        assert_eq!(bits(&[*alone])[..WIDTH], bits(&[*both])[..WIDTH]);
        assert_eq!(bits(&[*alone])[WIDTH..], [0; WIDTH]);
    }
}

#[test]
fn what_the_processor_does_is_what_plain_rust_does() {
    if !is_available() {
        eprintln!("skipped: the processor has no tiles");
        return;
    }
    for parts in [Parts::One, Parts::Two] {
        let (first, second) = (lanes(3, 7), lanes(4, 7));
        let mut twins = vec![Lane::default(); 7 * parts.count()];
        let (high, low) = parts.of(&mut twins);
        plain::split(&first, Some(&second), high, low);
        assert_eq!(bits(&parted(&first, Some(&second), parts)), bits(&twins));

        let weights: [Lane; NUMBERS] = *lanes(5, NUMBERS).as_array().expect("as many");
        let mut twins = vec![Lane::default(); ROWS * parts.count()];
        let (high, low) = parts.of(&mut twins);
        plain::split_weights(&weights, high, low);
        assert_eq!(bits(&rows(&weights, parts)), bits(&twins));

        let row = 3;
        let mut turned = [(); 2].map(|()| vec![Lane::default(); ROWS * row * parts.count()]);
        let [found, twins] = turned.each_mut().map(|rows| parts.of(rows));
        transpose(&weights, row, found.0, found.1);
        plain::transpose(&weights, row, twins.0, twins.1);
        assert_eq!(bits(&turned[0]), bits(&turned[1]));
    }
}

#[test]
fn the_processors_products_are_those_of_plain_rust() {
    if !is_available() {
        eprintln!("skipped: the processor has no tiles");
        return;
    }
    let registers = Tiles::begin();
    for parts in [Parts::One, Parts::Two] {
        // Two places and two pairs of lanes, 40 rows.
        let (stride, places) = (51, [3, 0]);
        let pair = |seed| parted(&lanes(seed, stride), Some(&lanes(seed + 1, stride)), parts);
        let planes = [pair(20), pair(22)].concat();
        let panels = [8, 9].map(|seed| rows(&lanes(seed, 4 * NUMBERS), parts));
        let left = Left { lanes: &planes, parts, stride, pairs: 2, places: &places };
        let right = [panels[0].as_slice(), &panels[1]];
        let mut sums = [[Lane::default(); _]; 2];
        registers.multiply(left, 8, right, &mut sums[0]);
        plain::multiply(left, 8, right, &mut sums[1]);
        close(&sums[0], &sums[1]);

        let row = 5;
        let mut inputs = [(); 2].map(|()| vec![Lane::default(); parts.count() * ROWS * row]);
        for (seed, rows) in inputs.iter_mut().enumerate() {
            let (high, mut low) = parts.of(rows);
            for column in 0..row {
                let pixels = lanes((10 * seed + column) as u64 + 10, NUMBERS);
                let low = low.as_mut().map(|low| &mut low[column..]);
                transpose(pixels.as_array().expect("as many"), row, &mut high[column..], low);
            }
        }
        let factors = Factors { parts, inputs: [&inputs[0], &inputs[1]], place: 31, outputs: right };
        let begun: Tile = *lanes(30, ROWS).as_array().expect("as many");
        for fresh in [true, false] {
            let mut sums = [[[begun; 2]; 2]; 2];
            let [found, twins] = &mut sums;
            let places =
                |sums: &mut [[Tile; 2]; 2]| sums.each_mut().map(|sums| sums.each_mut().map(std::ptr::from_mut));
            // SAFETY: the sums are this function's.
            unsafe {
                registers.multiply_transposed(factors, places(found), fresh);
                plain::multiply_transposed(factors, places(twins), fresh);
            }
            close(found.as_flattened().as_flattened(), twins.as_flattened().as_flattened());
        }
    }
}
