//! Products of bfloat16 tiles of sixteen rows, which AMX performs in one instruction.
//!
//! An f32 operand is represented by two bfloat16 numbers, without its last seven bits or so: `high` is the operand
//! rounded to bfloat16, and `low` is the rounded remainder. `high * high + high * low + low * high`, accumulated in
//! f32, differs from the exact product by about 2^-16 of it. PyTorch calls this precision "high" for matrix products.
//! It takes three times the multiplications and is still five times as fast as AVX-512. In precision `Bf16` only the
//! high parts are multiplied.
//!
//! Without AMX the module emulates the tiles in plain Rust, for the tests of the code above it.

mod emulated;
#[cfg(test)]
mod tests;

use std::{marker::PhantomData, sync::OnceLock};

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{BLOCK, ChannelBlock};

/// Rows of one tile.
pub(crate) const TILE_ROWS: usize = 16;

/// Numbers in a row of a tile: the channels of two blocks, or 32 pixels.
const TILE_ROW_LEN: usize = 2 * BLOCK;

/// True if processor and system support the instructions.
pub(crate) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return amx::is_available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    })
}

/// bfloat16 parts of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bf16Parts {
    /// High part only.
    One,
    /// High and low part.
    Two,
}

impl Bf16Parts {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Splits a buffer into the high part and the low part after it.
    pub(crate) fn of(self, blocks: &mut [ChannelBlock]) -> (&mut [ChannelBlock], Option<&mut [ChannelBlock]>) {
        match self {
            Self::One => (blocks, None),
            Self::Two => {
                let (high, low) = blocks.split_at_mut(blocks.len() / 2);
                (high, Some(low))
            }
        }
    }
}

/// Left operand of a tiled product.
#[derive(Clone, Copy)]
pub(crate) struct TileOperand<'a> {
    /// Planes of pairs of channel blocks: one plane per pair and part.
    pub(crate) blocks: &'a [ChannelBlock],
    pub(crate) parts: Bf16Parts,
    /// Distance between two planes.
    pub(crate) stride: usize,
    /// Pairs of channel blocks per tap.
    pub(crate) pairs: usize,
    /// Offset of the first row of each tap in a plane.
    pub(crate) tap_offsets: &'a [usize],
}

/// Sums of 32 rows by two output blocks, block by block.
pub(crate) type TileSums = [ChannelBlock; 4 * TILE_ROWS];

/// Sums of sixteen input channels by one output block.
pub(crate) type Tile = [ChannelBlock; TILE_ROWS];

/// Operands of the sums of two input blocks and two output blocks.
#[derive(Clone, Copy)]
pub(crate) struct TransposedOperands<'a> {
    pub(crate) parts: Bf16Parts,
    /// Sixteen channel rows of each input block; all high parts come first.
    pub(crate) inputs: [&'a [ChannelBlock]; 2],
    /// Offset of the first pixel in each channel row, in numbers.
    pub(crate) place: usize,
    /// Pixels of each output block, packed by [`split_weights`].
    pub(crate) outputs: [&'a [ChannelBlock]; 2],
}

/// The tile registers of this thread, configured until this value is dropped. The system must save them on each
/// context switch. A thread may hold one value at a time.
pub(crate) struct TileRegisters(PhantomData<*const ()>);

impl TileRegisters {
    #[inline]
    pub(crate) fn acquire() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: AMX is available.
            unsafe { amx::configure() };
        }
        Self(PhantomData)
    }

    /// Multiplies 32 rows starting at `first` by two weight panels and sums over all taps and pairs.
    ///
    /// # Panics
    /// If there are too few rows or weights.
    #[inline]
    pub(crate) fn multiply(
        &self,
        left: TileOperand<'_>,
        first: usize,
        right: [&[ChannelBlock]; 2],
        sums: &mut TileSums,
    ) {
        let TileOperand { blocks, parts, stride, pairs, tap_offsets } = left;
        let planes = parts.count() * pairs;
        let last = tap_offsets.iter().max().expect("there is at least one tap") + first + (planes - 1) * stride;
        assert!(last + 2 * TILE_ROWS <= blocks.len(), "the left operand is too short");
        assert!(
            right.iter().all(|panel| panel.len() == tap_offsets.len() * planes * TILE_ROWS),
            "the weights must match the pairs and taps"
        );
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: this thread has configured its tiles, and the assertions above check all bounds.
            return unsafe { amx::multiply(left, first, right, sums) };
        }
        emulated::multiply(left, first, right, sums);
    }

    /// Multiplies channels of inputs and outputs, sums over all pixels, and adds the result to four tiles of sums, or
    /// replaces them if `overwrite` is set: first both input blocks with the first output block, then with the
    /// second. If a block is passed twice, its sums may be passed twice too.
    ///
    /// # Safety
    /// No other thread may access the sums.
    ///
    /// # Panics
    /// If a channel row or the outputs are too short.
    #[inline]
    pub(crate) unsafe fn multiply_transposed(
        &self,
        factors: TransposedOperands<'_>,
        sums: [[*mut Tile; 2]; 2],
        overwrite: bool,
    ) {
        let TransposedOperands { parts, inputs, place, outputs } = factors;
        let rows = parts.count() * TILE_ROWS;
        let (row, steps) = (inputs[0].len() / rows, outputs[0].len() / rows);
        assert!(steps > 0 && steps * TILE_ROW_LEN + place <= row * TILE_ROW_LEN, "the channel rows are too short");
        assert!(inputs.iter().all(|inputs| inputs.len() == rows * row), "each part must have sixteen rows");
        assert!(
            outputs.iter().all(|outputs| outputs.len() == rows * steps),
            "all outputs must have the same number of pixels"
        );
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: this thread has configured its tiles, the assertions above check all bounds, and the caller
            // guarantees exclusive sums.
            return unsafe { amx::multiply_transposed(factors, sums, overwrite) };
        }
        // SAFETY: the caller guarantees exclusive sums.
        unsafe { emulated::multiply_transposed(factors, sums, overwrite) };
    }
}

impl Drop for TileRegisters {
    #[inline]
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if is_available() {
            // SAFETY: AMX is available.
            unsafe { amx::release() };
        }
    }
}

/// Splits two blocks (or one block and zeros) into bfloat16 parts, pixel by pixel.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn split(
    first: &[ChannelBlock],
    second: Option<&[ChannelBlock]>,
    high: &mut [ChannelBlock],
    low: Option<&mut [ChannelBlock]>,
) {
    let others = [second.map(<[ChannelBlock]>::len), Some(high.len()), low.as_ref().map(|low| low.len())];
    assert!(others.into_iter().flatten().all(|length| length == first.len()), "all slices must have the same length");
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: AMX is available.
        return unsafe { amx::split(first, second, high, low) };
    }
    emulated::split(first, second, high, low);
}

/// Packs a panel `[inputs, sixteen outputs]` into tiles: for each 32 inputs the high parts, then the low parts, in
/// rows that hold two inputs per output.
///
/// # Panics
/// If the inputs are not whole pairs of blocks, or `rows` has the wrong length.
pub(crate) fn split_weights(panel: &[ChannelBlock], parts: Bf16Parts, rows: &mut [ChannelBlock]) {
    let (inputs, rest) = panel.as_chunks();
    assert!(
        rest.is_empty() && rows.len() == inputs.len() * parts.count() * TILE_ROWS,
        "the inputs must be whole pairs of blocks, and the output of matching length"
    );
    let inputs = inputs.iter().zip(rows.chunks_exact_mut(parts.count() * TILE_ROWS));
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        return inputs.for_each(|(inputs, rows)| {
            let (high, low) = parts.of(rows);
            // SAFETY: AMX is available.
            unsafe { amx::split_weights(inputs, high, low) }
        });
    }
    inputs.for_each(|(inputs, rows)| {
        let (high, low) = parts.of(rows);
        emulated::split_weights(inputs, high, low);
    });
}

/// [`split_weights`] into both parts, in place: they need as much room as the panel.
///
/// # Panics
/// If the inputs are not whole pairs of blocks.
pub(crate) fn split_weights_in_place(panel: &mut [ChannelBlock]) {
    let (inputs, rest) = panel.as_chunks_mut::<TILE_ROW_LEN>();
    assert!(rest.is_empty(), "the inputs must be whole pairs of blocks");
    inputs.iter_mut().for_each(|rows| split_weights(&rows.clone(), Bf16Parts::Two, rows));
}

/// Splits 32 pixels of a block and transposes them into rows of its sixteen channels, which are `row` blocks apart.
///
/// # Panics
/// If there is no room for sixteen rows.
pub(crate) fn transpose(
    pixels: &[ChannelBlock; TILE_ROW_LEN],
    row: usize,
    high: &mut [ChannelBlock],
    low: Option<&mut [ChannelBlock]>,
) {
    #[cfg(target_arch = "x86_64")]
    if is_available() {
        // SAFETY: AMX is available.
        return unsafe { amx::transpose(pixels, row, high, low) };
    }
    emulated::transpose(pixels, row, high, low);
}
