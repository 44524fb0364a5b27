//! Products of tiles of sixteen rows, which some processors do in one instruction, in bfloat16.
//!
//! Two of these numbers hold what a single-precision one has but for its last seven bits or so: `high` is the number rounded to
//! bfloat16, `low` the rest, rounded. `high * high + high * low + low * high`, summed in single precision, differs from the product
//! by about 2^-16 of it. PyTorch knows it as the precision "high" of its products. That is three times the multiplications, and still
//! five times as fast as AVX-512.
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
pub(in crate::kernel) const ROWS: usize = 16;

/// Numbers in a row of one: two lanes' channels, or pixels.
const NUMBERS: usize = 2 * WIDTH;

/// Whether processor and system have the instructions.
pub(in crate::kernel) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return amx::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    })
}

/// The left side of a product of tiles.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Left<'a> {
    /// Planes of pairs of lanes: of each pair the high parts, then the low ones.
    pub(in crate::kernel) lanes: &'a [Lane],
    /// Lanes between two planes.
    pub(in crate::kernel) stride: usize,
    /// Pairs of lanes of each place.
    pub(in crate::kernel) pairs: usize,
    /// Where the first row of each place begins in a plane.
    pub(in crate::kernel) places: &'a [usize],
}

/// Two by two tiles of sums: 32 rows by two lanes, the second one's after those of the first.
pub(in crate::kernel) type Sums = [Lane; 4 * ROWS];

/// The sums of sixteen channels of inputs with a lane of outputs.
pub(in crate::kernel) type Tile = [Lane; ROWS];

/// What the sums of two lanes of inputs and two of outputs are made of.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Factors<'a> {
    /// Of each lane of inputs the rows of its sixteen channels, the high parts and then the low ones.
    pub(in crate::kernel) inputs: [&'a [Lane]; 2],
    /// Where in its row each channel begins, in numbers.
    pub(in crate::kernel) place: usize,
    /// Of each lane of outputs what [`split_weights`] makes of its pixels.
    pub(in crate::kernel) outputs: [&'a [Lane]; 2],
}

/// This thread's tiles, as long as it lives; the system has to save them whenever it takes the processor away. One at a time.
pub(in crate::kernel) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    #[inline]
    pub(in crate::kernel) fn begin() -> Self {
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
    pub(in crate::kernel) fn multiply(&self, left: Left<'_>, first: usize, right: [&[Lane]; 2], sums: &mut Sums) {
        let Left { lanes, stride, pairs, places } = left;
        let last = places.iter().max().expect("a place") + first + (2 * pairs - 1) * stride;
        assert!(last + 2 * ROWS <= lanes.len(), "rows for each pair");
        assert!(right.iter().all(|panel| panel.len() == places.len() * pairs * 2 * ROWS), "weights for each pair");
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
    pub(in crate::kernel) unsafe fn multiply_transposed(
        &self,
        factors: Factors<'_>,
        sums: [[*mut Tile; 2]; 2],
        fresh: bool,
    ) {
        let Factors { inputs, place, outputs } = factors;
        let (row, pixels) = (inputs[0].len() / (2 * ROWS), outputs[0].len());
        assert!(
            pixels > 0 && pixels.is_multiple_of(NUMBERS) && pixels + place <= row * NUMBERS,
            "pixels of each channel"
        );
        assert!(inputs.iter().all(|rows| rows.len() == 2 * ROWS * row), "sixteen rows of each part");
        assert!(outputs.iter().all(|outputs| outputs.len() == pixels), "as many pixels of each output");
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
pub(in crate::kernel) fn split(first: &[Lane], second: Option<&[Lane]>, high: &mut [Lane], low: &mut [Lane]) {
    assert!(high.len() == first.len() && low.len() == first.len() && second.is_none_or(|s| s.len() == first.len()));
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::split(first, second, high, low) };
    }
    for (pixel, first) in first.iter().enumerate() {
        let second = second.map_or(Lane::default(), |second| second[pixel]);
        (high[pixel], low[pixel]) = plain::parts(*first, second);
    }
}

/// Splits the numbers of two lanes where they are.
///
/// # Panics
/// If there are not as many of each.
pub(in crate::kernel) fn split_in_place(first: &mut [Lane], second: &mut [Lane]) {
    assert_eq!(first.len(), second.len());
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::split_in_place(first, second) };
    }
    for (first, second) in first.iter_mut().zip(second) {
        (*first, *second) = plain::parts(*first, *second);
    }
}

/// Makes of a panel `[inputs, sixteen outputs]` what tiles are multiplied with: of each 32 inputs the high parts, then the low ones, in
/// rows that hold two inputs side by side for each output.
///
/// # Panics
/// If that are not whole pairs of lanes of inputs.
pub(in crate::kernel) fn split_weights(panel: &mut [Lane]) {
    let (inputs, rest) = panel.as_chunks_mut();
    assert!(rest.is_empty(), "pairs of lanes");
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::split_weights(inputs) };
    }
    inputs.iter_mut().for_each(plain::split_weights);
}

/// Splits 32 pixels of a lane into rows of its sixteen channels that begin `row` lanes apart.
///
/// # Panics
/// If there is no room for sixteen rows.
pub(in crate::kernel) fn transpose(pixels: &mut [Lane; NUMBERS], row: usize, high: &mut [Lane], low: &mut [Lane]) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: they are available.
        return unsafe { amx::transpose(pixels, row, high, low) };
    }
    plain::transpose(pixels, row, high, low);
}
