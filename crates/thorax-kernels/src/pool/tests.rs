//! Comparison with plain loops over `[channels, images, side, side]`.

use super::*;
use crate::fixtures::{assert_close, from_blocks, levels, random_values, to_blocks};

/// Channels, images and side.
const SHAPES: [[usize; 3]; 4] = [[16, 1, 1], [5, 2, 2], [20, 3, 7], [33, 2, 12]];

/// Few different values, so that windows contain ties.
fn few(seed: u64, [channels, images, side]: [usize; 3]) -> Vec<f64> {
    random_values(seed, channels * images * side * side).iter().map(|value| (value * 8.0).round() / 8.0).collect()
}

/// Index of the maximum of each output: the first of equal values.
fn argmax(input: &[f64], side: usize, width: usize) -> Vec<usize> {
    let across = pooled_side(side, width);
    let outside = width - 2; // of a window of 3 one pixel, of one of 2 none
    let inside = |window: usize| (2 * window).saturating_sub(outside)..(2 * window + 2).min(side);
    let mut argmax = Vec::new();
    for plane in 0..input.len() / (side * side) {
        for window in 0..across * across {
            let (ys, xs) = (inside(window / across), inside(window % across));
            let places = ys.flat_map(|y| xs.clone().map(move |x| (plane * side + y) * side + x));
            argmax.push(places.reduce(|best, place| if input[place] > input[best] { place } else { best }).unwrap());
        }
    }
    argmax
}

#[test]
fn maxima_and_their_gradients_match_the_reference() {
    SHAPES.into_iter().for_each(compare::<3>);
    // A window of 2 does not fit into a single pixel.
    SHAPES.into_iter().filter(|[_, _, side]| *side > 1).for_each(compare::<2>);
}

fn compare<const WINDOW: usize>(shape: [usize; 3]) {
    let [channels, count, side] = shape;
    let (input, gradient) = (few(1, shape), few(2, [channels, count, pooled_side(side, WINDOW)]));
    let places = argmax(&input, side, WINDOW);
    let expected: Vec<f64> = places.iter().map(|&place| input[place]).collect();
    let mut expected_gradient = vec![0.0; input.len()];
    places.iter().zip(&gradient).for_each(|(&place, gradient)| expected_gradient[place] += gradient);
    let blocks = to_blocks(&input, channels);
    for (level, threads) in levels().flat_map(|level| [1, 2, 3].map(|threads| (level, threads))) {
        let team = Team::with_level(threads, level);
        let (output, argmax) = max_pool::<WINDOW>(&team, Images { blocks: &blocks, images: count, side });
        assert_eq!(from_blocks(&output, channels), expected, "{WINDOW}, {shape:?}, {level:?}");
        let result = max_pool_backward::<WINDOW>(&team, side, &to_blocks(&gradient, channels), &argmax);
        assert_close(&from_blocks(&result, channels), &expected_gradient, 1e-6);
    }
}

#[test]
fn means_and_their_gradients_match_the_reference() {
    for [channels, count, side] in SHAPES {
        let input = random_values(1, channels * count * side * side);
        let area = (side * side) as f64;
        let by_channel: Vec<f64> = input.chunks(side * side).map(|plane| plane.iter().sum::<f64>() / area).collect();
        let by_image: Vec<f64> =
            (0..channels * count).map(|i| by_channel[i % channels * count + i / channels]).collect();
        let means = mean(Images { blocks: &to_blocks(&input, channels), images: count, side }, channels);
        assert_close(&means.iter().copied().map(f64::from).collect::<Vec<_>>(), &by_image, 1e-6);
        let gradient: Vec<f32> = by_image.iter().map(|&mean| mean as f32).collect();
        let result = from_blocks(&mean_backward(&gradient, channels, side), channels);
        let shares: Vec<f64> = by_channel.iter().flat_map(|mean| vec![mean / area; side * side]).collect();
        assert_close(&result, &shares, 1e-6);
    }
}
