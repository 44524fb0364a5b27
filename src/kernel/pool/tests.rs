//! Against plain loops.

use super::*;
use crate::kernel::{
    fixtures::{close, drawn, levels},
    plain::Plain,
};

/// Images, channels and pixels on a side.
const SHAPES: [[usize; 3]; 4] = [[1, 16, 1], [2, 5, 2], [3, 20, 7], [2, 33, 12]];

fn plain(seed: u64, shape: [usize; 3]) -> Plain {
    let [images, channels, side] = shape;
    // Few different numbers, so that windows have equal ones.
    let values = drawn(seed, images * channels * side * side);
    Plain { shape, values: values.into_iter().map(|value| (value * 8.0).round() / 8.0).collect() }
}

fn images(shape: [usize; 3], lanes: &[Lane]) -> Images<'_> {
    Images { lanes, images: shape[0], side: shape[2] }
}

/// For each output the place of its input: of equal ones the first.
fn origins(input: &Plain) -> Vec<usize> {
    let [images, channels, side] = input.shape;
    let across = pooled(side);
    let mut origins = Vec::new();
    for plane in 0..images * channels {
        for window in 0..across * across {
            let inside = |start: usize| (2 * start).saturating_sub(1)..(2 * start + 2).min(side);
            let (ys, xs) = (inside(window / across), inside(window % across));
            let places = ys.flat_map(|y| xs.clone().map(move |x| (plane * side + y) * side + x));
            let first_of_the_largest =
                |best: usize, place: usize| if input.values[place] > input.values[best] { place } else { best };
            origins.push(places.reduce(first_of_the_largest).unwrap());
        }
    }
    origins
}

#[test]
fn maxima_and_their_gradients_are_the_twins() {
    for (shape, level) in SHAPES.iter().flat_map(|&shape| levels().map(move |level| (shape, level))) {
        let [count, channels, side] = shape;
        let input = plain(1, shape);
        let gradient = plain(2, [count, channels, pooled(side)]);
        let (mut expected, mut expected_gradient) = (Plain::zeros(gradient.shape), Plain::zeros(shape));
        for (output, &place) in origins(&input).iter().enumerate() {
            expected.values[output] = input.values[place];
            expected_gradient.values[place] += gradient.values[output];
        }
        for threads in [1, 2, 3] {
            let team = Team::with_level(threads, level);
            let (output, origins) = max_pool(&team, images(shape, &input.to_lanes()));
            assert!(output == expected.to_lanes(), "{shape:?}, {level:?}");
            let result = max_pool_backward(&team, side, &gradient.to_lanes(), &origins);
            close(&Plain::from_lanes(images(shape, &result), channels).values, &expected_gradient.values, 1e-6);
        }
    }
}

#[test]
fn means_and_their_gradients_are_the_twins() {
    for shape @ [count, channels, side] in SHAPES {
        let input = plain(1, shape);
        let area = (side * side) as f64;
        let means: Vec<f64> = input.values.chunks(side * side).map(|plane| plane.iter().sum::<f64>() / area).collect();
        let found = mean(images(shape, &input.to_lanes()), channels);
        close(&found.iter().copied().map(f64::from).collect::<Vec<_>>(), &means, 1e-6);
        let gradient: Vec<f32> = drawn(3, count * channels).iter().map(|&x| x as f32).collect();
        let result = mean_backward(&gradient, channels, side);
        let shares: Vec<f64> = gradient.iter().flat_map(|&g| vec![f64::from(g) / area; side * side]).collect();
        close(&Plain::from_lanes(images(shape, &result), channels).values, &shares, 1e-6);
    }
}
