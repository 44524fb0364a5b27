//! Sums over the pixels of a block: in single precision within a run, in double precision across runs.

use super::Normaliser;
use crate::simd::{BLOCK, ChannelBlock, Kernel, Vector};

/// Pixels of a run. They are read twice and stay in the L1 cache.
const F32_RUN: usize = 256;

/// Number of pixels, mean, and sum of squared distances from the mean, by channel.
///
/// Each run is reduced around its own mean, and runs are merged as in Chan, Golub & LeVeque 1979. So a channel whose
/// mean is large compared with its spread keeps the digits that a plain sum of squares would lose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    pub(super) mean: [f64; BLOCK],
    distance: [f64; BLOCK],
}

impl Moments {
    /// Merges the moments of all pieces, in order.
    pub(super) fn join(pieces: &[Self]) -> Self {
        pieces.iter().fold(Self::default(), |mut all, piece| {
            all.add(piece.count, piece.mean, piece.distance);
            all
        })
    }

    pub(super) fn variance(&self) -> [f64; BLOCK] {
        self.distance.map(|distance| distance / self.count)
    }

    fn add(&mut self, count: f64, mean: [f64; BLOCK], distance: [f64; BLOCK]) {
        let all = self.count + count;
        for channel in 0..BLOCK {
            let apart = mean[channel] - self.mean[channel];
            self.mean[channel] += apart * (count / all);
            self.distance[channel] += distance[channel] + apart * apart * (self.count * count / all);
        }
        self.count = all;
    }
}

/// Adds the pixels of a piece to its moments.
pub(super) struct MomentsKernel<'a> {
    pub(super) input: &'a [ChannelBlock],
    pub(super) moments: &'a mut Moments,
}

impl Kernel for MomentsKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for run in self.input.chunks(F32_RUN) {
            let count = run.len() as f64;
            let mean = wide(sum_with::<V>(run, V::zero(), |sum, distance| sum.add(distance))).map(|sum| sum / count);
            let near = narrow::<V>(mean);
            let distance = wide(sum_with::<V>(run, near, |sum, distance| distance.mul_add(distance, sum)));
            self.moments.add(count, mean, distance);
        }
    }
}

/// Sum of the gradient, and sum of its products with the distances of the input from its mean, by channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GradientSums {
    pub(super) gradient: [f64; BLOCK],
    pub(super) product: [f64; BLOCK],
}

impl GradientSums {
    /// Adds up all pieces, in order.
    pub(super) fn join(pieces: &[Self]) -> Self {
        pieces.iter().fold(Self::default(), |mut all, piece| {
            all.add(piece.gradient, piece.product);
            all
        })
    }

    fn add(&mut self, gradient: [f64; BLOCK], product: [f64; BLOCK]) {
        for channel in 0..BLOCK {
            self.gradient[channel] += gradient[channel];
            self.product[channel] += product[channel];
        }
    }
}

/// Sums the gradient where the normalised input is above `floor`.
pub(super) struct GradientSumsKernel<'a> {
    pub(super) input: &'a [ChannelBlock],
    pub(super) gradient: &'a [ChannelBlock],
    pub(super) normaliser: &'a Normaliser,
    pub(super) floor: f32,
    pub(super) sums: &'a mut GradientSums,
}

impl Kernel for GradientSumsKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mean = V::load(&self.normaliser.mean);
        for (inputs, gradients) in self.input.chunks(F32_RUN).zip(self.gradient.chunks(F32_RUN)) {
            let (mut sum, mut product) = (V::zero(), V::zero());
            for (input, gradient) in inputs.iter().zip(gradients) {
                let distance = V::load(input).sub(mean);
                let gradient = self.normaliser.masked(distance, self.floor, V::load(gradient));
                sum = sum.add(gradient);
                product = distance.mul_add(gradient, product);
            }
            self.sums.add(wide(sum), wide(product));
        }
    }
}

/// Masks the gradient in place where `output` is zero, and sums it.
pub(super) struct MaskedSumsKernel<'a> {
    pub(super) input: &'a [ChannelBlock],
    pub(super) output: &'a [ChannelBlock],
    pub(super) gradient: &'a mut [ChannelBlock],
    pub(super) normaliser: &'a Normaliser,
    pub(super) sums: &'a mut GradientSums,
}

impl Kernel for MaskedSumsKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mean = V::load(&self.normaliser.mean);
        let runs = self.input.chunks(F32_RUN).zip(self.output.chunks(F32_RUN)).zip(self.gradient.chunks_mut(F32_RUN));
        for ((inputs, outputs), gradients) in runs {
            let (mut sum, mut product) = (V::zero(), V::zero());
            for ((input, output), place) in inputs.iter().zip(outputs).zip(gradients) {
                let gradient = V::load(output).select_gt(V::zero(), V::load(place), V::zero());
                gradient.store(place);
                sum = sum.add(gradient);
                product = V::load(input).sub(mean).mul_add(gradient, product);
            }
            self.sums.add(wide(sum), wide(product));
        }
    }
}

/// Reduces the distances from `near` with `add`, in four independent sums to hide latency.
#[inline(always)]
fn sum_with<V: Vector>(run: &[ChannelBlock], near: V, add: impl Fn(V, V) -> V) -> V {
    let mut sums = [V::zero(); 4];
    let (fours, rest) = run.as_chunks::<4>();
    for four in fours {
        for (sum, block) in sums.iter_mut().zip(four) {
            *sum = add(*sum, V::load(block).sub(near));
        }
    }
    for (sum, block) in sums.iter_mut().zip(rest) {
        *sum = add(*sum, V::load(block).sub(near));
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3]))
}

#[inline(always)]
fn wide<V: Vector>(vector: V) -> [f64; BLOCK] {
    let mut block = ChannelBlock::default();
    vector.store(&mut block);
    block.0.map(f64::from)
}

#[inline(always)]
fn narrow<V: Vector>(numbers: [f64; BLOCK]) -> V {
    V::load(&ChannelBlock(numbers.map(|number| number as f32)))
}
