//! Vector types of x86-64.

use std::arch::x86_64::{
    __m256, __m512, _CMP_GT_OQ, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm_sfence, _mm256_add_ps, _mm256_blendv_ps,
    _mm256_cmp_ps, _mm256_div_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps,
    _mm256_set1_ps, _mm256_sqrt_ps, _mm256_store_ps, _mm256_storeu_ps, _mm256_stream_ps, _mm256_sub_ps, _mm512_add_ps,
    _mm512_cmp_ps_mask, _mm512_div_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_mask_blend_ps,
    _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_sqrt_ps, _mm512_store_ps, _mm512_storeu_ps, _mm512_stream_ps,
    _mm512_sub_ps,
};

use super::{BLOCK, ChannelBlock, Kernel, Vector};

/// # Safety
/// The processor must have AVX-512F.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512(work: impl Kernel) {
    work.run::<Avx512>();
}

/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2(work: impl Kernel) {
    work.run::<Avx2>();
}

// SAFETY of the blocks below: values of these types are created only inside the two functions above, so the processor
// has the instructions. A `ChannelBlock` has 64 bytes and is aligned to 64.

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

impl Vector for Avx512 {
    const TILE: (usize, usize) = (8, 2);
    const GRADIENT_TILE: (usize, usize) = (8, 2);
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn prefetch(block: &ChannelBlock) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(block: &ChannelBlock) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(block.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_nontemporal(self, block: &mut ChannelBlock) {
        unsafe { _mm512_stream_ps(block.0.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_fence() {
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(block: &ChannelBlock) -> Self {
        Self(unsafe { _mm512_load_ps(block.0.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, block: &mut ChannelBlock) {
        unsafe { _mm512_store_ps(block.0.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn select_gt(self, other: Self, if_greater: Self, otherwise: Self) -> Self {
        Self(unsafe {
            let greater = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0);
            _mm512_mask_blend_ps(greater, otherwise.0, if_greater.0)
        })
    }

    #[inline(always)]
    fn load_unaligned(numbers: &[f32; BLOCK]) -> Self {
        Self(unsafe { _mm512_loadu_ps(numbers.as_ptr()) })
    }

    #[inline(always)]
    fn store_unaligned(self, numbers: &mut [f32; BLOCK]) {
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), self.0) }
    }
}

/// Two registers of eight numbers.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    const TILE: (usize, usize) = (6, 1);
    const GRADIENT_TILE: (usize, usize) = (4, 1);
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn prefetch(block: &ChannelBlock) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch_far(block: &ChannelBlock) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(block.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_nontemporal(self, block: &mut ChannelBlock) {
        let start = block.0.as_mut_ptr();
        unsafe {
            _mm256_stream_ps(start, self.0);
            _mm256_stream_ps(start.add(BLOCK / 2), self.1);
        }
    }

    #[inline(always)]
    fn store_fence() {
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        let half = unsafe { _mm256_set1_ps(value) };
        Self(half, half)
    }

    #[inline(always)]
    fn load(block: &ChannelBlock) -> Self {
        let start = block.0.as_ptr();
        unsafe { Self(_mm256_load_ps(start), _mm256_load_ps(start.add(BLOCK / 2))) }
    }

    #[inline(always)]
    fn store(self, block: &mut ChannelBlock) {
        let start = block.0.as_mut_ptr();
        unsafe {
            _mm256_store_ps(start, self.0);
            _mm256_store_ps(start.add(BLOCK / 2), self.1);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        unsafe {
            let low = _mm256_fmadd_ps(self.0, factor.0, summand.0);
            Self(low, _mm256_fmadd_ps(self.1, factor.1, summand.1))
        }
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }

    #[inline(always)]
    fn select_gt(self, other: Self, if_greater: Self, otherwise: Self) -> Self {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, other.1);
            Self(_mm256_blendv_ps(otherwise.0, if_greater.0, low), _mm256_blendv_ps(otherwise.1, if_greater.1, high))
        }
    }

    #[inline(always)]
    fn load_unaligned(numbers: &[f32; BLOCK]) -> Self {
        let start = numbers.as_ptr();
        unsafe { Self(_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(BLOCK / 2))) }
    }

    #[inline(always)]
    fn store_unaligned(self, numbers: &mut [f32; BLOCK]) {
        let start = numbers.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(start, self.0);
            _mm256_storeu_ps(start.add(BLOCK / 2), self.1);
        }
    }
}
