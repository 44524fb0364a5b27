//! Backward pass of ReLU, and the gradient of the bias before it.

use super::{
    parallel,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
    team::Team,
    two_pass::{pieces, pieces_mut},
};

/// Pixels whose sum is taken in single precision; longer sums are in double precision.
const F32_RUN: usize = 256;

/// Masks the gradient of a ReLU in place: zero where `output` is not above zero. Returns the sum over all pixels,
/// which is the gradient of the bias of each channel. Both slices are `[channel blocks, pixels of all images]`.
///
/// # Panics
/// If the lengths differ, are zero, or are not whole blocks of `channels`.
pub fn backward(team: &Team, output: &[ChannelBlock], gradient: &mut [ChannelBlock], channels: usize) -> Vec<f32> {
    let blocks = channels.div_ceil(BLOCK);
    assert_eq!(output.len(), gradient.len(), "the gradient must have the shape of the other operand");
    assert!(
        !output.is_empty() && output.len().is_multiple_of(blocks),
        "the batch must be whole blocks of {channels} channels"
    );
    let pixels = output.len() / blocks;
    let pieces: Vec<_> = pieces(output, pixels).zip(pieces_mut(gradient, pixels)).collect();
    let per_block = pieces.len() / blocks;
    let mut sums = vec![[0.0; BLOCK]; pieces.len()];
    parallel::for_each(team, pieces.into_iter().zip(&mut sums).collect(), |((output, gradient), sum)| {
        team.level().run(Mask { output, gradient, sum });
    });
    let of_block = |sums: &[[f64; BLOCK]]| -> [f32; BLOCK] {
        std::array::from_fn(|channel| sums.iter().map(|sum| sum[channel]).sum::<f64>() as f32)
    };
    sums.chunks(per_block).flat_map(of_block).take(channels).collect()
}

/// A piece of one channel block.
struct Mask<'a> {
    output: &'a [ChannelBlock],
    gradient: &'a mut [ChannelBlock],
    sum: &'a mut [f64; BLOCK],
}

impl Kernel for Mask<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (outputs, gradients) in self.output.chunks(F32_RUN).zip(self.gradient.chunks_mut(F32_RUN)) {
            let mut sum = V::zero();
            for (output, place) in outputs.iter().zip(gradients) {
                let gradient = V::load(output).select_gt(V::zero(), V::load(place), V::zero());
                gradient.store(place);
                sum = sum.add(gradient);
            }
            let mut sums_of_run = ChannelBlock::default();
            sum.store(&mut sums_of_run);
            for channel in 0..BLOCK {
                self.sum[channel] += f64::from(sums_of_run.0[channel]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_close, from_blocks, levels, random_values, to_blocks};

    #[test]
    fn the_gradient_is_masked_and_summed_for_the_bias() {
        for (channels, pixels) in [(16, 1), (5, 7), (33, 300), (20, 5000)] {
            let output: Vec<f64> = random_values(1, channels * pixels).iter().map(|value| value.max(0.0)).collect();
            let gradient = random_values(2, channels * pixels);
            let shut = |(gradient, output): (&f64, &f64)| if *output > 0.0 { *gradient } else { 0.0 };
            let expected: Vec<f64> = gradient.iter().zip(&output).map(shut).collect();
            let sums: Vec<f64> = expected.chunks(pixels).map(|channel| channel.iter().sum()).collect();
            for (level, threads) in levels().flat_map(|level| [1, 3].map(|threads| (level, threads))) {
                let mut blocks = to_blocks(&gradient, channels);
                let team = Team::with_level(threads, level);
                let bias = backward(&team, &to_blocks(&output, channels), &mut blocks, channels);
                assert_eq!(from_blocks(&blocks, channels), expected, "{channels} by {pixels}, {level:?}");
                assert_close(&bias.into_iter().map(f64::from).collect::<Vec<_>>(), &sums, 1e-5);
            }
        }
    }
}
