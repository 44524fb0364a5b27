//! Adam optimizer (Kingma & Ba 2015, arXiv:1412.6980), fused into one pass over each parameter.

use super::{
    parallel,
    simd::{BLOCK, Kernel, Vector},
    team::Team,
};

/// Elements per work item.
const CHUNK: usize = 16 << 10;

/// Hyper-parameters of one Adam step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay rate of the first moment (mean of the gradients).
    pub beta_1: f32,
    /// Decay rate of the second moment (mean of the squared gradients).
    pub beta_2: f32,
    /// Added to the denominator, so that it is never zero.
    pub epsilon: f32,
    /// Learning rate.
    pub learning_rate: f32,
    /// Number of this step, starting at 1. The bias correction needs it.
    pub step: i32,
}

/// A parameter, its gradient and its moments. All slices have the same length.
#[derive(Debug)]
pub struct ParameterState<'a> {
    /// Parameter; updated in place.
    pub parameter: &'a mut [f32],
    /// Gradient of the parameter.
    pub gradient: &'a [f32],
    /// First moment; updated in place. Zeros before the first step.
    pub first_moment: &'a mut [f32],
    /// Second moment; updated in place. Zeros before the first step.
    pub second_moment: &'a mut [f32],
}

impl Adam {
    /// Performs one step in place.
    ///
    /// # Panics
    /// If the lengths of the slices differ.
    pub fn step(&self, team: &Team, state: ParameterState<'_>) {
        let ParameterState { parameter, gradient, first_moment, second_moment } = state;
        let count = parameter.len();
        assert!(
            [gradient.len(), first_moment.len(), second_moment.len()] == [count; 3],
            "all slices must have the same length"
        );
        let pieces = parameter.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK));
        let pieces = pieces.zip(first_moment.chunks_mut(CHUNK)).zip(second_moment.chunks_mut(CHUNK));
        parallel::for_each(team, pieces.collect(), |(((parameter, gradient), first_moment), second_moment)| {
            team.level().run(StepKernel {
                adam: *self,
                state: ParameterState { parameter, gradient, first_moment, second_moment },
            });
        });
    }
}

struct StepKernel<'a> {
    adam: Adam,
    state: ParameterState<'a>,
}

impl Kernel for StepKernel<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let ParameterState { parameter, gradient, first_moment, second_moment } = self.state;
        let step = Factors::<V>::new(self.adam);
        let (parameters, last_parameters) = parameter.as_chunks_mut::<BLOCK>();
        let (gradients, last_gradients) = gradient.as_chunks::<BLOCK>();
        let (first_moments, last_first_moments) = first_moment.as_chunks_mut::<BLOCK>();
        let (second_moments, last_second_moments) = second_moment.as_chunks_mut::<BLOCK>();
        for (((parameter, gradient), first_moment), second_moment) in
            parameters.iter_mut().zip(gradients).zip(first_moments).zip(second_moments)
        {
            step.update(parameter, gradient, first_moment, second_moment);
        }
        let [mut parameter, mut gradient, mut first_moment, mut second_moment] = [[0.0; BLOCK]; 4];
        let count = last_parameters.len();
        parameter[..count].copy_from_slice(last_parameters);
        gradient[..count].copy_from_slice(last_gradients);
        first_moment[..count].copy_from_slice(last_first_moments);
        second_moment[..count].copy_from_slice(last_second_moments);
        step.update(&mut parameter, &gradient, &mut first_moment, &mut second_moment);
        last_parameters.copy_from_slice(&parameter[..count]);
        last_first_moments.copy_from_slice(&first_moment[..count]);
        last_second_moments.copy_from_slice(&second_moment[..count]);
    }
}

/// Precomputed factors of a step. `step` and `epsilon` include the bias correction: both moments start at zero.
struct Factors<V> {
    decay: [V; 2],
    gain: [V; 2],
    step: V,
    epsilon: V,
}

impl<V: Vector> Factors<V> {
    #[inline(always)]
    fn new(Adam { beta_1, beta_2, epsilon, learning_rate, step }: Adam) -> Self {
        let correction_2 = (1.0 - beta_2.powi(step)).sqrt();
        Self {
            decay: [V::splat(beta_1), V::splat(beta_2)],
            gain: [V::splat(1.0 - beta_1), V::splat(1.0 - beta_2)],
            step: V::splat(-learning_rate * correction_2 / (1.0 - beta_1.powi(step))),
            epsilon: V::splat(epsilon * correction_2),
        }
    }

    #[inline(always)]
    fn update(
        &self,
        parameter: &mut [f32; BLOCK],
        gradient: &[f32; BLOCK],
        first_moment: &mut [f32; BLOCK],
        second_moment: &mut [f32; BLOCK],
    ) {
        let gradient = V::load_unaligned(gradient);
        let new_first = V::load_unaligned(first_moment).mul_add(self.decay[0], gradient.mul(self.gain[0]));
        let new_second =
            V::load_unaligned(second_moment).mul_add(self.decay[1], gradient.mul(gradient).mul(self.gain[1]));
        let direction = new_first.div(new_second.sqrt().add(self.epsilon));
        direction.mul_add(self.step, V::load_unaligned(parameter)).store_unaligned(parameter);
        new_first.store_unaligned(first_moment);
        new_second.store_unaligned(second_moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_close, levels, random_values};

    const ADAM: Adam = Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, learning_rate: 1e-2, step: 1 };

    #[test]
    fn five_steps_match_the_reference() {
        for (count, level) in
            [1, 16, 50, 40_000].into_iter().flat_map(|count| levels().map(move |level| (count, level)))
        {
            let start = random_values(1, count);
            let single = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>();
            let (mut parameter, mut first_moment, mut second_moment) =
                (single(&start), vec![0.0; count], vec![0.0; count]);
            let (mut expected, mut expected_mean, mut expected_square) = (start, vec![0.0; count], vec![0.0; count]);
            for step in 1..=5 {
                let gradient = random_values(10 + step as u64, count);
                let gradient32 = single(&gradient);
                let state = ParameterState {
                    parameter: &mut parameter,
                    gradient: &gradient32,
                    first_moment: &mut first_moment,
                    second_moment: &mut second_moment,
                };
                Adam { step, ..ADAM }.step(&Team::with_level(2, level), state);
                for i in 0..count {
                    expected_mean[i] = 0.9 * expected_mean[i] + 0.1 * gradient[i];
                    expected_square[i] = 0.999 * expected_square[i] + 0.001 * gradient[i] * gradient[i];
                    let (first_moment, second_moment) = (
                        expected_mean[i] / (1.0 - 0.9_f64.powi(step)),
                        expected_square[i] / (1.0 - 0.999_f64.powi(step)),
                    );
                    expected[i] -= 1e-2 * first_moment / (second_moment.sqrt() + 1e-7);
                }
            }
            assert_close(&parameter.iter().copied().map(f64::from).collect::<Vec<_>>(), &expected, 1e-5);
        }
    }
}
