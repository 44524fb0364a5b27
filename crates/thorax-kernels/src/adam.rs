//! Adam (Kingma & Ba 2015, arXiv:1412.6980), all of it in one pass over a parameter.

use super::{
    parts,
    simd::{Vector, WIDTH, Work},
    team::Team,
};

/// Numbers that one member takes at a time.
const PIECE: usize = 16 << 10;

/// What a step is computed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// How much of the mean gradient stays.
    pub beta_1: f32,
    /// How much of the mean squared gradient stays.
    pub beta_2: f32,
    /// Keeps the divisor from zero.
    pub epsilon: f32,
    /// Size of a step.
    pub learning_rate: f32,
    /// This step's number, from 1.
    pub time: i32,
}

/// A parameter with what its steps need, all of one length.
#[derive(Debug)]
pub struct Learning<'a> {
    /// The parameter.
    pub parameter: &'a mut [f32],
    /// Its gradient.
    pub gradient: &'a [f32],
    /// Running mean of its gradients.
    pub mean: &'a mut [f32],
    /// Running mean of their squares.
    pub square: &'a mut [f32],
}

impl Adam {
    /// One step, in place.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step(&self, team: &Team, learning: Learning<'_>) {
        let Learning { parameter, gradient, mean, square } = learning;
        let count = parameter.len();
        assert!([gradient.len(), mean.len(), square.len()] == [count; 3], "as many gradients and means as parameters");
        let pieces = parameter.chunks_mut(PIECE).zip(gradient.chunks(PIECE));
        let pieces = pieces.zip(mean.chunks_mut(PIECE)).zip(square.chunks_mut(PIECE));
        parts::each(team, pieces.collect(), |(((parameter, gradient), mean), square)| {
            team.level().run(Step { adam: *self, learning: Learning { parameter, gradient, mean, square } });
        });
    }
}

struct Step<'a> {
    adam: Adam,
    learning: Learning<'a>,
}

impl Work for Step<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Learning { parameter, gradient, mean, square } = self.learning;
        let step = Factors::<V>::new(self.adam);
        let (parameters, last_parameters) = parameter.as_chunks_mut::<WIDTH>();
        let (gradients, last_gradients) = gradient.as_chunks::<WIDTH>();
        let (means, last_means) = mean.as_chunks_mut::<WIDTH>();
        let (squares, last_squares) = square.as_chunks_mut::<WIDTH>();
        for (((parameter, gradient), mean), square) in parameters.iter_mut().zip(gradients).zip(means).zip(squares) {
            step.take(parameter, gradient, mean, square);
        }
        let [mut parameter, mut gradient, mut mean, mut square] = [[0.0; WIDTH]; 4];
        let count = last_parameters.len();
        parameter[..count].copy_from_slice(last_parameters);
        gradient[..count].copy_from_slice(last_gradients);
        mean[..count].copy_from_slice(last_means);
        square[..count].copy_from_slice(last_squares);
        step.take(&mut parameter, &gradient, &mut mean, &mut square);
        last_parameters.copy_from_slice(&parameter[..count]);
        last_means.copy_from_slice(&mean[..count]);
        last_squares.copy_from_slice(&square[..count]);
    }
}

/// A step's factors: both means start from zero, and what they lack by that is made good.
struct Factors<V> {
    stay: [V; 2],
    join: [V; 2],
    step: V,
    epsilon: V,
}

impl<V: Vector> Factors<V> {
    #[inline(always)]
    fn new(Adam { beta_1, beta_2, epsilon, learning_rate, time }: Adam) -> Self {
        let squares_lack = (1.0 - beta_2.powi(time)).sqrt();
        Self {
            stay: [V::splat(beta_1), V::splat(beta_2)],
            join: [V::splat(1.0 - beta_1), V::splat(1.0 - beta_2)],
            step: V::splat(-learning_rate * squares_lack / (1.0 - beta_1.powi(time))),
            epsilon: V::splat(epsilon * squares_lack),
        }
    }

    #[inline(always)]
    fn take(
        &self,
        parameter: &mut [f32; WIDTH],
        gradient: &[f32; WIDTH],
        mean: &mut [f32; WIDTH],
        square: &mut [f32; WIDTH],
    ) {
        let gradient = V::read(gradient);
        let new_mean = V::read(mean).mul_add(self.stay[0], gradient.mul(self.join[0]));
        let new_square = V::read(square).mul_add(self.stay[1], gradient.mul(gradient).mul(self.join[1]));
        let direction = new_mean.div(new_square.sqrt().add(self.epsilon));
        direction.mul_add(self.step, V::read(parameter)).write(parameter);
        new_mean.write(mean);
        new_square.write(square);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{close, drawn, levels};

    const ADAM: Adam = Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7, learning_rate: 1e-2, time: 1 };

    #[test]
    fn five_steps_are_the_papers() {
        for (count, level) in
            [1, 16, 50, 40_000].into_iter().flat_map(|count| levels().map(move |level| (count, level)))
        {
            let start = drawn(1, count);
            let single = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>();
            let (mut parameter, mut mean, mut square) = (single(&start), vec![0.0; count], vec![0.0; count]);
            let (mut twin, mut twin_mean, mut twin_square) = (start, vec![0.0; count], vec![0.0; count]);
            for time in 1..=5 {
                let gradient = drawn(10 + time as u64, count);
                let gradient32 = single(&gradient);
                let learning =
                    Learning { parameter: &mut parameter, gradient: &gradient32, mean: &mut mean, square: &mut square };
                Adam { time, ..ADAM }.step(&Team::with_level(2, level), learning);
                for i in 0..count {
                    twin_mean[i] = 0.9 * twin_mean[i] + 0.1 * gradient[i];
                    twin_square[i] = 0.999 * twin_square[i] + 0.001 * gradient[i] * gradient[i];
                    let (mean, square) =
                        (twin_mean[i] / (1.0 - 0.9_f64.powi(time)), twin_square[i] / (1.0 - 0.999_f64.powi(time)));
                    twin[i] -= 1e-2 * mean / (square.sqrt() + 1e-7);
                }
            }
            close(&parameter.iter().copied().map(f64::from).collect::<Vec<_>>(), &twin, 1e-5);
        }
    }
}
