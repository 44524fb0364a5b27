//! The transform matrices of F(4x4, 3x3) for the points 0, 1, -1, 2, -2 and infinity, and their transposes.

use super::{IN, OUT, TAPS};
use crate::simd::Vector;

/// A transform matrix. It is a trait and not a closure, because closures passed as arguments are compiled without the
/// vector instructions.
pub(super) trait Transform<V: Vector, const M: usize, const N: usize> {
    fn apply(values: [V; M]) -> [V; N];

    /// Applies the matrix to the rows, then to the columns.
    #[inline(always)]
    fn apply_2d(values: [[V; M]; M]) -> [[V; N]; N] {
        let mut rows = [[V::zero(); N]; M];
        for m in 0..M {
            rows[m] = Self::apply(values[m]);
        }
        let mut columns = [[V::zero(); N]; N];
        for n in 0..N {
            let mut column = [V::zero(); M];
            for m in 0..M {
                column[m] = rows[m][n];
            }
            let column = Self::apply(column);
            for m in 0..N {
                columns[m][n] = column[m];
            }
        }
        columns
    }
}

/// Kernel transform (G in the paper): three taps to six points, scaled so that the other two transforms need no
/// fractions.
pub(super) struct KernelMatrix;

impl<V: Vector> Transform<V, TAPS, IN> for KernelMatrix {
    #[inline(always)]
    fn apply(taps: [V; TAPS]) -> [V; IN] {
        let mut sums = Self::unscaled_all(taps);
        for sum in 0..IN {
            sums[sum] = V::splat(Self::SCALES[sum]).mul(sums[sum]);
        }
        sums
    }
}

impl KernelMatrix {
    /// Scale of each of the six points.
    const SCALES: [f32; IN] = [0.25, -1.0 / 6.0, -1.0 / 6.0, 1.0 / 24.0, 1.0 / 24.0, 1.0];

    /// One of the six points before scaling. The compiler shares common subexpressions.
    #[inline(always)]
    pub(super) fn unscaled<V: Vector, const SUM: usize>([a, b, c]: [V; TAPS]) -> V {
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

    /// All six points before scaling.
    #[inline(always)]
    pub(super) fn unscaled_all<V: Vector>(taps: [V; TAPS]) -> [V; IN] {
        [
            Self::unscaled::<V, 0>(taps),
            Self::unscaled::<V, 1>(taps),
            Self::unscaled::<V, 2>(taps),
            Self::unscaled::<V, 3>(taps),
            Self::unscaled::<V, 4>(taps),
            Self::unscaled::<V, 5>(taps),
        ]
    }

    /// Scale of a point whose weights are unscaled.
    #[inline(always)]
    pub(super) fn scale(row: usize, column: usize) -> f32 {
        Self::SCALES[row] * Self::SCALES[column]
    }
}

/// Input transform (Bᵀ): six inputs to six points.
pub(super) struct InputMatrix;

impl<V: Vector> Transform<V, IN, IN> for InputMatrix {
    #[inline(always)]
    fn apply([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
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

/// Output transform (Aᵀ): six points to four outputs.
pub(super) struct OutputMatrix;

impl<V: Vector> Transform<V, IN, OUT> for OutputMatrix {
    #[inline(always)]
    fn apply([a, b, c, d, e, f]: [V; IN]) -> [V; OUT] {
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

/// Transpose of [`OutputMatrix`]: four output gradients to six points.
pub(super) struct OutputMatrixTransposed;

impl<V: Vector> Transform<V, OUT, IN> for OutputMatrixTransposed {
    #[inline(always)]
    fn apply([a, b, c, d]: [V; OUT]) -> [V; IN] {
        let (two, four) = (V::splat(2.0), V::splat(4.0));
        let (even, odd) = (a.add(c), b.add(d));
        let (far_even, far_odd) = (four.mul_add(c, a), two.mul_add(four.mul_add(d, b), V::zero()));
        [a, even.add(odd), even.sub(odd), far_even.add(far_odd), far_even.sub(far_odd), d]
    }
}

/// Transpose of [`KernelMatrix`]: six points to the gradients of three taps.
pub(super) struct KernelMatrixTransposed;

impl<V: Vector> Transform<V, IN, TAPS> for KernelMatrixTransposed {
    #[inline(always)]
    fn apply([a, b, c, d, e, f]: [V; IN]) -> [V; TAPS] {
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
