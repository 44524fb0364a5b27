//! Comparison with plain loops in double precision, at every level, with odd sizes and several team sizes.

use super::*;
use crate::fixtures::{assert_close, from_blocks, levels, random_values, to_blocks};

/// Channels and pixels: less than a block and a run, odd sizes, and more than a piece.
const SIZES: [(usize, usize); 4] = [(5, 3), (16, 257), (40, 1_000), (33, 5_000)];

/// Input of the reference, in channel-major order.
struct Case {
    channels: usize,
    pixels: usize,
    input: Vec<f64>,
    shortcut: Vec<f64>,
    gradient: Vec<f64>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

const EPSILON: f64 = 1e-3;

impl Case {
    /// Channels of different spread, far from zero.
    fn new(channels: usize, pixels: usize) -> Self {
        let count = channels * pixels;
        let input = random_values(1, count).into_iter().enumerate().map(|(i, x)| {
            let channel = i / pixels;
            f64::from((x * (1.0 + channel as f64) + 10.0 * channel as f64 - 30.0) as f32)
        });
        Self {
            channels,
            pixels,
            input: input.collect(),
            shortcut: random_values(2, count),
            gradient: random_values(3, count),
            gamma: random_values(4, channels).iter().map(|&x| x as f32).collect(),
            beta: random_values(5, channels).iter().map(|&x| x as f32).collect(),
        }
    }

    fn norm(&self) -> Parameters<'_> {
        Parameters { gamma: &self.gamma, beta: &self.beta, epsilon: EPSILON }
    }

    fn blocks(&self, numbers: &[f64]) -> Vec<ChannelBlock> {
        to_blocks(numbers, self.channels)
    }

    fn numbers(&self, blocks: &[ChannelBlock]) -> Vec<f64> {
        from_blocks(blocks, self.channels)
    }

    /// Mean, variance and normalised input.
    fn normalised(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let count = self.pixels as f64;
        let mut normalised = Vec::new();
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        for channel in self.input.chunks(self.pixels) {
            let mean = channel.iter().sum::<f64>() / count;
            let variance = channel.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            normalised.extend(channel.iter().map(|x| (x - mean) / (variance + EPSILON).sqrt()));
            means.push(mean);
            variances.push(variance);
        }
        (means, variances, normalised)
    }

    /// Output, and the gradients of input, shortcut, gamma and beta.
    fn reference(&self, relu: bool, add: bool) -> (Vec<f64>, [Vec<f64>; 4]) {
        let (_, variances, normalised) = self.normalised();
        let (count, channel_of) = (self.pixels as f64, |i: usize| i / self.pixels);
        let output: Vec<f64> = normalised
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let channel = channel_of(i);
                let y = x * f64::from(self.gamma[channel])
                    + f64::from(self.beta[channel])
                    + if add { self.shortcut[i] } else { 0.0 };
                if relu { y.max(0.0) } else { y }
            })
            .collect();
        let passed: Vec<f64> =
            self.gradient.iter().zip(&output).map(|(g, y)| if relu && *y <= 0.0 { 0.0 } else { *g }).collect();
        let sums = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..self.channels).map(|c| (c * self.pixels..(c + 1) * self.pixels).map(f).sum()).collect()
        };
        let beta = sums(&|i| passed[i]);
        let gamma = sums(&|i| passed[i] * normalised[i]);
        let input = (0..passed.len()).map(|i| {
            let c = channel_of(i);
            let scale = f64::from(self.gamma[c]) / (variances[c] + EPSILON).sqrt();
            scale * (passed[i] - beta[c] / count - normalised[i] * gamma[c] / count)
        });
        (output, [input.collect(), passed.clone(), gamma, beta])
    }
}

fn singles(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

#[test]
fn statistics_and_outputs_match_the_reference() {
    for (case, level) in SIZES.iter().flat_map(|&(c, p)| levels().map(move |level| (Case::new(c, p), level))) {
        let (means, variances, _) = case.normalised();
        let (input, shortcut) = (case.blocks(&case.input), case.blocks(&case.shortcut));
        for (post_op, relu, add) in
            [(PostOp::Identity, false, false), (PostOp::Relu, true, false), (PostOp::AddRelu(&shortcut), true, true)]
        {
            let (output, statistics) = forward(&Team::with_level(2, level), case.norm(), &input, post_op);
            assert_close(&singles(&statistics.mean), &means, 1e-6);
            assert_close(&singles(&statistics.variance), &variances, 1e-5);
            assert_close(&case.numbers(&output), &case.reference(relu, add).0, 1e-5);
        }
    }
}

#[test]
fn gradients_match_the_reference() {
    for (case, level) in SIZES.iter().flat_map(|&(c, p)| levels().map(move |level| (Case::new(c, p), level))) {
        let (input, shortcut) = (case.blocks(&case.input), case.blocks(&case.shortcut));
        let team = Team::with_level(2, level);
        for (post_op, relu) in [(PostOp::Identity, false), (PostOp::Relu, true)] {
            let (_, statistics) = forward(&team, case.norm(), &input, post_op);
            let mut gradient = case.blocks(&case.gradient);
            let parameters = backward(&team, case.norm(), &statistics, &input, relu, &mut gradient);
            let (_, [of_input, _, gamma, beta]) = case.reference(relu, false);
            assert_close(&case.numbers(&gradient), &of_input, 1e-5);
            assert_close(&singles(&parameters.gamma), &gamma, 1e-5);
            assert_close(&singles(&parameters.beta), &beta, 1e-5);
        }
        let (output, statistics) = forward(&team, case.norm(), &input, PostOp::AddRelu(&shortcut));
        let mut gradient = case.blocks(&case.gradient);
        let (result, parameters) = backward_add(&team, case.norm(), &statistics, &input, &output, &mut gradient);
        let (_, [of_input, of_shortcut, gamma, beta]) = case.reference(true, true);
        assert_close(&case.numbers(&result), &of_input, 1e-5);
        assert_close(&case.numbers(&gradient), &of_shortcut, 1e-6);
        assert_close(&singles(&parameters.gamma), &gamma, 1e-5);
        assert_close(&singles(&parameters.beta), &beta, 1e-5);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::new(33, 5_000);
    let (input, shortcut) = (case.blocks(&case.input), case.blocks(&case.shortcut));
    for level in levels() {
        let outcome = |threads| {
            let team = Team::with_level(threads, level);
            let (output, statistics) = forward(&team, case.norm(), &input, PostOp::AddRelu(&shortcut));
            let mut gradient = case.blocks(&case.gradient);
            let added = backward_add(&team, case.norm(), &statistics, &input, &output, &mut gradient);
            let mut other = case.blocks(&case.gradient);
            let plain = backward(&team, case.norm(), &statistics, &input, true, &mut other);
            (output, statistics, gradient, added, other, plain)
        };
        let alone = outcome(1);
        for threads in [2, 3, 8] {
            assert!(outcome(threads) == alone, "{threads} threads gave a different result at {level:?}");
        }
    }
}

#[test]
fn a_relu_propagates_nan() {
    let case = Case::new(16, 300);
    let mut input = case.blocks(&case.input);
    input[7].0[3] = f32::NAN;
    for level in levels() {
        let (output, _) = forward(&Team::with_level(1, level), case.norm(), &input, PostOp::Relu);
        assert!(output.iter().all(|pixel| pixel.0[3].is_nan() && !pixel.0[4].is_nan()), "{level:?}");
    }
}
