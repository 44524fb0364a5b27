//! Numbers on their way to others, in one pass: what a moving average of weights takes for each batch.

use super::{
    parts,
    simd::{Vector, WIDTH, Work},
    team::Team,
};

/// Numbers that one member takes at a time.
const PIECE: usize = 16 << 10;

/// Moves each number by `share` of its distance to its other.
///
/// # Panics
/// If the lengths differ.
pub fn towards(team: &Team, numbers: &mut [f32], others: &[f32], share: f32) {
    assert_eq!(numbers.len(), others.len(), "as many numbers as others");
    let pieces = numbers.chunks_mut(PIECE).zip(others.chunks(PIECE));
    parts::each(team, pieces.collect(), |(numbers, others)| team.level().run(Move { numbers, others, share }));
}

struct Move<'a> {
    numbers: &'a mut [f32],
    others: &'a [f32],
    share: f32,
}

impl Work for Move<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let share = V::splat(self.share);
        let (numbers, last_numbers) = self.numbers.as_chunks_mut::<WIDTH>();
        let (others, last_others) = self.others.as_chunks::<WIDTH>();
        for (number, other) in numbers.iter_mut().zip(others) {
            take(number, other, share);
        }
        let [mut number, mut other] = [[0.0; WIDTH]; 2];
        let count = last_numbers.len();
        number[..count].copy_from_slice(last_numbers);
        other[..count].copy_from_slice(last_others);
        take(&mut number, &other, share);
        last_numbers.copy_from_slice(&number[..count]);
    }
}

#[inline(always)]
fn take<V: Vector>(number: &mut [f32; WIDTH], other: &[f32; WIDTH], share: V) {
    let from = V::read(number);
    V::read(other).sub(from).mul_add(share, from).write(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{close, drawn, levels};

    #[test]
    fn each_number_moves_by_its_share_of_the_way() {
        for (count, level) in [0, 1, 16, 50, 40_000].into_iter().flat_map(|n| levels().map(move |level| (n, level))) {
            let (from, to) = (drawn(1, count), drawn(2, count));
            let single = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>();
            let mut numbers = single(&from);
            towards(&Team::with_level(2, level), &mut numbers, &single(&to), 0.02);
            let wanted: Vec<f64> = from.iter().zip(&to).map(|(from, to)| 0.98 * from + 0.02 * to).collect();
            close(&numbers.iter().copied().map(f64::from).collect::<Vec<_>>(), &wanted, 1e-6);
        }
    }
}
