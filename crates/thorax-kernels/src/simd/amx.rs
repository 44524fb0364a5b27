//! Intel's Advanced Matrix Extensions: what [`tiles`](super::tiles) says, in the processor's instructions.

use std::{
    arch::{
        asm,
        x86_64::{
            __cpuid_count, __m512, __m512bh, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256,
            _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_load_ps,
            _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
            _mm512_store_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
            _mm512_unpacklo_epi64,
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
    let Left { lanes, parts, stride, pairs, places } = left;
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
            "add {row}, {stride}",
            "add {a}, 1024",
            "add {b}, 1024",
            "test {low}, {low}",
            "jz 4f",
            "tileloadd tmm6, [{a} + {pitch}]",
            "tileloadd tmm7, [{b} + {pitch}]",
            four_products!(),
            "tileloadd tmm4, [{row} + {pitch}]",
            "tileloadd tmm6, [{a} + {pitch} - 1024]",
            "tileloadd tmm5, [{row} + {pitch} + 1024]",
            "tileloadd tmm7, [{b} + {pitch} - 1024]",
            four_products!(),
            "add {row}, {stride}",
            "add {a}, 1024",
            "add {b}, 1024",
            "4:",
            "dec {pair}",
            "jnz 3b",
            "add {place}, 8",
            "cmp {place}, {end}",
            "jne 2b",
            "tilestored [{sums} + {pitch}], tmm0",
            "tilestored [{sums} + {pitch} + 1024], tmm1",
            "tilestored [{sums} + {pitch} + 2048], tmm2",
            "tilestored [{sums} + {pitch} + 3072], tmm3",
            low = in(reg) parts.count() - 1,
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
    let Factors { parts, inputs, place, outputs } = factors;
    let rows = parts.count() * ROWS;
    let (row, steps) = (inputs[0].len() / rows, outputs[0].len() / rows);
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
            "add {c}, 1024",
            "add {d}, 1024",
            "test {low}, {low}",
            "jz 4f",
            "tileloadd tmm6, [{c} + {pitch}]",
            "tileloadd tmm7, [{d} + {pitch}]",
            "add {a}, {low}",
            "add {b}, {low}",
            four_products!(),
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{c} + {pitch} - 1024]",
            "tileloadd tmm5, [{b} + {row}]",
            "tileloadd tmm7, [{d} + {pitch} - 1024]",
            "sub {a}, {low}",
            "sub {b}, {low}",
            four_products!(),
            "add {c}, 1024",
            "add {d}, 1024",
            "4:",
            "add {a}, 64",
            "add {b}, 64",
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
            low = in(reg) (rows - ROWS) * row * PITCH,
            steps = inout(reg) steps => _,
            pitch = in(reg) PITCH,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Two lanes' numbers rounded, the first lane's in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn high([first, second]: [__m512; 2]) -> __m512i {
    // SAFETY: the same 512 bits by another name.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// What two lanes' numbers have more than these high parts, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn low([first, second]: [__m512; 2], upper: __m512i) -> __m512i {
    let exact = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let first = _mm512_sub_ps(first, exact(_mm512_castsi512_si256(upper)));
    let second = _mm512_sub_ps(second, exact(_mm512_extracti64x4_epi64::<1>(upper)));
    high([first, second])
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lane: &Lane) -> __m512 {
    // SAFETY: a lane is 64 bytes aligned to 64.
    unsafe { _mm512_load_ps(lane.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(numbers: __m512i, lane: &mut Lane) {
    // SAFETY: a lane is 64 bytes aligned to 64.
    unsafe { _mm512_store_si512(lane.0.as_mut_ptr().cast(), numbers) }
}

/// [`tiles::split`](super::tiles::split).
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split(first: &[Lane], second: Option<&[Lane]>, upper: &mut [Lane], mut lower: Option<&mut [Lane]>) {
    for pixel in 0..first.len() {
        let second = second.map_or(_mm512_setzero_ps(), |second| load(&second[pixel]));
        let numbers = [load(&first[pixel]), second];
        let rounded = high(numbers);
        store(rounded, &mut upper[pixel]);
        if let Some(lower) = &mut lower {
            store(low(numbers, rounded), &mut lower[pixel]);
        }
    }
}

/// The order in which two lanes' numbers lie side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn side_by_side() -> __m512i {
    let order: [u16; 2 * WIDTH] = std::array::from_fn(|i| (i / 2 + i % 2 * WIDTH) as u16);
    // SAFETY: any 512 bits are numbers.
    unsafe { transmute::<[u16; 2 * WIDTH], __m512i>(order) }
}

/// [`tiles::split_weights`](super::tiles::split_weights), of 32 inputs.
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split_weights(inputs: &[Lane; 2 * WIDTH], upper: &mut [Lane], mut lower: Option<&mut [Lane]>) {
    let order = side_by_side();
    for row in 0..ROWS {
        let numbers = [load(&inputs[2 * row]), load(&inputs[2 * row + 1])];
        let rounded = high(numbers);
        store(_mm512_permutexvar_epi16(order, rounded), &mut upper[row]);
        if let Some(lower) = &mut lower {
            store(_mm512_permutexvar_epi16(order, low(numbers, rounded)), &mut lower[row]);
        }
    }
}

/// [`tiles::transpose`](super::tiles::transpose).
///
/// # Safety
/// [`is_available`] must have said so.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn transpose(pixels: &[Lane; 2 * WIDTH], row: usize, upper: &mut [Lane], lower: Option<&mut [Lane]>) {
    let order = side_by_side();
    // Each holds two pixels of sixteen channels.
    let mut highs = [_mm512_setzero_si512(); ROWS];
    let mut lows = highs;
    for pair in 0..ROWS {
        let numbers = [load(&pixels[2 * pair]), load(&pixels[2 * pair + 1])];
        let rounded = high(numbers);
        highs[pair] = _mm512_permutexvar_epi16(order, rounded);
        if lower.is_some() {
            lows[pair] = _mm512_permutexvar_epi16(order, low(numbers, rounded));
        }
    }
    store_turned(highs, row, upper);
    if let Some(lower) = lower {
        store_turned(lows, row, lower);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store_turned(pairs: [__m512i; ROWS], row: usize, rows: &mut [Lane]) {
    for (channel, pairs) in turned(pairs).into_iter().enumerate() {
        store(pairs, &mut rows[channel * row]);
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
