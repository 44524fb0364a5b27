//! The parts of numbers, and the processor's tiles against plain Rust.

use super::*;
use crate::kernel::fixtures::drawn;

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

#[test]
fn the_two_parts_of_a_number_hold_sixteen_of_its_bits() {
    let [mut high, mut low] = [lanes(1, 20), lanes(2, 20)];
    let [first, second] = [high.clone(), low.clone()];
    split_in_place(&mut high, &mut low);
    let numbers = first.iter().zip(&second).flat_map(|(first, second)| [first.0, second.0].concat());
    for ((number, high), low) in numbers.zip(bits(&high)).zip(bits(&low)) {
        let parts = [high, low].map(|part| f32::from_bits(u32::from(*part) << 16));
        let lost = f64::from(number) - f64::from(parts[0]) - f64::from(parts[1]);
        assert!(lost.abs() <= f64::from(number.abs()) / f64::from(1 << 17), "{number}: {parts:?}");
    }
    let mut alone = [vec![Lane::default(); 20], vec![Lane::default(); 20]];
    let [upper, lower] = &mut alone;
    split(&first, None, upper, lower);
    for (pixel, alone) in alone.iter().zip([&high, &low]).flat_map(|(alone, both)| alone.iter().zip(both)) {
        assert_eq!(
            (&bits(&[*pixel])[..WIDTH], &bits(&[*pixel])[WIDTH..]),
            (&bits(&[*alone])[..WIDTH], &[0; WIDTH][..])
        );
    }
}

#[test]
fn what_the_processor_does_is_what_plain_rust_does() {
    if !is_available() {
        eprintln!("skipped: the processor has no tiles");
        return;
    }
    let [mut first, mut second] = [lanes(3, 7), lanes(4, 7)];
    let twins: Vec<_> = first.iter().zip(&second).map(|(first, second)| plain::parts(*first, *second)).collect();
    split_in_place(&mut first, &mut second);
    let (high, low): (Vec<_>, Vec<_>) = twins.into_iter().unzip();
    assert_eq!((bits(&first), bits(&second)), (bits(&high), bits(&low)));

    let mut weights = lanes(5, NUMBERS);
    let mut twin: [Lane; NUMBERS] = *weights.as_array().expect("as many");
    split_weights(&mut weights);
    plain::split_weights(&mut twin);
    assert_eq!(bits(&weights), bits(&twin));

    let row = 3;
    let mut pixels: [Lane; NUMBERS] = *lanes(6, NUMBERS).as_array().expect("as many");
    let mut rows = [(); 4].map(|()| vec![Lane::default(); ROWS * row]);
    let [high, low, upper, lower] = &mut rows;
    plain::transpose(&pixels, row, upper, lower);
    transpose(&mut pixels, row, high, low);
    assert_eq!((bits(high), bits(low)), (bits(upper), bits(lower)));
}

#[test]
fn the_processors_products_are_those_of_plain_rust() {
    if !is_available() {
        eprintln!("skipped: the processor has no tiles");
        return;
    }
    // Two places and two pairs of lanes, 40 rows.
    let (stride, places) = (51, [3, 0]);
    let mut planes = lanes(7, 4 * stride);
    for pair in planes.chunks_mut(2 * stride) {
        let (high, low) = pair.split_at_mut(stride);
        split_in_place(high, low);
    }
    let mut panels = [lanes(8, 4 * NUMBERS), lanes(9, 4 * NUMBERS)];
    panels.iter_mut().for_each(|panel| split_weights(panel));
    let left = Left { lanes: &planes, stride, pairs: 2, places: &places };
    let right = [panels[0].as_slice(), &panels[1]];
    let mut sums = [[Lane::default(); _]; 2];
    let registers = Tiles::begin();
    registers.multiply(left, 8, right, &mut sums[0]);
    plain::multiply(left, 8, right, &mut sums[1]);
    close(&sums[0], &sums[1]);

    let row = 5;
    let mut inputs = [(); 2].map(|()| vec![Lane::default(); 2 * ROWS * row]);
    for (seed, rows) in inputs.iter_mut().enumerate() {
        let (high, low) = rows.split_at_mut(ROWS * row);
        for column in 0..row {
            let mut pixels = *lanes((10 * seed + column) as u64 + 10, NUMBERS).as_array().expect("as many");
            transpose(&mut pixels, row, &mut high[column..], &mut low[column..]);
        }
    }
    let factors = Factors { inputs: [&inputs[0], &inputs[1]], place: 31, outputs: right };
    let begun: Tile = *lanes(30, ROWS).as_array().expect("as many");
    for fresh in [true, false] {
        let mut sums = [[[begun; 2]; 2]; 2];
        let [found, twins] = &mut sums;
        let places = |sums: &mut [[Tile; 2]; 2]| sums.each_mut().map(|sums| sums.each_mut().map(std::ptr::from_mut));
        // SAFETY: the sums are this function's.
        unsafe {
            registers.multiply_transposed(factors, places(found), fresh);
            plain::multiply_transposed(factors, places(twins), fresh);
        }
        close(found.as_flattened().as_flattened(), twins.as_flattened().as_flattened());
    }
}
