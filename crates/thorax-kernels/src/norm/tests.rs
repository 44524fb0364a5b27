//! Against plain loops in double precision, at every level, with odd sizes and several teams.

use super::*;
use crate::fixtures::{close, drawn, lanes_of, levels, numbers_of};

/// Channels and pixels: less than a lane and a block, odd ones, and more than a piece.
const SIZES: [(usize, usize); 4] = [(5, 3), (16, 257), (40, 1_000), (33, 5_000)];

/// What the twin needs: channel by channel.
struct Case {
    channels: usize,
    pixels: usize,
    input: Vec<f64>,
    around: Vec<f64>,
    gradient: Vec<f64>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

const EPSILON: f64 = 1e-3;

impl Case {
    /// Channels of different spread, far from zero.
    fn new(channels: usize, pixels: usize) -> Self {
        let count = channels * pixels;
        let input = drawn(1, count).into_iter().enumerate().map(|(i, x)| {
            let channel = i / pixels;
            f64::from((x * (1.0 + channel as f64) + 10.0 * channel as f64 - 30.0) as f32)
        });
        Self {
            channels,
            pixels,
            input: input.collect(),
            around: drawn(2, count),
            gradient: drawn(3, count),
            gamma: drawn(4, channels).iter().map(|&x| x as f32).collect(),
            beta: drawn(5, channels).iter().map(|&x| x as f32).collect(),
        }
    }

    fn norm(&self) -> Norm<'_> {
        Norm { gamma: &self.gamma, beta: &self.beta, epsilon: EPSILON }
    }

    fn lanes(&self, numbers: &[f64]) -> Vec<Lane> {
        lanes_of(numbers, self.channels)
    }

    fn numbers(&self, lanes: &[Lane]) -> Vec<f64> {
        numbers_of(lanes, self.channels)
    }

    /// Mean, variance and their normalised input.
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

    /// Output, and the gradients of input, way around, gamma and beta.
    fn twin(&self, relu: bool, add: bool) -> (Vec<f64>, [Vec<f64>; 4]) {
        let (_, variances, normalised) = self.normalised();
        let (count, channel_of) = (self.pixels as f64, |i: usize| i / self.pixels);
        let output: Vec<f64> = normalised
            .iter()
            .enumerate()
            .map(|(i, x)| {
                let channel = channel_of(i);
                let y = x * f64::from(self.gamma[channel])
                    + f64::from(self.beta[channel])
                    + if add { self.around[i] } else { 0.0 };
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
fn statistics_and_outputs_are_the_twins() {
    for (case, level) in SIZES.iter().flat_map(|&(c, p)| levels().map(move |level| (Case::new(c, p), level))) {
        let (means, variances, _) = case.normalised();
        let (input, around) = (case.lanes(&case.input), case.lanes(&case.around));
        for (then, relu, add) in
            [(Then::Nothing, false, false), (Then::Relu, true, false), (Then::AddRelu(&around), true, true)]
        {
            let (output, statistics) = forward(&Team::with_level(2, level), case.norm(), &input, then);
            close(&singles(&statistics.mean), &means, 1e-6);
            close(&singles(&statistics.variance), &variances, 1e-5);
            close(&case.numbers(&output), &case.twin(relu, add).0, 1e-5);
        }
    }
}

#[test]
fn gradients_are_the_twins() {
    for (case, level) in SIZES.iter().flat_map(|&(c, p)| levels().map(move |level| (Case::new(c, p), level))) {
        let (input, around) = (case.lanes(&case.input), case.lanes(&case.around));
        let team = Team::with_level(2, level);
        for (then, relu) in [(Then::Nothing, false), (Then::Relu, true)] {
            let (_, statistics) = forward(&team, case.norm(), &input, then);
            let mut gradient = case.lanes(&case.gradient);
            let parameters = backward(&team, case.norm(), &statistics, &input, relu, &mut gradient);
            let (_, [of_input, _, gamma, beta]) = case.twin(relu, false);
            close(&case.numbers(&gradient), &of_input, 1e-5);
            close(&singles(&parameters.gamma), &gamma, 1e-5);
            close(&singles(&parameters.beta), &beta, 1e-5);
        }
        let (output, statistics) = forward(&team, case.norm(), &input, Then::AddRelu(&around));
        let mut gradient = case.lanes(&case.gradient);
        let (result, parameters) = backward_add(&team, case.norm(), &statistics, &input, &output, &mut gradient);
        let (_, [of_input, of_around, gamma, beta]) = case.twin(true, true);
        close(&case.numbers(&result), &of_input, 1e-5);
        close(&case.numbers(&gradient), &of_around, 1e-6);
        close(&singles(&parameters.gamma), &gamma, 1e-5);
        close(&singles(&parameters.beta), &beta, 1e-5);
    }
}

#[test]
fn the_numbers_do_not_depend_on_the_team() {
    let case = Case::new(33, 5_000);
    let (input, around) = (case.lanes(&case.input), case.lanes(&case.around));
    for level in levels() {
        let outcome = |threads| {
            let team = Team::with_level(threads, level);
            let (output, statistics) = forward(&team, case.norm(), &input, Then::AddRelu(&around));
            let mut gradient = case.lanes(&case.gradient);
            let added = backward_add(&team, case.norm(), &statistics, &input, &output, &mut gradient);
            let mut other = case.lanes(&case.gradient);
            let plain = backward(&team, case.norm(), &statistics, &input, true, &mut other);
            (output, statistics, gradient, added, other, plain)
        };
        let alone = outcome(1);
        for threads in [2, 3, 8] {
            assert!(outcome(threads) == alone, "{threads} threads gave other numbers at {level:?}");
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden_by_the_relu() {
    let case = Case::new(16, 300);
    let mut input = case.lanes(&case.input);
    input[7].0[3] = f32::NAN;
    for level in levels() {
        let (output, _) = forward(&Team::with_level(1, level), case.norm(), &input, Then::Relu);
        assert!(output.iter().all(|pixel| pixel.0[3].is_nan() && !pixel.0[4].is_nan()), "{level:?}");
    }
}
