//! The way back through a ReLU, and the gradient of the bias before it.

use super::{
    parts,
    simd::{Lane, Vector, WIDTH, Work},
    sweeps::{cut, cut_mut},
    team::Team,
};

/// Pixels whose sums are taken in single precision; beyond, in double.
const BLOCK: usize = 256;

/// Lets the gradient of what a ReLU gave through where that is above zero, in place, and sums it over all pixels: the gradient of each
/// channel's bias. Both are `[lanes of channels, pixels of all images]`.
///
/// # Panics
/// If they are not as many lanes as the channels need, or empty.
pub fn backward(team: &Team, output: &[Lane], gradient: &mut [Lane], channels: usize) -> Vec<f32> {
    let lanes = channels.div_ceil(WIDTH);
    assert_eq!(output.len(), gradient.len(), "a gradient of the same shape");
    assert!(!output.is_empty() && output.len().is_multiple_of(lanes), "whole lanes of {channels} channels");
    let pixels = output.len() / lanes;
    let pieces: Vec<_> = cut(output, pixels).zip(cut_mut(gradient, pixels)).collect();
    let in_lane = pieces.len() / lanes;
    let mut sums = vec![[0.0; WIDTH]; pieces.len()];
    parts::each(team, pieces.into_iter().zip(&mut sums).collect(), |((output, gradient), sum)| {
        team.level().run(Mask { output, gradient, sum });
    });
    let of_lane = |sums: &[[f64; WIDTH]]| -> [f32; WIDTH] {
        std::array::from_fn(|channel| sums.iter().map(|sum| sum[channel]).sum::<f64>() as f32)
    };
    sums.chunks(in_lane).flat_map(of_lane).take(channels).collect()
}

/// A piece of one lane.
struct Mask<'a> {
    output: &'a [Lane],
    gradient: &'a mut [Lane],
    sum: &'a mut [f64; WIDTH],
}

impl Work for Mask<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (outputs, gradients) in self.output.chunks(BLOCK).zip(self.gradient.chunks_mut(BLOCK)) {
            let mut sum = V::zero();
            for (output, place) in outputs.iter().zip(gradients) {
                let gradient = V::load(output).pick(V::zero(), V::load(place), V::zero());
                gradient.store(place);
                sum = sum.add(gradient);
            }
            let mut block = Lane::default();
            sum.store(&mut block);
            for channel in 0..WIDTH {
                self.sum[channel] += f64::from(block.0[channel]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{close, drawn, lanes_of, levels, numbers_of};

    #[test]
    fn what_a_relu_shut_gets_no_gradient_and_a_bias_the_sum_of_the_rest() {
        for (channels, pixels) in [(16, 1), (5, 7), (33, 300), (20, 5000)] {
            let output: Vec<f64> = drawn(1, channels * pixels).iter().map(|value| value.max(0.0)).collect();
            let gradient = drawn(2, channels * pixels);
            let shut = |(gradient, output): (&f64, &f64)| if *output > 0.0 { *gradient } else { 0.0 };
            let expected: Vec<f64> = gradient.iter().zip(&output).map(shut).collect();
            let sums: Vec<f64> = expected.chunks(pixels).map(|channel| channel.iter().sum()).collect();
            for (level, threads) in levels().flat_map(|level| [1, 3].map(|threads| (level, threads))) {
                let mut lanes = lanes_of(&gradient, channels);
                let team = Team::with_level(threads, level);
                let bias = backward(&team, &lanes_of(&output, channels), &mut lanes, channels);
                assert_eq!(numbers_of(&lanes, channels), expected, "{channels} by {pixels}, {level:?}");
                close(&bias.into_iter().map(f64::from).collect::<Vec<_>>(), &sums, 1e-5);
            }
        }
    }
}
