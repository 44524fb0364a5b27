//! Intel's Advanced Matrix Extensions: what [`tiles`](super::tiles) says, in the processor's instructions.

use std::{
    arch::{
        asm,
        x86_64::{
            __cpuid_count, __m512, __m512bh, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256,
            _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_load_ps, _mm512_load_si512,
            _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_store_si512,
            _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        },
    },
    mem::transmute,
};

use super::{
    Lane, WIDTH,
    tiles::{Factors, Left, ROWS, Sums, Tile},
};

/// Bytes between the rows of a tile in memory: they lie side by side.
const PITCH: usize = size_of::<Lane>();

/// Whether processor and system have them. The system gives a process tile registers when it asks, which this does.
pub(super) fn is_available() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let vectors = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
    vectors && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE && permit()
}

#[cfg(target_os = "linux")]
fn permit() -> bool {
    /// As in the kernel's `arch/x86/include/uapi/asm/prctl.h`; the second number is the state component of the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call reads and writes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permit() -> bool {
    false
}

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Gives this thread eight tiles of sixteen rows of 64 bytes.
///
/// # Safety
/// [`is_available`] must have said so.
pub(super) unsafe fn begin() {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].fill(PITCH as u16);
    config.rows[..8].fill(ROWS as u8);
    // SAFETY: the configuration is as the instruction wants it.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Gives them back, so that the system need not save them.
///
/// # Safety
/// As [`begin`].
pub(super) unsafe fn end() {
    // SAFETY: as the caller's.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Adds the products of two tiles of rows with two of weights to four tiles of sums.
macro_rules! four_products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm5, tmm6
         tdpbf16ps tmm2, tmm4, tmm7
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// [`Tiles::multiply`](super::tiles::Tiles::multiply).
///
/// # Safety
/// This thread must have called [`begin`]; there must be at least one pair and one place, and all rows and weights.
#[inline]
pub(super) unsafe fn multiply(left: Left<'_>, first: usize, right: [&[Lane]; 2], sums: &mut Sums) {
    let Left { lanes, stride, pairs, places } = left;
    // SAFETY: as the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {row}, [{place}]",
            "shl {row}, 6",
            "add {row}, {start}",
            "mov {pair}, {pairs}",
            "3:",
            "tileloadd tmm4, [{row} + {pitch}]",
            "tileloadd tmm6, [{a} + {pitch}]",
            "tileloadd tmm5, [{row} + {pitch} + 1024]",
            "tileloadd tmm7, [{b} + {pitch}]",
            four_products!(),
            "tileloadd tmm6, [{a} + {pitch} + 1024]",
            "tileloadd tmm7, [{b} + {pitch} + 1024]",
            four_products!(),
            "add {row}, {stride}",
            "tileloadd tmm4, [{row} + {pitch}]",
            "tileloadd tmm6, [{a} + {pitch}]",
            "tileloadd tmm5, [{row} + {pitch} + 1024]",
            "tileloadd tmm7, [{b} + {pitch}]",
            four_products!(),
            "add {row}, {stride}",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {pair}",
            "jnz 3b",
            "add {place}, 8",
            "cmp {place}, {end}",
            "jne 2b",
            "tilestored [{sums} + {pitch}], tmm0",
            "tilestored [{sums} + {pitch} + 1024], tmm1",
            "tilestored [{sums} + {pitch} + 2048], tmm2",
            "tilestored [{sums} + {pitch} + 3072], tmm3",
            row = out(reg) _,
            pair = out(reg) _,
            place = inout(reg) places.as_ptr() => _,
            end = in(reg) places.as_ptr().add(places.len()),
            start = in(reg) lanes.as_ptr().add(first),
            pairs = in(reg) pairs,
            stride = in(reg) stride * PITCH,
            pitch = in(reg) PITCH,
            a = inout(reg) right[0].as_ptr() => _,
            b = inout(reg) right[1].as_ptr() => _,
            sums = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// [`Tiles::multiply_transposed`](super::tiles::Tiles::multiply_transposed).
///
/// # Safety
/// This thread must have called [`begin`], and nobody else may have the sums; there must be all pixels, at least 32.
#[inline]
pub(super) unsafe fn multiply_transposed(factors: Factors<'_>, sums: [[*mut Tile; 2]; 2], fresh: bool) {
    let Factors { inputs, place, outputs } = factors;
    let (half, steps) = (inputs[0].len() / 2, outputs[0].len() / (2 * ROWS));
    let row = half / ROWS;
    // SAFETY: as the caller's.
    unsafe {
        asm!(
            "test {fresh}, {fresh}",
            "jnz 2f",
            "mov {t}, [{sums}]",
            "tileloadd tmm0, [{t} + {pitch}]",
            "mov {t}, [{sums} + 8]",
            "tileloadd tmm1, [{t} + {pitch}]",
            "mov {t}, [{sums} + 16]",
            "tileloadd tmm2, [{t} + {pitch}]",
            "mov {t}, [{sums} + 24]",
            "tileloadd tmm3, [{t} + {pitch}]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{c} + {pitch}]",
            "tileloadd tmm5, [{b} + {row}]",
            "tileloadd tmm7, [{d} + {pitch}]",
            four_products!(),
            "tileloadd tmm6, [{c} + {pitch} + 1024]",
            "tileloadd tmm7, [{d} + {pitch} + 1024]",
            "add {a}, {half}",
            "add {b}, {half}",
            four_products!(),
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{c} + {pitch}]",
            "tileloadd tmm5, [{b} + {row}]",
            "tileloadd tmm7, [{d} + {pitch}]",
            "sub {a}, {half}",
            "sub {b}, {half}",
            four_products!(),
            "add {a}, 64",
            "add {b}, 64",
            "add {c}, 2048",
            "add {d}, 2048",
            "dec {steps}",
            "jnz 3b",
            "mov {t}, [{sums}]",
            "tilestored [{t} + {pitch}], tmm0",
            "mov {t}, [{sums} + 8]",
            "tilestored [{t} + {pitch}], tmm1",
            "mov {t}, [{sums} + 16]",
            "tilestored [{t} + {pitch}], tmm2",
            "mov {t}, [{sums} + 24]",
            "tilestored [{t} + {pitch}], tmm3",
            fresh = in(reg) usize::from(fresh),
            sums = in(reg) sums.as_ptr(),
            t = out(reg) _,
            a = inout(reg) inputs[0].as_ptr().cast::<u16>().add(place) => _,
            b = inout(reg) inputs[1].as_ptr().cast::<u16>().add(place) => _,
            c = inout(reg) outputs[0].as_ptr() => _,
            d = inout(reg) outputs[1].as_ptr() => _,
            row = in(reg) row * PITCH,
            half = in(reg) half * PITCH,
            steps = inout(reg) steps => _,
            pitch = in(reg) PITCH,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Two lanes' high parts, the first lane's in the lower half, and their low parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn parts(first: __m512, second: __m512) -> (__m512i, __m512i) {
    let rounded = |first, second| {
        // SAFETY: the same 512 bits by another name.
        unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
    };
    let high = rounded(first, second);
    let exact = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let first = _mm512_sub_ps(first, exact(_mm512_castsi512_si256(high)));
    let second = _mm512_sub_ps(second, exact(_mm512_extracti64x4_epi64::<1>(high)));
    (high, rounded(first, second))
}

/// [`tiles::split`](super::tiles::split).
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split(first: &[Lane], second: Option<&[Lane]>, high: &mut [Lane], low: &mut [Lane]) {
    for pixel in 0..first.len() {
        // SAFETY: a lane is 64 bytes aligned to 64.
        unsafe {
            let second = second.map_or(_mm512_setzero_ps(), |second| _mm512_load_ps(second[pixel].0.as_ptr()));
            let (upper, lower) = parts(_mm512_load_ps(first[pixel].0.as_ptr()), second);
            _mm512_store_si512(high[pixel].0.as_mut_ptr().cast(), upper);
            _mm512_store_si512(low[pixel].0.as_mut_ptr().cast(), lower);
        }
    }
}

/// [`tiles::split_in_place`](super::tiles::split_in_place).
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split_in_place(first: &mut [Lane], second: &mut [Lane]) {
    for (first, second) in first.iter_mut().zip(second) {
        // SAFETY: a lane is 64 bytes aligned to 64.
        unsafe {
            let (upper, lower) = parts(_mm512_load_ps(first.0.as_ptr()), _mm512_load_ps(second.0.as_ptr()));
            _mm512_store_si512(first.0.as_mut_ptr().cast(), upper);
            _mm512_store_si512(second.0.as_mut_ptr().cast(), lower);
        }
    }
}

/// [`tiles::split_weights`](super::tiles::split_weights), by 32 inputs.
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split_weights(panel: &mut [[Lane; 2 * WIDTH]]) {
    let order: [u16; 2 * WIDTH] = std::array::from_fn(|i| (i / 2 + i % 2 * WIDTH) as u16);
    // SAFETY: any 512 bits are numbers; a lane is 64 bytes aligned to 64.
    unsafe {
        let order = transmute::<[u16; 2 * WIDTH], __m512i>(order);
        for inputs in panel {
            let numbers = *inputs;
            for row in 0..ROWS {
                let load = |input: usize| _mm512_load_ps(numbers[input].0.as_ptr());
                let (high, low) = parts(load(2 * row), load(2 * row + 1));
                _mm512_store_si512(inputs[row].0.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, high));
                _mm512_store_si512(inputs[ROWS + row].0.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, low));
            }
        }
    }
}

/// [`tiles::transpose`](super::tiles::transpose).
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn transpose(pixels: &mut [Lane; 2 * WIDTH], row: usize, high: &mut [Lane], low: &mut [Lane]) {
    split_weights(std::array::from_mut(pixels));
    for (part, rows) in pixels.chunks_exact(ROWS).zip([high, low]) {
        // Each of sixteen lanes holds two pixels of sixteen channels.
        let pairs = std::array::from_fn(|i| {
            // SAFETY: a lane is 64 bytes aligned to 64.
            unsafe { _mm512_load_si512(part[i].0.as_ptr().cast()) }
        });
        for (channel, pairs) in turned(pairs).into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_store_si512(rows[channel * row].0.as_mut_ptr().cast(), pairs) };
        }
    }
}

/// The transpose of sixteen by sixteen 32-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn turned(rows: [__m512i; ROWS]) -> [__m512i; ROWS] {
    // First within the quarters of each row, then the quarters themselves.
    let mut pairs = rows;
    for i in (0..ROWS).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..ROWS).step_by(4) {
        for n in 0..2 {
            fours[i + 2 * n] = _mm512_unpacklo_epi64(pairs[i + n], pairs[i + n + 2]);
            fours[i + 2 * n + 1] = _mm512_unpackhi_epi64(pairs[i + n], pairs[i + n + 2]);
        }
    }
    // `fours[4 g + c]` has in its quarter `q` the column `4 q + c` of the rows `4 g` to `4 g + 3`.
    let mut turned = fours;
    for c in 0..4 {
        let low = [0, 8].map(|g| _mm512_shuffle_i32x4::<0x44>(fours[g + c], fours[g + 4 + c]));
        let high = [0, 8].map(|g| _mm512_shuffle_i32x4::<0xEE>(fours[g + c], fours[g + 4 + c]));
        turned[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        turned[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]);
        turned[8 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        turned[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]);
    }
    turned
}
