//! Products of tiles of sixteen rows, which some processors do in one instruction, in bfloat16.
//!
//! Two of these numbers hold what a single-precision one has but for its last seven bits or so: `high` is the number rounded to
//! bfloat16, `low` the rest, rounded. `high * high + high * low + low * high`, summed in single precision, differs from the product
//! by about 2^-16 of it. PyTorch knows it as the precision "high" of its products. That is three times the multiplications, and still
//! five times as fast as AVX-512. Where the high parts alone are enough, which is what others call bfloat16, it is one.
//!
//! Where the processor has no such instructions the same is done here in plain Rust, for the tests of what stands on it.

mod plain;
#[cfg(test)]
mod tests;

use std::{marker::PhantomData, sync::OnceLock};

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Lane, WIDTH};

/// Rows of one tile.
pub(crate) const ROWS: usize = 16;

/// Numbers in a row of one: two lanes' channels, or pixels.
const NUMBERS: usize = 2 * WIDTH;

/// Whether processor and system have the instructions.
pub(crate) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return amx::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    })
}

/// What factors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The high part.
    One,
    /// The high and the low one.
    Two,
}

impl Parts {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The room of the high part, and of the low one, which lies behind it.
    pub(crate) fn of(self, lanes: &mut [Lane]) -> (&mut [Lane], Option<&mut [Lane]>) {
        match self {
            Self::One => (lanes, None),
            Self::Two => {
                let (high, low) = lanes.split_at_mut(lanes.len() / 2);
                (high, Some(low))
            }
        }
    }
}

/// The left side of a product of tiles.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    /// Planes of pairs of lanes: of each pair one for each part.
    pub(crate) lanes: &'a [Lane],
    pub(crate) parts: Parts,
    /// Lanes between two planes.
    pub(crate) stride: usize,
    /// Pairs of lanes of each place.
    pub(crate) pairs: usize,
    /// Where the first row of each place begins in a plane.
    pub(crate) places: &'a [usize],
}

/// Two by two tiles of sums: 32 rows by two lanes, the second one's after those of the first.
pub(crate) type Sums = [Lane; 4 * ROWS];

/// The sums of sixteen channels of inputs with a lane of outputs.
pub(crate) type Tile = [Lane; ROWS];

/// What the sums of two lanes of inputs and two of outputs are made of.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    pub(crate) parts: Parts,
    /// Of each lane of inputs the rows of its sixteen channels, those of the high part first.
    pub(crate) inputs: [&'a [Lane]; 2],
    /// Where in its row each channel begins, in numbers.
    pub(crate) place: usize,
    /// Of each lane of outputs what [`split_weights`] makes of its pixels.
    pub(crate) outputs: [&'a [Lane]; 2],
}

/// This thread's tiles, as long as it lives; the system has to save them whenever it takes the processor away. One at a time.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    #[inline]
    pub(crate) fn begin() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: they are available.
            unsafe { amx::begin() };
        }
        Self(PhantomData)
    }

    /// The products of 32 rows from `first` on with two panels of weights, summed over all places and pairs.
    ///
    /// # Panics
    /// If rows or weights are too few.
    #[inline]
    pub(crate) fn multiply(&self, left: Left<'_>, first: usize, right: [&[Lane]; 2], sums: &mut Sums) {
        let Left { lanes, parts, stride, pairs, places } = left;
        let planes = parts.count() * pairs;
        let last = places.iter().max().expect("a place") + first + (planes - 1) * stride;
        assert!(last + 2 * ROWS <= lanes.len(), "rows for each pair");
        assert!(right.iter().all(|panel| panel.len() == places.len() * planes * ROWS), "weights for each pair");
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: this thread has begun; all that is read is there.
            return unsafe { amx::multiply(left, first, right, sums) };
        }
        plain::multiply(left, first, right, sums);
    }

    /// Adds the products of channels of inputs with outputs, summed over all pixels, to four tiles of sums, or `fresh` to nothing: those of
    /// both lanes of inputs with the first lane of outputs, then with the second. Where a lane is there twice, so may be its sums.
    ///
    /// # Safety
    /// Nobody else may have the sums.
    ///
    /// # Panics
    /// If a row or the outputs are too short.
    #[inline]
    pub(crate) unsafe fn multiply_transposed(&self, factors: Factors<'_>, sums: [[*mut Tile; 2]; 2], fresh: bool) {
        let Factors { parts, inputs, place, outputs } = factors;
        let rows = parts.count() * ROWS;
        let (row, steps) = (inputs[0].len() / rows, outputs[0].len() / rows);
        assert!(steps > 0 && steps * NUMBERS + place <= row * NUMBERS, "pixels of each channel");
        assert!(inputs.iter().all(|inputs| inputs.len() == rows * row), "sixteen rows of each part");
        assert!(outputs.iter().all(|outputs| outputs.len() == rows * steps), "as many pixels of each output");
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: this thread has begun; all that is read is there; the caller vouches for the sums.
            return unsafe { amx::multiply_transposed(factors, sums, fresh) };
        }
        // SAFETY: the caller vouches for the sums.
        unsafe { plain::multiply_transposed(factors, sums, fresh) };
    }
}

impl Drop for Tiles {
    #[inline]
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: they are available.
            unsafe { amx::end() };
        }
    }
}

/// Splits the numbers of two lanes, or of one and a lane of zeros, pixel by pixel.
///
/// # Panics
/// If there are not as many of each.
pub(crate) fn split(first: &[Lane], second: Option<&[Lane]>, high: &mut [Lane], low: Option<&mut [Lane]>) {
    let others = [second.map(<[Lane]>::len), Some(high.len()), low.as_ref().map(|low| low.len())];
    assert!(others.into_iter().flatten().all(|length| length == first.len()), "as many pixels of each");
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::split(first, second, high, low) };
    }
    plain::split(first, second, high, low);
}

/// Makes of a panel `[inputs, sixteen outputs]` what tiles are multiplied with: of each 32 inputs the high parts, then the low ones, in
/// rows that hold two inputs side by side for each output.
///
/// # Panics
/// If that are not whole pairs of lanes of inputs, or there is not as much room.
pub(crate) fn split_weights(panel: &[Lane], parts: Parts, rows: &mut [Lane]) {
    let (inputs, rest) = panel.as_chunks();
    assert!(rest.is_empty() && rows.len() == inputs.len() * parts.count() * ROWS, "pairs of lanes, and their room");
    let inputs = inputs.iter().zip(rows.chunks_exact_mut(parts.count() * ROWS));
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        return inputs.for_each(|(inputs, rows)| {
            let (high, low) = parts.of(rows);
            // SAFETY: they are available.
            unsafe { amx::split_weights(inputs, high, low) }
        });
    }
    inputs.for_each(|(inputs, rows)| {
        let (high, low) = parts.of(rows);
        plain::split_weights(inputs, high, low);
    });
}

/// The same in both parts, which take as much room as the panel.
///
/// # Panics
/// If that are not whole pairs of lanes of inputs.
pub(crate) fn split_weights_in_place(panel: &mut [Lane]) {
    let (inputs, rest) = panel.as_chunks_mut::<NUMBERS>();
    assert!(rest.is_empty(), "pairs of lanes");
    inputs.iter_mut().for_each(|rows| split_weights(&rows.clone(), Parts::Two, rows));
}

/// Splits 32 pixels of a lane into rows of its sixteen channels that begin `row` lanes apart.
///
/// # Panics
/// If there is no room for sixteen rows.
pub(crate) fn transpose(pixels: &[Lane; NUMBERS], row: usize, high: &mut [Lane], low: Option<&mut [Lane]>) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::transpose(pixels, row, high, low) };
    }
    plain::transpose(pixels, row, high, low);
}
