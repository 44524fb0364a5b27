//! Sixteen numbers at a time: AVX-512 where the processor has it, AVX2 with FMA, or plain Rust, chosen when the program runs.

use std::sync::OnceLock;

/// Numbers in a lane: channels of one pixel that lie side by side in memory.
pub const WIDTH: usize = 16;

/// One cache line of sixteen channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Lane(pub [f32; WIDTH]);

/// A register's worth (or several registers') of one lane.
pub(super) trait Vector: Copy {
    /// Rows and lanes of the largest tile of products whose sums stay in registers.
    const TILE: (usize, usize);
    /// Channels of inputs and lanes of gradients of the largest tile of a weight's gradient whose sums stay in registers.
    const GRADIENT_TILE: (usize, usize);

    fn splat(value: f32) -> Self;
    fn load(lane: &Lane) -> Self;
    fn store(self, lane: &mut Lane);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// Asks for a lane that will be read or written soon.
    #[inline(always)]
    fn prefetch(_lane: &Lane) {}
    /// `self * factor + summand`
    fn mul_add(self, factor: Self, summand: Self) -> Self;

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// Something to compute with whichever vectors the processor has. `run` must be `#[inline(always)]`, or it is compiled without them.
pub(super) trait Work {
    fn run<V: Vector>(self);
}

/// What the processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, for the compiler to make of it what it can.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Level {
    /// The best that this processor has.
    pub fn detect() -> Self {
        static FOUND: OnceLock<Level> = OnceLock::new();
        *FOUND.get_or_init(detect)
    }

    /// Rows and lanes of this level's largest tile.
    pub(super) fn tile(self) -> (usize, usize) {
        match self {
            Self::Portable => Portable::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::Avx512::TILE,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::TILE,
        }
    }

    /// Channels and lanes of this level's largest tile of a weight's gradient.
    pub(super) fn gradient_tile(self) -> (usize, usize) {
        match self {
            Self::Portable => Portable::GRADIENT_TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::GRADIENT_TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::Avx512::GRADIENT_TILE,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::GRADIENT_TILE,
        }
    }

    /// Runs `work` with this level's vectors.
    ///
    /// # Panics
    /// If the processor does not have them.
    #[inline]
    pub(super) fn run(self, work: impl Work) {
        assert!(self <= Self::detect(), "the processor has no {self:?}");
        match self {
            Self::Portable => work.run::<Portable>(),
            // SAFETY: `detect` found the features of this level, which is what these two functions need.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::run_avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => work.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if is_x86_feature_detected!("avx512f") {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

#[derive(Clone, Copy)]
struct Portable([f32; WIDTH]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const TILE: (usize, usize) = (2, 1);
    const GRADIENT_TILE: (usize, usize) = (4, 1);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; WIDTH])
    }

    #[inline(always)]
    fn load(lane: &Lane) -> Self {
        Self(lane.0)
    }

    #[inline(always)]
    fn store(self, lane: &mut Lane) {
        lane.0 = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // Not f32::mul_add: without the instruction that is a function call.
        Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + summand.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_load_ps, _mm256_max_ps,
        _mm256_set1_ps, _mm256_store_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_max_ps,
        _mm512_set1_ps, _mm512_store_ps, _mm512_sub_ps,
    };

    use super::{Lane, Vector, WIDTH, Work};

    /// # Safety
    /// The processor must have AVX-512F.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn run_avx512(work: impl Work) {
        work.run::<Avx512>();
    }

    /// # Safety
    /// The processor must have AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2(work: impl Work) {
        work.run::<Avx2>();
    }

    // SAFETY of the blocks below: values of these types are made only inside the two functions above, so the processor has the
    // instructions; a `Lane` is 64 bytes aligned to 64.

    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    impl Vector for Avx512 {
        const TILE: (usize, usize) = (8, 2);
        const GRADIENT_TILE: (usize, usize) = (8, 2);

        #[inline(always)]
        fn prefetch(lane: &Lane) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(lane.0.as_ptr().cast()) }
        }

        #[inline(always)]
        fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        fn load(lane: &Lane) -> Self {
            Self(unsafe { _mm512_load_ps(lane.0.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, lane: &mut Lane) {
            unsafe { _mm512_store_ps(lane.0.as_mut_ptr(), self.0) }
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
    }

    /// Two registers of eight.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(__m256, __m256);

    impl Vector for Avx2 {
        const TILE: (usize, usize) = (6, 1);
        const GRADIENT_TILE: (usize, usize) = (4, 1);

        #[inline(always)]
        fn prefetch(lane: &Lane) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(lane.0.as_ptr().cast()) }
        }

        #[inline(always)]
        fn splat(value: f32) -> Self {
            let half = unsafe { _mm256_set1_ps(value) };
            Self(half, half)
        }

        #[inline(always)]
        fn load(lane: &Lane) -> Self {
            let start = lane.0.as_ptr();
            unsafe { Self(_mm256_load_ps(start), _mm256_load_ps(start.add(WIDTH / 2))) }
        }

        #[inline(always)]
        fn store(self, lane: &mut Lane) {
            let start = lane.0.as_mut_ptr();
            unsafe {
                _mm256_store_ps(start, self.0);
                _mm256_store_ps(start.add(WIDTH / 2), self.1);
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
    }
}
