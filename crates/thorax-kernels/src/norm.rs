//! Batch normalisation with a batch's own statistics (Ioffe & Szegedy 2015, arXiv:1502.03167), and what follows it in a network: ReLU,
//! or the addition of the way around a block and ReLU.
//!
//! Batches are `[lanes of channels, pixels of all images]`. Each way is two sweeps over them, the first for the sums that the second
//! needs. What a ReLU let through is not kept: without an addition the backward pass computes it again, from what it reads anyway.

mod sums;
#[cfg(test)]
mod tests;

use sums::{GradientSums, MaskAndSum, Measure, Moments, SumWhereAbove};

use super::{
    memory::Buffer,
    simd::{Lane, Vector, WIDTH, Work, is_large},
    sweeps::{cut, cut_mut, sweep},
    team::Team,
};

/// A batch normalisation's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Scale of each channel.
    pub gamma: &'a [f32],
    /// Shift of each channel.
    pub beta: &'a [f32],
    /// What is added to the variance.
    pub epsilon: f64,
}

impl Norm<'_> {
    /// Pixels of a batch.
    ///
    /// # Panics
    /// If it is not as many lanes as the channels need, or empty.
    fn pixels(&self, batch: &[Lane]) -> usize {
        let lanes = self.gamma.len().div_ceil(WIDTH);
        assert!(self.beta.len() == self.gamma.len(), "as many shifts as scales");
        assert!(!batch.is_empty() && batch.len().is_multiple_of(lanes), "whole lanes of {} channels", self.gamma.len());
        batch.len() / lanes
    }

    /// What a lane's pixels are computed with.
    fn line(&self, lane: usize, mean: [f32; WIDTH], variance: [f32; WIDTH]) -> Line {
        let gamma = lane_of(self.gamma, lane);
        let deviation = variance.map(|variance| (f64::from(variance) + self.epsilon).sqrt());
        let scale = std::array::from_fn(|channel| (f64::from(gamma[channel]) / deviation[channel]) as f32);
        Line { mean: Lane(mean), deviation, scale: Lane(scale), beta: Lane(lane_of(self.beta, lane)) }
    }

    /// Sixteen numbers of each lane, without those beyond the last channel.
    fn channels(&self, lanes: impl Iterator<Item = [f32; WIDTH]>) -> Vec<f32> {
        lanes.flatten().take(self.gamma.len()).collect()
    }
}

/// What follows the normalisation.
#[derive(Clone, Copy, Debug)]
pub enum Then<'a> {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// The addition of this batch, then ReLU.
    AddRelu(&'a [Lane]),
}

/// What a batch says about itself: the backward pass and the running statistics need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Mean square distance from it of each channel: the sum divided by the count, not by one less.
    pub variance: Vec<f32>,
}

/// Gradients of the parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGradients {
    /// Of the scale.
    pub gamma: Vec<f32>,
    /// Of the shift.
    pub beta: Vec<f32>,
}

/// The normalised batch after what follows, and its statistics.
///
/// # Panics
/// If the batch is not whole lanes of as many channels as there are parameters, or empty.
pub fn forward(team: &Team, norm: Norm<'_>, input: &[Lane], then: Then<'_>) -> (Buffer, Statistics) {
    let pixels = norm.pixels(input);
    let (floor, around) = match then {
        Then::Nothing => (f32::NEG_INFINITY, None),
        Then::Relu => (0.0, None),
        Then::AddRelu(around) => (0.0, Some(around)),
    };
    assert!(around.is_none_or(|around| around.len() == input.len()), "a way around of the same shape");
    let mut output = Buffer::new(input.len());
    let mut around = around.map(|around| cut(around, pixels));
    let pieces = cut(input, pixels).zip(cut_mut(&mut output, pixels));
    let pieces = pieces.map(|(input, output)| (input, around.as_mut().and_then(Iterator::next), output)).collect();
    let sum = |_, (input, _, _): &mut (&[Lane], _, _)| {
        let mut moments = Moments::default();
        team.level().run(Measure { input, moments: &mut moments });
        moments
    };
    let decide = |lane, moments: &[Moments]| {
        let moments = Moments::join(moments);
        let (mean, variance) =
            (moments.mean.map(|mean| mean as f32), moments.variance().map(|variance| variance as f32));
        (norm.line(lane, mean, variance), variance)
    };
    let stream = is_large(input.len());
    let lanes = sweep(team, pieces, pixels, sum, decide, |(input, around, output), (line, _)| {
        team.level().run(Normalise { input, around: *around, output, line, floor, stream });
    });
    let mean = norm.channels(lanes.iter().map(|(line, _)| line.mean.0));
    let variance = norm.channels(lanes.iter().map(|(_, variance)| *variance));
    (output, Statistics { mean, variance })
}

/// From the gradient of the output, in place, that of the input: of [`Then::Relu`] if `relu`, else of [`Then::Nothing`].
///
/// # Panics
/// If the shapes differ.
pub fn backward(
    team: &Team,
    norm: Norm<'_>,
    statistics: &Statistics,
    input: &[Lane],
    relu: bool,
    gradient: &mut [Lane],
) -> ParameterGradients {
    let pixels = norm.pixels(input);
    assert_eq!(input.len(), gradient.len(), "a gradient of the same shape");
    let lines = statistics.lines(&norm);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let pieces = cut(input, pixels).zip(cut_mut(gradient, pixels)).collect();
    let sum = |lane: usize, (input, gradient): &mut (&[Lane], &mut [Lane])| {
        let mut sums = GradientSums::default();
        team.level().run(SumWhereAbove { input, gradient, line: &lines[lane], floor, sums: &mut sums });
        sums
    };
    let decide = |lane: usize, sums: &[GradientSums]| Slope::new(&lines[lane], GradientSums::join(sums), pixels);
    let slopes = sweep(team, pieces, pixels, sum, decide, |(input, gradient), slope| {
        team.level().run(Descend { input, gradient, slope, floor });
    });
    norm.gradients(&slopes)
}

/// As [`backward`], of [`Then::AddRelu`], which gave `output`: `gradient` becomes that of the way around, and that of the input comes
/// back.
///
/// # Panics
/// If the shapes differ.
pub fn backward_add(
    team: &Team,
    norm: Norm<'_>,
    statistics: &Statistics,
    input: &[Lane],
    output: &[Lane],
    gradient: &mut [Lane],
) -> (Buffer, ParameterGradients) {
    let pixels = norm.pixels(input);
    assert!(input.len() == gradient.len() && input.len() == output.len(), "output and gradient of the same shape");
    let lines = statistics.lines(&norm);
    let mut result = Buffer::new(input.len());
    let pieces =
        cut(input, pixels).zip(cut(output, pixels)).zip(cut_mut(gradient, pixels)).zip(cut_mut(&mut result, pixels));
    let pieces = pieces.map(|(((input, output), gradient), result)| (input, output, gradient, result)).collect();
    let sum = |lane: usize, (input, output, gradient, _): &mut (&[Lane], &[Lane], &mut [Lane], _)| {
        let mut sums = GradientSums::default();
        team.level().run(MaskAndSum { input, output, gradient, line: &lines[lane], sums: &mut sums });
        sums
    };
    let decide = |lane: usize, sums: &[GradientSums]| Slope::new(&lines[lane], GradientSums::join(sums), pixels);
    let stream = is_large(input.len());
    let slopes = sweep(team, pieces, pixels, sum, decide, |(input, _, gradient, result), slope| {
        team.level().run(DescendTo { input, gradient, result, slope, stream });
    });
    (result, norm.gradients(&slopes))
}

impl Statistics {
    fn lines(&self, norm: &Norm<'_>) -> Vec<Line> {
        let lanes = norm.gamma.len().div_ceil(WIDTH);
        (0..lanes).map(|lane| norm.line(lane, lane_of(&self.mean, lane), lane_of(&self.variance, lane))).collect()
    }
}

impl Norm<'_> {
    fn gradients(&self, slopes: &[Slope]) -> ParameterGradients {
        ParameterGradients {
            gamma: self.channels(slopes.iter().map(|slope| slope.gamma)),
            beta: self.channels(slopes.iter().map(|slope| slope.beta)),
        }
    }
}

/// Sixteen channels of a row of numbers; beyond its end are zeros.
fn lane_of(numbers: &[f32], lane: usize) -> [f32; WIDTH] {
    std::array::from_fn(|channel| numbers.get(lane * WIDTH + channel).copied().unwrap_or(0.0))
}

/// A lane's normalisation: `(input - mean) * scale + beta`.
struct Line {
    mean: Lane,
    /// Square root of variance and epsilon.
    deviation: [f64; WIDTH],
    /// Gamma by the deviation.
    scale: Lane,
    beta: Lane,
}

impl Line {
    /// The gradient where the normalised input, of that distance from the mean, is above `floor`. As the forward pass computed it, to
    /// the last bit.
    #[inline(always)]
    fn let_through<V: Vector>(&self, distance: V, floor: f32, gradient: V) -> V {
        let normalised = distance.mul_add(V::load(&self.scale), V::load(&self.beta));
        normalised.pick(V::splat(floor), gradient, V::zero())
    }
}

/// A lane's backward pass: `(gradient - mean gradient - distance * slope) * scale`.
struct Slope<'a> {
    line: &'a Line,
    mean_gradient: Lane,
    /// Negative.
    slope: Lane,
    gamma: [f32; WIDTH],
    beta: [f32; WIDTH],
}

impl<'a> Slope<'a> {
    fn new(line: &'a Line, sums: GradientSums, pixels: usize) -> Self {
        let count = pixels as f64;
        let by = |f: &dyn Fn(usize) -> f64| std::array::from_fn(|channel| f(channel) as f32);
        let (sum, product, deviation) = (&sums.gradient, &sums.product, &line.deviation);
        Self {
            line,
            mean_gradient: Lane(by(&|channel| sum[channel] / count)),
            slope: Lane(by(&|channel| -product[channel] / (deviation[channel] * deviation[channel] * count))),
            gamma: by(&|channel| product[channel] / deviation[channel]),
            beta: by(&|channel| sum[channel]),
        }
    }

    #[inline(always)]
    fn descend<V: Vector>(&self, distance: V, gradient: V) -> V {
        let apart = gradient.sub(V::load(&self.mean_gradient));
        distance.mul_add(V::load(&self.slope), apart).mul(V::load(&self.line.scale))
    }
}

/// Writes the normalised pixels.
struct Normalise<'a> {
    input: &'a [Lane],
    around: Option<&'a [Lane]>,
    output: &'a mut [Lane],
    line: &'a Line,
    floor: f32,
    /// Whether the output is [large](is_large).
    stream: bool,
}

impl Work for Normalise<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Line { mean, scale, beta, .. } = self.line;
        let (mean, scale, beta, floor) = (V::load(mean), V::load(scale), V::load(beta), V::splat(self.floor));
        let normalised = |input: &Lane| V::load(input).sub(mean).mul_add(scale, beta);
        // The larger of floor and number in this order: what is not a number stays so, and is not hidden by the ReLU.
        match self.around {
            None => {
                for (input, output) in self.input.iter().zip(self.output) {
                    put(floor.max(normalised(input)), output, self.stream);
                }
            }
            Some(around) => {
                for ((input, around), output) in self.input.iter().zip(around).zip(self.output) {
                    put(floor.max(normalised(input).add(V::load(around))), output, self.stream);
                }
            }
        }
        V::settle();
    }
}

/// Makes the gradient that of the input.
struct Descend<'a> {
    input: &'a [Lane],
    gradient: &'a mut [Lane],
    slope: &'a Slope<'a>,
    floor: f32,
}

impl Work for Descend<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let line = self.slope.line;
        for (input, place) in self.input.iter().zip(self.gradient) {
            let distance = V::load(input).sub(V::load(&line.mean));
            let gradient = line.let_through(distance, self.floor, V::load(place));
            self.slope.descend(distance, gradient).store(place);
        }
    }
}

/// Writes the gradient of the input.
struct DescendTo<'a> {
    input: &'a [Lane],
    gradient: &'a [Lane],
    result: &'a mut [Lane],
    slope: &'a Slope<'a>,
    /// Whether the result is [large](is_large).
    stream: bool,
}

impl Work for DescendTo<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for ((input, gradient), place) in self.input.iter().zip(self.gradient).zip(self.result) {
            let distance = V::load(input).sub(V::load(&self.slope.line.mean));
            put(self.slope.descend(distance, V::load(gradient)), place, self.stream);
        }
        V::settle();
    }
}

#[inline(always)]
fn put<V: Vector>(value: V, place: &mut Lane, stream: bool) {
    if stream { value.stream(place) } else { value.store(place) }
}
