//! SIMD abstraction over sixteen numbers: AVX-512, AVX2 with FMA, or plain Rust, selected at run time.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{cell::RefCell, sync::OnceLock};

use tiles::{Bf16Parts, TILE_ROWS};

/// Channels of a pixel that are adjacent in memory.
pub const BLOCK: usize = 16;

/// Sixteen channels of one pixel: one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct ChannelBlock(pub [f32; BLOCK]);

/// One block in one or more vector registers.
pub(super) trait Vector: Copy {
    /// Rows and output blocks of the largest product tile whose sums fit into registers.
    const TILE: (usize, usize);
    /// Input channels and gradient blocks of the largest weight-gradient tile whose sums fit into registers.
    const GRADIENT_TILE: (usize, usize);
    /// Number of accumulators that fit into registers if nearly nothing else needs one.
    const ACCUMULATORS: usize;

    fn splat(value: f32) -> Self;
    fn load(block: &ChannelBlock) -> Self;
    fn store(self, block: &mut ChannelBlock);
    /// Non-temporal store, if the processor has it. The cache line is not read first, and it does not evict others.
    /// Call [`store_fence`](Self::store_fence) before another thread reads the block.
    #[inline(always)]
    fn store_nontemporal(self, block: &mut ChannelBlock) {
        self.store(block);
    }
    /// Completes all non-temporal stores of this thread.
    #[inline(always)]
    fn store_fence() {}
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// Prefetches a block into the L1 cache.
    #[inline(always)]
    fn prefetch(_lane: &ChannelBlock) {}
    /// Prefetches a block into the L2 cache, for a later use.
    #[inline(always)]
    fn prefetch_far(_lane: &ChannelBlock) {}
    /// `self * factor + summand`
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// Elementwise `if self > other { if_greater } else { otherwise }`.
    fn select_gt(self, other: Self, if_greater: Self, otherwise: Self) -> Self;
    /// Load from an unaligned address.
    fn load_unaligned(numbers: &[f32; BLOCK]) -> Self;
    /// Store to an unaligned address.
    fn store_unaligned(self, numbers: &mut [f32; BLOCK]);

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// Size of a buffer that no longer is in the cache when the next layer reads it. Tests use a small value to cover
/// both ways.
const NONTEMPORAL_BYTES: usize = if cfg!(test) { 256 << 10 } else { 16 << 20 };

/// True if a buffer of this number of blocks should be written with non-temporal stores.
pub(super) fn exceeds_cache(blocks: usize) -> bool {
    blocks * size_of::<ChannelBlock>() >= NONTEMPORAL_BYTES
}

/// A computation generic over the vector type. `run` must be `#[inline(always)]`: otherwise it is compiled without
/// the vector instructions.
pub(super) trait Kernel {
    fn run<V: Vector>(self);
}

/// Precision of all products of this process. The first call fixes it.
static SELECTED: OnceLock<Precision> = OnceLock::new();

/// Precision of the operands of matrix products. Accumulation and everything else is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// Emulation of f32 by three bfloat16 products: about 16 significant bits.
    Bf16x3,
    /// One bfloat16 product: 8 significant bits.
    Bf16,
}

impl Precision {
    /// True if this processor supports the precision.
    pub fn is_supported(self) -> bool {
        self == Self::F32 || tiles::is_available()
    }

    /// Selects the precision of this process. Returns false if another one is already in use.
    pub fn select(self) -> bool {
        *SELECTED.get_or_init(|| self) == self
    }

    /// Precision of this process. The default is `Bf16x3` if the processor has AMX, else `F32`.
    pub fn selected() -> Self {
        *SELECTED.get_or_init(|| if Self::Bf16x3.is_supported() { Self::Bf16x3 } else { Self::F32 })
    }

    /// Inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16x3, Self::Bf16].into_iter().find(|precision| precision.name() == name)
    }

    /// `f32`, `bf16x3` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16x3 => "bf16x3",
            Self::Bf16 => "bf16",
        }
    }

    /// Number of bfloat16 parts per operand, if products use tiles.
    fn bf16_parts(self) -> Option<Bf16Parts> {
        match self {
            Self::F32 => None,
            Self::Bf16x3 => Some(Bf16Parts::Two),
            Self::Bf16 => Some(Bf16Parts::One),
        }
    }
}

/// Vector instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum VectorIsa {
    /// Plain Rust, vectorised by the compiler as far as the target allows.
    Scalar,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl VectorIsa {
    /// The best instruction set of this processor.
    pub(super) fn detect() -> Self {
        static FOUND: OnceLock<VectorIsa> = OnceLock::new();
        *FOUND.get_or_init(detect)
    }

    fn sizes(self) -> Sizes {
        match self {
            Self::Scalar => Sizes::of::<Scalar>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Sizes::of::<x86::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Sizes::of::<x86::Avx512>(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => Sizes::of::<Scalar>(),
        }
    }
}

/// Register limits of a vector type; see [`Vector`].
struct Sizes {
    tile: (usize, usize),
    gradient_tile: (usize, usize),
    accumulators: usize,
}

impl Sizes {
    fn of<V: Vector>() -> Self {
        Self { tile: V::TILE, gradient_tile: V::GRADIENT_TILE, accumulators: V::ACCUMULATORS }
    }
}

/// Instruction level of a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) isa: VectorIsa,
    pub(super) precision: Precision,
}

impl Level {
    /// The best instruction set of this processor, and the precision of the process.
    pub(super) fn selected() -> Self {
        Self { isa: VectorIsa::detect(), precision: Precision::selected() }
    }

    /// True if the processor supports the level. Unit tests emulate the tiles.
    pub(super) fn is_supported(self) -> bool {
        self.isa <= VectorIsa::detect() && (cfg!(test) || self.precision.is_supported())
    }

    /// Number of bfloat16 parts per operand, if products use tiles.
    pub(super) fn bf16_parts(self) -> Option<Bf16Parts> {
        self.precision.bf16_parts()
    }

    /// Input blocks that a product takes at a time. Weights are padded to a multiple of it.
    pub(super) fn depth(self) -> usize {
        if self.bf16_parts().is_some() { 2 } else { 1 }
    }

    /// Length of a packed weight panel for this number of input blocks.
    pub(super) fn panel(self, inputs: usize) -> usize {
        self.bf16_parts().map_or(BLOCK, |parts| TILE_ROWS * parts.count() / 2) * inputs
    }

    /// Packs a weight panel: `fill` writes the weights of one input after the other into zeros.
    pub(super) fn pack(self, panel: &mut [ChannelBlock], fill: impl FnOnce(&mut [ChannelBlock])) {
        thread_local! {
            /// Temporary panel, for the precision that is smaller after the split than before it.
            static WHOLE: RefCell<Vec<ChannelBlock>> = const { RefCell::new(Vec::new()) };
        }
        match self.bf16_parts() {
            None => fill(panel),
            Some(Bf16Parts::Two) => {
                fill(panel);
                tiles::split_weights_in_place(panel);
            }
            Some(Bf16Parts::One) => WHOLE.with_borrow_mut(|whole| {
                whole.clear();
                whole.resize(2 * panel.len(), ChannelBlock::default());
                fill(whole);
                tiles::split_weights(whole, Bf16Parts::One, panel);
            }),
        }
    }

    /// Rows and output blocks of the largest product tile.
    pub(super) fn tile(self) -> (usize, usize) {
        self.isa.sizes().tile
    }

    /// Input channels and gradient blocks of the largest weight-gradient tile.
    pub(super) fn gradient_tile(self) -> (usize, usize) {
        self.isa.sizes().gradient_tile
    }

    /// Number of accumulators that fit into registers.
    pub(super) fn accumulators(self) -> usize {
        self.isa.sizes().accumulators
    }

    /// Runs `work` with the vectors of this level.
    ///
    /// # Panics
    /// If the processor does not support them.
    #[inline]
    pub(super) fn run(self, work: impl Kernel) {
        assert!(self.isa <= VectorIsa::detect(), "the processor does not support {self:?}");
        match self.isa {
            VectorIsa::Scalar => work.run::<Scalar>(),
            // SAFETY: `detect` found the features that this function needs; the assertion above checks it.
            #[cfg(target_arch = "x86_64")]
            VectorIsa::Avx2 => unsafe { x86::run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            VectorIsa::Avx512 => unsafe { x86::run_avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => work.run::<Scalar>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> VectorIsa {
    if is_x86_feature_detected!("avx512f") {
        VectorIsa::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        VectorIsa::Avx2
    } else {
        VectorIsa::Scalar
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> VectorIsa {
    VectorIsa::Scalar
}

#[derive(Clone, Copy)]
struct Scalar([f32; BLOCK]);

impl Scalar {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Scalar {
    const TILE: (usize, usize) = (2, 1);
    const GRADIENT_TILE: (usize, usize) = (4, 1);
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; BLOCK])
    }

    #[inline(always)]
    fn load(block: &ChannelBlock) -> Self {
        Self(block.0)
    }

    #[inline(always)]
    fn store(self, block: &mut ChannelBlock) {
        block.0 = self.0;
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
        // Not `f32::mul_add`: without the FMA instruction that is a function call.
        Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + summand.0[i]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    fn select_gt(self, other: Self, if_greater: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > other.0[i] { if_greater.0[i] } else { otherwise.0[i] }))
    }

    #[inline(always)]
    fn load_unaligned(numbers: &[f32; BLOCK]) -> Self {
        Self(*numbers)
    }

    #[inline(always)]
    fn store_unaligned(self, numbers: &mut [f32; BLOCK]) {
        *numbers = self.0;
    }
}
