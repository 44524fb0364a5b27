//! Linear interpolation in place, in one pass: the update of an exponential moving average of weights.

use super::{
    parallel,
    simd::{BLOCK, Kernel, Vector},
    team::Team,
};

/// Elements per work item.
const CHUNK: usize = 16 << 10;

/// Moves each number towards its counterpart: `number += share * (other - number)`.
///
/// # Panics
/// If the lengths differ.
pub fn lerp(team: &Team, numbers: &mut [f32], others: &[f32], share: f32) {
    assert_eq!(numbers.len(), others.len(), "both slices must have the same length");
    let pieces = numbers.chunks_mut(CHUNK).zip(others.chunks(CHUNK));
    parallel::for_each(team, pieces.collect(), |(numbers, others)| team.level().run(Move { numbers, others, share }));
}

struct Move<'a> {
    numbers: &'a mut [f32],
    others: &'a [f32],
    share: f32,
}

impl Kernel for Move<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let share = V::splat(self.share);
        let (numbers, last_numbers) = self.numbers.as_chunks_mut::<BLOCK>();
        let (others, last_others) = self.others.as_chunks::<BLOCK>();
        for (number, other) in numbers.iter_mut().zip(others) {
            update(number, other, share);
        }
        let [mut number, mut other] = [[0.0; BLOCK]; 2];
        let count = last_numbers.len();
        number[..count].copy_from_slice(last_numbers);
        other[..count].copy_from_slice(last_others);
        update(&mut number, &other, share);
        last_numbers.copy_from_slice(&number[..count]);
    }
}

#[inline(always)]
fn update<V: Vector>(number: &mut [f32; BLOCK], other: &[f32; BLOCK], share: V) {
    let from = V::load_unaligned(number);
    V::load_unaligned(other).sub(from).mul_add(share, from).store_unaligned(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_close, levels, random_values};

    #[test]
    fn lerp_matches_the_reference() {
        for (count, level) in [0, 1, 16, 50, 40_000].into_iter().flat_map(|n| levels().map(move |level| (n, level))) {
            let (from, to) = (random_values(1, count), random_values(2, count));
            let single = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>();
            let mut numbers = single(&from);
            lerp(&Team::with_level(2, level), &mut numbers, &single(&to), 0.02);
            let wanted: Vec<f64> = from.iter().zip(&to).map(|(from, to)| 0.98 * from + 0.02 * to).collect();
            assert_close(&numbers.iter().copied().map(f64::from).collect::<Vec<_>>(), &wanted, 1e-6);
        }
    }
}
