//! [`tiles`](super::tiles) in instructions of Intel's Advanced Matrix Extensions (AMX).

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
    BLOCK, ChannelBlock,
    tiles::{TILE_ROWS, Tile, TileOperand, TileSums, TransposedOperands},
};

/// Bytes between the rows of a tile in memory: rows are adjacent.
const PITCH: usize = size_of::<ChannelBlock>();

/// True if processor and system support AMX. Linux grants the tile registers to a process on request, which this
/// function makes.
pub(super) fn is_available() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let isa = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
    isa && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE && permit()
}

#[cfg(target_os = "linux")]
fn permit() -> bool {
    /// From Linux' `arch/x86/include/uapi/asm/prctl.h`. The second number is the state component of the tile data.
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the system call does not access memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permit() -> bool {
    false
}

/// Operand of `LDTILECFG`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Configures eight tiles of sixteen rows of 64 bytes on this thread.
///
/// # Safety
/// [`is_available`] must have returned true.
pub(super) unsafe fn configure() {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.row_bytes[..8].fill(PITCH as u16);
    config.rows[..8].fill(TILE_ROWS as u8);
    // SAFETY: the configuration has the layout that the instruction requires.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Releases the tiles, so that the system need not save them on a context switch.
///
/// # Safety
/// The safety requirements of [`configure`] apply.
pub(super) unsafe fn release() {
    // SAFETY: the caller upholds the contract of this function.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Accumulates the products of two tiles of rows and two of weights into four tiles of sums.
macro_rules! four_products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm5, tmm6
         tdpbf16ps tmm2, tmm4, tmm7
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// [`TileRegisters::multiply`](super::tiles::TileRegisters::multiply).
///
/// # Safety
/// This thread must have called [`configure`]. There must be at least one pair and one tap, and all rows and weights
/// must be in bounds.
#[inline]
pub(super) unsafe fn multiply(left: TileOperand<'_>, first: usize, right: [&[ChannelBlock]; 2], sums: &mut TileSums) {
    let TileOperand { blocks, parts, stride, pairs, tap_offsets } = left;
    // SAFETY: the caller upholds the contract of this function.
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
            place = inout(reg) tap_offsets.as_ptr() => _,
            end = in(reg) tap_offsets.as_ptr().add(tap_offsets.len()),
            start = in(reg) blocks.as_ptr().add(first),
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

/// [`TileRegisters::multiply_transposed`](super::tiles::TileRegisters::multiply_transposed).
///
/// # Safety
/// This thread must have called [`configure`], and have exclusive access to the sums. All pixels must be in bounds;
/// there must be at least 32.
#[inline]
pub(super) unsafe fn multiply_transposed(factors: TransposedOperands<'_>, sums: [[*mut Tile; 2]; 2], overwrite: bool) {
    let TransposedOperands { parts, inputs, place, outputs } = factors;
    let rows = parts.count() * TILE_ROWS;
    let (row, steps) = (inputs[0].len() / rows, outputs[0].len() / rows);
    // SAFETY: the caller upholds the contract of this function.
    unsafe {
        asm!(
            "test {overwrite}, {overwrite}",
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
            overwrite = in(reg) usize::from(overwrite),
            sums = in(reg) sums.as_ptr(),
            t = out(reg) _,
            a = inout(reg) inputs[0].as_ptr().cast::<u16>().add(place) => _,
            b = inout(reg) inputs[1].as_ptr().cast::<u16>().add(place) => _,
            c = inout(reg) outputs[0].as_ptr() => _,
            d = inout(reg) outputs[1].as_ptr() => _,
            row = in(reg) row * PITCH,
            low = in(reg) (rows - TILE_ROWS) * row * PITCH,
            steps = inout(reg) steps => _,
            pitch = in(reg) PITCH,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Two blocks rounded to bfloat16, the first one in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn high([first, second]: [__m512; 2]) -> __m512i {
    // SAFETY: both types are 512 bits wide and accept any bit pattern.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Remainders of two blocks after subtracting the high parts, rounded to bfloat16.
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
fn load(block: &ChannelBlock) -> __m512 {
    // SAFETY: a block has 64 bytes and is aligned to 64.
    unsafe { _mm512_load_ps(block.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(numbers: __m512i, block: &mut ChannelBlock) {
    // SAFETY: a block has 64 bytes and is aligned to 64.
    unsafe { _mm512_store_si512(block.0.as_mut_ptr().cast(), numbers) }
}

/// [`tiles::split`](super::tiles::split).
///
/// # Safety
/// [`is_available`] must have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split(
    first: &[ChannelBlock],
    second: Option<&[ChannelBlock]>,
    upper: &mut [ChannelBlock],
    mut lower: Option<&mut [ChannelBlock]>,
) {
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

/// Permutation that interleaves the numbers of two blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave_order() -> __m512i {
    let order: [u16; 2 * BLOCK] = std::array::from_fn(|i| (i / 2 + i % 2 * BLOCK) as u16);
    // SAFETY: both types are 512 bits wide and accept any bit pattern.
    unsafe { transmute::<[u16; 2 * BLOCK], __m512i>(order) }
}

/// [`tiles::split_weights`](super::tiles::split_weights) of 32 inputs.
///
/// # Safety
/// [`is_available`] must have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn split_weights(
    inputs: &[ChannelBlock; 2 * BLOCK],
    upper: &mut [ChannelBlock],
    mut lower: Option<&mut [ChannelBlock]>,
) {
    let order = interleave_order();
    for row in 0..TILE_ROWS {
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
/// [`is_available`] must have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn transpose(
    pixels: &[ChannelBlock; 2 * BLOCK],
    row: usize,
    upper: &mut [ChannelBlock],
    lower: Option<&mut [ChannelBlock]>,
) {
    let order = interleave_order();
    // Each register holds two pixels of sixteen channels.
    let mut highs = [_mm512_setzero_si512(); TILE_ROWS];
    let mut lows = highs;
    for pair in 0..TILE_ROWS {
        let numbers = [load(&pixels[2 * pair]), load(&pixels[2 * pair + 1])];
        let rounded = high(numbers);
        highs[pair] = _mm512_permutexvar_epi16(order, rounded);
        if lower.is_some() {
            lows[pair] = _mm512_permutexvar_epi16(order, low(numbers, rounded));
        }
    }
    store_transposed(highs, row, upper);
    if let Some(lower) = lower {
        store_transposed(lows, row, lower);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store_transposed(pairs: [__m512i; TILE_ROWS], row: usize, rows: &mut [ChannelBlock]) {
    for (channel, pairs) in transposed(pairs).into_iter().enumerate() {
        store(pairs, &mut rows[channel * row]);
    }
}

/// Transposes sixteen by sixteen 32-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transposed(rows: [__m512i; TILE_ROWS]) -> [__m512i; TILE_ROWS] {
    // First within the 128-bit quarters of each row, then the quarters themselves.
    let mut pairs = rows;
    for i in (0..TILE_ROWS).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..TILE_ROWS).step_by(4) {
        for n in 0..2 {
            fours[i + 2 * n] = _mm512_unpacklo_epi64(pairs[i + n], pairs[i + n + 2]);
            fours[i + 2 * n + 1] = _mm512_unpackhi_epi64(pairs[i + n], pairs[i + n + 2]);
        }
    }
    // Quarter `q` of `fours[4 g + c]` holds column `4 q + c` of the rows `4 g` to `4 g + 3`.
    let mut transposed = fours;
    for c in 0..4 {
        let low = [0, 8].map(|g| _mm512_shuffle_i32x4::<0x44>(fours[g + c], fours[g + 4 + c]));
        let high = [0, 8].map(|g| _mm512_shuffle_i32x4::<0xEE>(fours[g + c], fours[g + 4 + c]));
        transposed[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        transposed[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]);
        transposed[8 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        transposed[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]);
    }
    transposed
}
