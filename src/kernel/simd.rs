//! Sixteen numbers at a time: AVX-512 where the processor has it, AVX2 with FMA, or plain Rust, chosen when the program runs.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

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
    /// Lanes of sums that stay in registers where nearly nothing else needs one.
    const SUMS: usize;

    fn splat(value: f32) -> Self;
    fn load(lane: &Lane) -> Self;
    fn store(self, lane: &mut Lane);
    /// Stores past the caches where the processor can: a lane that is overwritten is then not read before, and one that nothing reads
    /// soon drives out none that something will. [`settle`](Self::settle) before another thread reads it.
    #[inline(always)]
    fn stream(self, lane: &mut Lane) {
        self.store(lane);
    }
    /// Waits until all that was streamed is in its place.
    #[inline(always)]
    fn settle() {}
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// Asks for a lane that will be read or written soon.
    #[inline(always)]
    fn prefetch(_lane: &Lane) {}
    /// Asks for a lane that will be read after many others: it comes no nearer than the second-level cache.
    #[inline(always)]
    fn prefetch_far(_lane: &Lane) {}
    /// `self * factor + summand`
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// Number by number: `chosen` where `self` is greater than `other`, else `otherwise`.
    fn pick(self, other: Self, chosen: Self, otherwise: Self) -> Self;
    /// From any address.
    fn read(numbers: &[f32; WIDTH]) -> Self;
    /// To any address.
    fn write(self, numbers: &mut [f32; WIDTH]);

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// Bytes of a buffer that has left the caches by the time that the next layer reads it; in tests so few that they come to both ways.
const LARGE: usize = if cfg!(test) { 256 << 10 } else { 16 << 20 };

/// Whether a buffer of so many lanes is better streamed than stored.
pub(super) fn is_large(lanes: usize) -> bool {
    lanes * size_of::<Lane>() >= LARGE
}

/// Something to compute with whichever vectors the processor has. `run` must be `#[inline(always)]`, or it is compiled without them.
pub(super) trait Work {
    fn run<V: Vector>(self);
}

/// Whether products of less than single precision are not wanted; who asks first decides.
static ONLY_F32: OnceLock<bool> = OnceLock::new();

/// Keeps this process from products of less than single precision, whatever the processor has. False if some have been made ready.
pub fn keep_to_f32() -> bool {
    *ONLY_F32.get_or_init(|| true)
}

/// What this process's products are computed in: `f32`, or `bf16x3` where the processor has tiles.
pub fn precision() -> &'static str {
    Level::chosen().precision()
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
    /// The same, and products of tiles of bfloat16, three for one of f32.
    Amx,
}

impl Level {
    /// The best that this processor has.
    pub fn detect() -> Self {
        static FOUND: OnceLock<Level> = OnceLock::new();
        *FOUND.get_or_init(detect)
    }

    /// The best whose products are as precise as the process wants them.
    pub(super) fn chosen() -> Self {
        let best = Self::detect();
        if *ONLY_F32.get_or_init(|| false) { best.min(Self::Avx512) } else { best }
    }

    /// What factors of products are known in: `f32`, or `bf16x3`, two bfloat16 numbers of whose four products three are summed.
    fn precision(self) -> &'static str {
        if self.has_tiles() { "bf16x3" } else { "f32" }
    }

    /// Whether the processor has it. In tests all have tiles.
    pub(super) fn is_there(self) -> bool {
        self <= Self::detect() || cfg!(test) && self.has_tiles()
    }

    /// The vectors that go with it.
    fn vectors(self) -> Self {
        if self.has_tiles() { Self::detect().min(Self::Avx512) } else { self }
    }

    /// Whether products go through tiles of split numbers.
    pub(super) fn has_tiles(self) -> bool {
        self == Self::Amx
    }

    /// Lanes of inputs that products take at a time; weights are packed for as many.
    pub(super) fn depth(self) -> usize {
        if self.has_tiles() { 2 } else { 1 }
    }

    /// Makes of a packed panel what this level's products read.
    pub(super) fn arrange(self, panel: &mut [Lane]) {
        if self.has_tiles() {
            tiles::split_weights(panel);
        }
    }

    /// Rows and lanes of this level's largest tile.
    pub(super) fn tile(self) -> (usize, usize) {
        match self.vectors() {
            Self::Portable => Portable::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => x86::Avx512::TILE,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::TILE,
        }
    }

    /// Channels and lanes of this level's largest tile of a weight's gradient.
    pub(super) fn gradient_tile(self) -> (usize, usize) {
        match self.vectors() {
            Self::Portable => Portable::GRADIENT_TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::GRADIENT_TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => x86::Avx512::GRADIENT_TILE,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::GRADIENT_TILE,
        }
    }

    /// Lanes of sums that stay in this level's registers.
    pub(super) fn sums(self) -> usize {
        match self.vectors() {
            Self::Portable => Portable::SUMS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::SUMS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => x86::Avx512::SUMS,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::SUMS,
        }
    }

    /// Runs `work` with this level's vectors.
    ///
    /// # Panics
    /// If the processor does not have them.
    #[inline]
    pub(super) fn run(self, work: impl Work) {
        assert!(self.is_there(), "the processor has no {self:?}");
        match self.vectors() {
            Self::Portable => work.run::<Portable>(),
            // SAFETY: `detect` found the features of this level, which is what these two functions need.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => unsafe { x86::run_avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => work.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if is_x86_feature_detected!("avx512f") {
        if tiles::is_available() { Level::Amx } else { Level::Avx512 }
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
    const SUMS: usize = 6;

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
    fn pick(self, other: Self, chosen: Self, otherwise: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > other.0[i] { chosen.0[i] } else { otherwise.0[i] }))
    }

    #[inline(always)]
    fn read(numbers: &[f32; WIDTH]) -> Self {
        Self(*numbers)
    }

    #[inline(always)]
    fn write(self, numbers: &mut [f32; WIDTH]) {
        *numbers = self.0;
    }
}
