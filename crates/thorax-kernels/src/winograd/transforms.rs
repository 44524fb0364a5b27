//! The constant matrices of F(4x4, 3x3), for the points 0, 1, -1, 2, -2 and infinity, and their transposes.

use super::{IN, OUT, TAPS};
use crate::simd::Vector;

/// A matrix of the algorithm. A trait and not a function that takes a function: what is passed as an argument is compiled without the
/// processor's vectors.
pub(super) trait Transform<V: Vector, const M: usize, const N: usize> {
    fn once(values: [V; M]) -> [V; N];

    /// The rows, then the columns.
    #[inline(always)]
    fn twice(values: [[V; M]; M]) -> [[V; N]; N] {
        let mut rows = [[V::zero(); N]; M];
        for m in 0..M {
            rows[m] = Self::once(values[m]);
        }
        let mut columns = [[V::zero(); N]; N];
        for n in 0..N {
            let mut column = [V::zero(); M];
            for m in 0..M {
                column[m] = rows[m][n];
            }
            let column = Self::once(column);
            for m in 0..N {
                columns[m][n] = column[m];
            }
        }
        columns
    }
}

/// Three taps to their six sums: the polynomial's values at 0, 1, -1, 2, -2 and infinity, scaled so that the other two transforms need
/// no fractions.
pub(super) struct Weigh;

impl<V: Vector> Transform<V, TAPS, IN> for Weigh {
    #[inline(always)]
    fn once(taps: [V; TAPS]) -> [V; IN] {
        let mut sums = Self::bare_once(taps);
        for sum in 0..IN {
            sums[sum] = V::splat(Self::SCALES[sum]).mul(sums[sum]);
        }
        sums
    }
}

impl Weigh {
    /// What each of the six sums is multiplied with.
    const SCALES: [f32; IN] = [0.25, -1.0 / 6.0, -1.0 / 6.0, 1.0 / 24.0, 1.0 / 24.0, 1.0];

    /// One of the six sums before it is multiplied; what several have in common the compiler computes once.
    #[inline(always)]
    pub(super) fn bare<V: Vector, const SUM: usize>([a, b, c]: [V; TAPS]) -> V {
        let (near, far, twice) = (a.add(c), V::splat(4.0).mul_add(c, a), b.add(b));
        match SUM {
            0 => a,
            1 => near.add(b),
            2 => near.sub(b),
            3 => far.add(twice),
            4 => far.sub(twice),
            _ => c,
        }
    }

    /// All six.
    #[inline(always)]
    pub(super) fn bare_once<V: Vector>(taps: [V; TAPS]) -> [V; IN] {
        [
            Self::bare::<V, 0>(taps),
            Self::bare::<V, 1>(taps),
            Self::bare::<V, 2>(taps),
            Self::bare::<V, 3>(taps),
            Self::bare::<V, 4>(taps),
            Self::bare::<V, 5>(taps),
        ]
    }

    /// What a point's sums are to be multiplied with where its weights were not.
    #[inline(always)]
    pub(super) fn scale(row: usize, column: usize) -> f32 {
        Self::SCALES[row] * Self::SCALES[column]
    }
}

/// Six inputs to their six sums.
pub(super) struct EnterSums;

impl<V: Vector> Transform<V, IN, IN> for EnterSums {
    #[inline(always)]
    fn once([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
        let (two, four, five) = (V::splat(2.0), V::splat(4.0), V::splat(-5.0));
        let minus_four = V::splat(-4.0);
        let (even, odd) = (minus_four.mul_add(c, e), minus_four.mul_add(b, d)); // e - 4c, d - 4b
        let (near, far) = (e.sub(c), two.mul_add(d.sub(b), V::zero()));
        [
            four.mul_add(a, five.mul_add(c, e)),
            even.add(odd),
            even.sub(odd),
            near.add(far),
            near.sub(far),
            four.mul_add(b, five.mul_add(d, f)),
        ]
    }
}

/// Six sums to four outputs.
pub(super) struct LeaveSums;

impl<V: Vector> Transform<V, IN, OUT> for LeaveSums {
    #[inline(always)]
    fn once([a, b, c, d, e, f]: [V; IN]) -> [V; OUT] {
        let (sum, difference) = (b.add(c), b.sub(c));
        let (far_sum, far_difference) = (d.add(e), d.sub(e));
        [
            a.add(sum).add(far_sum),
            V::splat(2.0).mul_add(far_difference, difference),
            V::splat(4.0).mul_add(far_sum, sum),
            V::splat(8.0).mul_add(far_difference, difference).add(f),
        ]
    }
}

/// Four gradients of outputs to those of their six sums: the transpose of [`LeaveSums`].
pub(super) struct SpreadSums;

impl<V: Vector> Transform<V, OUT, IN> for SpreadSums {
    #[inline(always)]
    fn once([a, b, c, d]: [V; OUT]) -> [V; IN] {
        let (two, four) = (V::splat(2.0), V::splat(4.0));
        let (even, odd) = (a.add(c), b.add(d));
        let (far_even, far_odd) = (four.mul_add(c, a), two.mul_add(four.mul_add(d, b), V::zero()));
        [a, even.add(odd), even.sub(odd), far_even.add(far_odd), far_even.sub(far_odd), d]
    }
}

/// Six sums to the gradients of three taps: the transpose of [`Weigh`].
pub(super) struct WeighBack;

impl<V: Vector> Transform<V, IN, TAPS> for WeighBack {
    #[inline(always)]
    fn once([a, b, c, d, e, f]: [V; IN]) -> [V; TAPS] {
        let (zero, sixth) = (V::zero(), V::splat(1.0 / 6.0));
        let (near, near_difference) = (b.add(c), c.sub(b));
        let (far, far_difference) = (d.add(e), d.sub(e));
        let quarter = V::splat(0.25);
        [
            quarter.mul_add(a, sixth.mul_add(quarter.mul_add(far, zero).sub(near), zero)),
            sixth.mul_add(V::splat(0.5).mul_add(far_difference, near_difference), zero),
            sixth.mul_add(far.sub(near), f),
        ]
    }
}
