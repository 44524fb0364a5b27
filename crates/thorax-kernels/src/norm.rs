//! Batch normalisation with batch statistics (Ioffe & Szegedy 2015, arXiv:1502.03167), fused with the following ReLU,
//! or with the addition of a shortcut and ReLU.
//!
//! Batches are `[channel blocks, pixels of all images]`. Each direction takes two passes: the first computes sums
//! that the second needs. The ReLU mask is not stored: without an addition the backward pass recomputes it from its
//! input.

mod sums;
#[cfg(test)]
mod tests;

use sums::{GradientSums, GradientSumsKernel, MaskedSumsKernel, Moments, MomentsKernel};

use super::{
    memory::Buffer,
    simd::{BLOCK, ChannelBlock, Kernel, Vector, exceeds_cache},
    team::Team,
    two_pass::{pieces, pieces_mut, two_pass},
};

/// Parameters of a batch normalisation.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// Scale of each channel.
    pub gamma: &'a [f32],
    /// Shift of each channel.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f64,
}

impl Parameters<'_> {
    /// Pixels of a batch.
    ///
    /// # Panics
    /// If the batch is empty or does not have the channel blocks of the parameters.
    fn pixels(&self, batch: &[ChannelBlock]) -> usize {
        let blocks = self.gamma.len().div_ceil(BLOCK);
        assert!(self.beta.len() == self.gamma.len(), "there must be one shift per scale");
        assert!(
            !batch.is_empty() && batch.len().is_multiple_of(blocks),
            "the batch must be whole blocks of {} channels",
            self.gamma.len()
        );
        batch.len() / blocks
    }

    /// Normalisation of one channel block.
    fn normaliser(&self, block: usize, mean: [f32; BLOCK], variance: [f32; BLOCK]) -> Normaliser {
        let gamma = block_of(self.gamma, block);
        let deviation = variance.map(|variance| (f64::from(variance) + self.epsilon).sqrt());
        let scale = std::array::from_fn(|channel| (f64::from(gamma[channel]) / deviation[channel]) as f32);
        Normaliser {
            mean: ChannelBlock(mean),
            deviation,
            scale: ChannelBlock(scale),
            beta: ChannelBlock(block_of(self.beta, block)),
        }
    }

    /// Concatenates sixteen numbers per block, without those beyond the last channel.
    fn channels(&self, blocks: impl Iterator<Item = [f32; BLOCK]>) -> Vec<f32> {
        blocks.flatten().take(self.gamma.len()).collect()
    }
}

/// Operation fused after the normalisation.
#[derive(Clone, Copy, Debug)]
pub enum PostOp<'a> {
    /// None.
    Identity,
    /// ReLU.
    Relu,
    /// Addition of a shortcut of the same shape, then ReLU.
    AddRelu(&'a [ChannelBlock]),
}

/// Statistics of a batch. The backward pass and the running statistics need them.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Biased variance of each channel (divided by n, not n - 1).
    pub variance: Vec<f32>,
}

/// Gradients of the parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGradients {
    /// Gradient of the scale.
    pub gamma: Vec<f32>,
    /// Gradient of the shift.
    pub beta: Vec<f32>,
}

/// Normalises a batch and applies `post_op`. Returns the output and the statistics.
///
/// # Panics
/// If the batch is empty or does not have the channel blocks of the parameters.
pub fn forward(team: &Team, norm: Parameters<'_>, input: &[ChannelBlock], post_op: PostOp<'_>) -> (Buffer, Statistics) {
    let pixels = norm.pixels(input);
    let (floor, shortcut) = match post_op {
        PostOp::Identity => (f32::NEG_INFINITY, None),
        PostOp::Relu => (0.0, None),
        PostOp::AddRelu(shortcut) => (0.0, Some(shortcut)),
    };
    assert!(
        shortcut.is_none_or(|shortcut| shortcut.len() == input.len()),
        "the shortcut must have the shape of the input"
    );
    let mut output = Buffer::new(input.len());
    let mut shortcut = shortcut.map(|shortcut| pieces(shortcut, pixels));
    let pieces = pieces(input, pixels).zip(pieces_mut(&mut output, pixels));
    let pieces = pieces.map(|(input, output)| (input, shortcut.as_mut().and_then(Iterator::next), output)).collect();
    let sum = |_, (input, _, _): &mut (&[ChannelBlock], _, _)| {
        let mut moments = Moments::default();
        team.level().run(MomentsKernel { input, moments: &mut moments });
        moments
    };
    let decide = |block, moments: &[Moments]| {
        let moments = Moments::join(moments);
        let (mean, variance) =
            (moments.mean.map(|mean| mean as f32), moments.variance().map(|variance| variance as f32));
        (norm.normaliser(block, mean, variance), variance)
    };
    let nontemporal = exceeds_cache(input.len());
    let blocks = two_pass(team, pieces, pixels, sum, decide, |(input, shortcut, output), (normaliser, _)| {
        team.level().run(ForwardKernel { input, shortcut: *shortcut, output, normaliser, floor, nontemporal });
    });
    let mean = norm.channels(blocks.iter().map(|(normaliser, _)| normaliser.mean.0));
    let variance = norm.channels(blocks.iter().map(|(_, variance)| *variance));
    (output, Statistics { mean, variance })
}

/// Replaces the gradient of the output by the gradient of the input, for [`PostOp::Relu`] if `relu` is set, else for
/// [`PostOp::Identity`].
///
/// # Panics
/// If the shapes differ.
pub fn backward(
    team: &Team,
    norm: Parameters<'_>,
    statistics: &Statistics,
    input: &[ChannelBlock],
    relu: bool,
    gradient: &mut [ChannelBlock],
) -> ParameterGradients {
    let pixels = norm.pixels(input);
    assert_eq!(input.len(), gradient.len(), "the gradient must have the shape of the other operand");
    let normalisers = statistics.normalisers(&norm);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let pieces = pieces(input, pixels).zip(pieces_mut(gradient, pixels)).collect();
    let sum = |block: usize, (input, gradient): &mut (&[ChannelBlock], &mut [ChannelBlock])| {
        let mut sums = GradientSums::default();
        team.level().run(GradientSumsKernel {
            input,
            gradient,
            normaliser: &normalisers[block],
            floor,
            sums: &mut sums,
        });
        sums
    };
    let decide =
        |block: usize, sums: &[GradientSums]| GradientTerms::new(&normalisers[block], GradientSums::join(sums), pixels);
    let slopes = two_pass(team, pieces, pixels, sum, decide, |(input, gradient), slope| {
        team.level().run(BackwardKernel { input, gradient, slope, floor });
    });
    norm.gradients(&slopes)
}

/// Backward pass of [`PostOp::AddRelu`], whose result was `output`: `gradient` becomes the gradient of the shortcut,
/// and the gradient of the input is returned.
///
/// # Panics
/// If the shapes differ.
pub fn backward_add(
    team: &Team,
    norm: Parameters<'_>,
    statistics: &Statistics,
    input: &[ChannelBlock],
    output: &[ChannelBlock],
    gradient: &mut [ChannelBlock],
) -> (Buffer, ParameterGradients) {
    let pixels = norm.pixels(input);
    assert!(
        input.len() == gradient.len() && input.len() == output.len(),
        "output and gradient must have the shape of the input"
    );
    let normalisers = statistics.normalisers(&norm);
    let mut result = Buffer::new(input.len());
    let pieces = pieces(input, pixels)
        .zip(pieces(output, pixels))
        .zip(pieces_mut(gradient, pixels))
        .zip(pieces_mut(&mut result, pixels));
    let pieces = pieces.map(|(((input, output), gradient), result)| (input, output, gradient, result)).collect();
    let sum =
        |block: usize,
         (input, output, gradient, _): &mut (&[ChannelBlock], &[ChannelBlock], &mut [ChannelBlock], _)| {
            let mut sums = GradientSums::default();
            team.level().run(MaskedSumsKernel {
                input,
                output,
                gradient,
                normaliser: &normalisers[block],
                sums: &mut sums,
            });
            sums
        };
    let decide =
        |block: usize, sums: &[GradientSums]| GradientTerms::new(&normalisers[block], GradientSums::join(sums), pixels);
    let nontemporal = exceeds_cache(input.len());
    let slopes = two_pass(team, pieces, pixels, sum, decide, |(input, _, gradient, result), slope| {
        team.level().run(BackwardToKernel { input, gradient, result, slope, nontemporal });
    });
    (result, norm.gradients(&slopes))
}

impl Statistics {
    fn normalisers(&self, norm: &Parameters<'_>) -> Vec<Normaliser> {
        let blocks = norm.gamma.len().div_ceil(BLOCK);
        (0..blocks)
            .map(|block| norm.normaliser(block, block_of(&self.mean, block), block_of(&self.variance, block)))
            .collect()
    }
}

impl Parameters<'_> {
    fn gradients(&self, slopes: &[GradientTerms]) -> ParameterGradients {
        ParameterGradients {
            gamma: self.channels(slopes.iter().map(|slope| slope.gamma)),
            beta: self.channels(slopes.iter().map(|slope| slope.beta)),
        }
    }
}

/// Sixteen channels of a row of numbers, zeros beyond its end.
fn block_of(numbers: &[f32], block: usize) -> [f32; BLOCK] {
    std::array::from_fn(|channel| numbers.get(block * BLOCK + channel).copied().unwrap_or(0.0))
}

/// Normalisation of one block: `(input - mean) * scale + beta`.
struct Normaliser {
    mean: ChannelBlock,
    /// Square root of variance plus epsilon.
    deviation: [f64; BLOCK],
    /// Gamma divided by the deviation.
    scale: ChannelBlock,
    beta: ChannelBlock,
}

impl Normaliser {
    /// Gradient where the normalised input is above `floor`, else zero; `distance` is the input minus the mean.
    /// Computed exactly as in the forward pass, bit for bit.
    #[inline(always)]
    fn masked<V: Vector>(&self, distance: V, floor: f32, gradient: V) -> V {
        let normalised = distance.mul_add(V::load(&self.scale), V::load(&self.beta));
        normalised.select_gt(V::splat(floor), gradient, V::zero())
    }
}

/// Backward pass of one block: `(gradient - mean gradient + distance * slope) * scale`.
struct GradientTerms<'a> {
    normaliser: &'a Normaliser,
    mean_gradient: ChannelBlock,
    /// Slope of the input gradient over the distance from the mean, with its sign.
    slope: ChannelBlock,
    gamma: [f32; BLOCK],
    beta: [f32; BLOCK],
}

impl<'a> GradientTerms<'a> {
    fn new(normaliser: &'a Normaliser, sums: GradientSums, pixels: usize) -> Self {
        let count = pixels as f64;
        let by = |f: &dyn Fn(usize) -> f64| std::array::from_fn(|channel| f(channel) as f32);
        let (sum, product, deviation) = (&sums.gradient, &sums.product, &normaliser.deviation);
        Self {
            normaliser,
            mean_gradient: ChannelBlock(by(&|channel| sum[channel] / count)),
            slope: ChannelBlock(by(&|channel| -product[channel] / (deviation[channel] * deviation[channel] * count))),
            gamma: by(&|channel| product[channel] / deviation[channel]),
            beta: by(&|channel| sum[channel]),
        }
    }

    #[inline(always)]
    fn apply<V: Vector>(&self, distance: V, gradient: V) -> V {
        let centred = gradient.sub(V::load(&self.mean_gradient));
        distance.mul_add(V::load(&self.slope), centred).mul(V::load(&self.normaliser.scale))
    }
}

/// Normalises and applies the post-op.
struct ForwardKernel<'a> {
    input: &'a [ChannelBlock],
    shortcut: Option<&'a [ChannelBlock]>,
    output: &'a mut [ChannelBlock],
    normaliser: &'a Normaliser,
    floor: f32,
    /// True to bypass the cache, see [`exceeds_cache`].
    nontemporal: bool,
}

impl Kernel for ForwardKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Normaliser { mean, scale, beta, .. } = self.normaliser;
        let (mean, scale, beta, floor) = (V::load(mean), V::load(scale), V::load(beta), V::splat(self.floor));
        let normalised = |input: &ChannelBlock| V::load(input).sub(mean).mul_add(scale, beta);
        // The operand order propagates NaN: a ReLU must not hide it.
        match self.shortcut {
            None => {
                for (input, output) in self.input.iter().zip(self.output) {
                    store_maybe_nontemporal(floor.max(normalised(input)), output, self.nontemporal);
                }
            }
            Some(shortcut) => {
                for ((input, shortcut), output) in self.input.iter().zip(shortcut).zip(self.output) {
                    store_maybe_nontemporal(
                        floor.max(normalised(input).add(V::load(shortcut))),
                        output,
                        self.nontemporal,
                    );
                }
            }
        }
        V::store_fence();
    }
}

/// Replaces the gradient of the output by that of the input.
struct BackwardKernel<'a> {
    input: &'a [ChannelBlock],
    gradient: &'a mut [ChannelBlock],
    slope: &'a GradientTerms<'a>,
    floor: f32,
}

impl Kernel for BackwardKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let normaliser = self.slope.normaliser;
        for (input, place) in self.input.iter().zip(self.gradient) {
            let distance = V::load(input).sub(V::load(&normaliser.mean));
            let gradient = normaliser.masked(distance, self.floor, V::load(place));
            self.slope.apply(distance, gradient).store(place);
        }
    }
}

/// Writes the gradient of the input to a second buffer.
struct BackwardToKernel<'a> {
    input: &'a [ChannelBlock],
    gradient: &'a [ChannelBlock],
    result: &'a mut [ChannelBlock],
    slope: &'a GradientTerms<'a>,
    /// True to bypass the cache, see [`exceeds_cache`].
    nontemporal: bool,
}

impl Kernel for BackwardToKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for ((input, gradient), place) in self.input.iter().zip(self.gradient).zip(self.result) {
            let distance = V::load(input).sub(V::load(&self.slope.normaliser.mean));
            store_maybe_nontemporal(self.slope.apply(distance, V::load(gradient)), place, self.nontemporal);
        }
        V::store_fence();
    }
}

#[inline(always)]
fn store_maybe_nontemporal<V: Vector>(value: V, place: &mut ChannelBlock, nontemporal: bool) {
    if nontemporal { value.store_nontemporal(place) } else { value.store(place) }
}
