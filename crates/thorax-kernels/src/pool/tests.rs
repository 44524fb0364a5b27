//! Against plain loops over `[channels, images, side, side]`.

use super::*;
use crate::fixtures::{close, drawn, lanes_of, levels, numbers_of};

/// Channels, images and pixels on a side.
const SHAPES: [[usize; 3]; 4] = [[16, 1, 1], [5, 2, 2], [20, 3, 7], [33, 2, 12]];

/// Few different numbers, so that windows have equal ones.
fn few(seed: u64, [channels, images, side]: [usize; 3]) -> Vec<f64> {
    drawn(seed, channels * images * side * side).iter().map(|value| (value * 8.0).round() / 8.0).collect()
}

/// For each output the place of its input: of equal ones the first.
fn origins(input: &[f64], side: usize, width: usize) -> Vec<usize> {
    let across = pooled(side, width);
    let outside = width - 2; // of a window of 3 one pixel, of one of 2 none
    let inside = |window: usize| (2 * window).saturating_sub(outside)..(2 * window + 2).min(side);
    let mut origins = Vec::new();
    for plane in 0..input.len() / (side * side) {
        for window in 0..across * across {
            let (ys, xs) = (inside(window / across), inside(window % across));
            let places = ys.flat_map(|y| xs.clone().map(move |x| (plane * side + y) * side + x));
            origins.push(places.reduce(|best, place| if input[place] > input[best] { place } else { best }).unwrap());
        }
    }
    origins
}

#[test]
fn maxima_and_their_gradients_are_the_twins() {
    SHAPES.into_iter().for_each(compare::<3>);
    // A window of 2 does not fit in a single pixel.
    SHAPES.into_iter().filter(|[_, _, side]| *side > 1).for_each(compare::<2>);
}

fn compare<const WINDOW: usize>(shape: [usize; 3]) {
    let [channels, count, side] = shape;
    let (input, gradient) = (few(1, shape), few(2, [channels, count, pooled(side, WINDOW)]));
    let places = origins(&input, side, WINDOW);
    let expected: Vec<f64> = places.iter().map(|&place| input[place]).collect();
    let mut expected_gradient = vec![0.0; input.len()];
    places.iter().zip(&gradient).for_each(|(&place, gradient)| expected_gradient[place] += gradient);
    let lanes = lanes_of(&input, channels);
    for (level, threads) in levels().flat_map(|level| [1, 2, 3].map(|threads| (level, threads))) {
        let team = Team::with_level(threads, level);
        let (output, origins) = max_pool::<WINDOW>(&team, Images { lanes: &lanes, images: count, side });
        assert_eq!(numbers_of(&output, channels), expected, "{WINDOW}, {shape:?}, {level:?}");
        let result = max_pool_backward::<WINDOW>(&team, side, &lanes_of(&gradient, channels), &origins);
        close(&numbers_of(&result, channels), &expected_gradient, 1e-6);
    }
}

#[test]
fn means_and_their_gradients_are_the_twins() {
    for [channels, count, side] in SHAPES {
        let input = drawn(1, channels * count * side * side);
        let area = (side * side) as f64;
        let by_channel: Vec<f64> = input.chunks(side * side).map(|plane| plane.iter().sum::<f64>() / area).collect();
        let by_image: Vec<f64> =
            (0..channels * count).map(|i| by_channel[i % channels * count + i / channels]).collect();
        let means = mean(Images { lanes: &lanes_of(&input, channels), images: count, side }, channels);
        close(&means.iter().copied().map(f64::from).collect::<Vec<_>>(), &by_image, 1e-6);
        let gradient: Vec<f32> = by_image.iter().map(|&mean| mean as f32).collect();
        let result = numbers_of(&mean_backward(&gradient, channels, side), channels);
        let shares: Vec<f64> = by_channel.iter().flat_map(|mean| vec![mean / area; side * side]).collect();
        close(&result, &shares, 1e-6);
    }
}
