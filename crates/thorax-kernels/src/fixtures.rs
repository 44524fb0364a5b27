//! Helpers shared by the unit tests.

use super::{
    BLOCK, ChannelBlock, Precision,
    simd::{Level, VectorIsa},
};

/// All levels that this processor supports, and the tile levels, which are emulated where there is no AMX.
pub(super) fn levels() -> impl Iterator<Item = Level> {
    let alone = [VectorIsa::Scalar, VectorIsa::Avx2, VectorIsa::Avx512];
    let alone = alone.map(|isa| Level { isa, precision: Precision::F32 });
    let tiles = [Precision::Bf16x3, Precision::Bf16].map(|precision| Level { isa: VectorIsa::detect(), precision });
    alone.into_iter().chain(tiles).filter(|level| level.is_supported())
}

/// Pseudo-random numbers between -1 and 1 that are exact in single precision.
pub(super) fn random_values(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        // Marsaglia 2003, xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 44) as f64 / f64::from(1 << 19) - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

/// Blocks from numbers in channel-major order.
pub(super) fn to_blocks(numbers: &[f64], channels: usize) -> Vec<ChannelBlock> {
    let pixels = numbers.len() / channels;
    let mut blocks = vec![ChannelBlock::default(); channels.div_ceil(BLOCK) * pixels];
    for (index, &number) in numbers.iter().enumerate() {
        let (channel, pixel) = (index / pixels, index % pixels);
        blocks[channel / BLOCK * pixels + pixel].0[channel % BLOCK] = number as f32;
    }
    blocks
}

/// Numbers in channel-major order from blocks.
pub(super) fn from_blocks(blocks: &[ChannelBlock], channels: usize) -> Vec<f64> {
    let pixels = blocks.len() / channels.div_ceil(BLOCK);
    let at = |index: usize| {
        let (channel, pixel) = (index / pixels, index % pixels);
        f64::from(blocks[channel / BLOCK * pixels + pixel].0[channel % BLOCK])
    };
    (0..channels * pixels).map(at).collect()
}

/// Asserts that no value deviates from its reference by more than `tolerance` times the largest reference.
#[track_caller]
pub(super) fn assert_close(numbers: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(numbers.len(), expected.len());
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, expected| largest.max(expected.abs()));
    for (index, (number, expected)) in numbers.iter().zip(expected).enumerate() {
        let deviation = (number - expected).abs() / largest;
        assert!(
            deviation <= tolerance,
            "number {index}: {number}, expected {expected}; deviation relative to the largest value: {deviation:e}"
        );
    }
}
