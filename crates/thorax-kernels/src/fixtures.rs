//! What the kernels' tests share.

use super::{
    Lane, Precision, WIDTH,
    simd::{Level, Vectors},
};

/// The levels that this processor has, and those of tiles, which otherwise are computed in plain Rust.
pub(super) fn levels() -> impl Iterator<Item = Level> {
    let alone = [Vectors::Portable, Vectors::Avx2, Vectors::Avx512];
    let alone = alone.map(|vectors| Level { vectors, precision: Precision::F32 });
    let tiles = [Precision::Bf16x3, Precision::Bf16].map(|precision| Level { vectors: Vectors::detect(), precision });
    alone.into_iter().chain(tiles).filter(|level| level.is_there())
}

/// Numbers between -1 and 1 that are exact in single precision, from a formula.
pub(super) fn drawn(seed: u64, count: usize) -> Vec<f64> {
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

/// Numbers channel by channel, in lanes.
pub(super) fn lanes_of(numbers: &[f64], channels: usize) -> Vec<Lane> {
    let pixels = numbers.len() / channels;
    let mut lanes = vec![Lane::default(); channels.div_ceil(WIDTH) * pixels];
    for (index, &number) in numbers.iter().enumerate() {
        let (channel, pixel) = (index / pixels, index % pixels);
        lanes[channel / WIDTH * pixels + pixel].0[channel % WIDTH] = number as f32;
    }
    lanes
}

/// And back.
pub(super) fn numbers_of(lanes: &[Lane], channels: usize) -> Vec<f64> {
    let pixels = lanes.len() / channels.div_ceil(WIDTH);
    let at = |index: usize| {
        let (channel, pixel) = (index / pixels, index % pixels);
        f64::from(lanes[channel / WIDTH * pixels + pixel].0[channel % WIDTH])
    };
    (0..channels * pixels).map(at).collect()
}

/// Asserts that no number is further from its twin than that share of the largest.
#[track_caller]
pub(super) fn close(numbers: &[f64], twins: &[f64], tolerance: f64) {
    assert_eq!(numbers.len(), twins.len());
    let largest = twins.iter().fold(f64::MIN_POSITIVE, |largest, twin| largest.max(twin.abs()));
    for (index, (number, twin)) in numbers.iter().zip(twins).enumerate() {
        let apart = (number - twin).abs() / largest;
        assert!(apart <= tolerance, "number {index}: {number}, its twin {twin}, {apart:e} of the largest apart");
    }
}
