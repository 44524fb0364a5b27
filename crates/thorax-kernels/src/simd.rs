//! Sixteen numbers at a time: AVX-512 where the processor has it, AVX2 with FMA, or plain Rust, chosen when the program runs.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{cell::RefCell, sync::OnceLock};

use tiles::{Parts, ROWS};

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

/// What this process's products are computed in; who asks first decides.
static CHOSEN: OnceLock<Precision> = OnceLock::new();

/// What factors of products are known in; their sums, and all else, are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    F32,
    /// Two bfloat16 numbers each, of whose four products three are summed.
    Bf16x3,
    /// One bfloat16 number each.
    Bf16,
}

impl Precision {
    /// Whether this processor has products of that kind.
    pub fn is_there(self) -> bool {
        self == Self::F32 || tiles::is_available()
    }

    /// Has all products of this process computed so. False if some have been made ready otherwise.
    pub fn choose(self) -> bool {
        *CHOSEN.get_or_init(|| self) == self
    }

    /// What this process's products are computed in: unless another was chosen the fastest that errs by no more than a few millionths.
    pub fn chosen() -> Self {
        *CHOSEN.get_or_init(|| if Self::Bf16x3.is_there() { Self::Bf16x3 } else { Self::F32 })
    }

    /// That of a [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16x3, Self::Bf16].into_iter().find(|precision| precision.name() == name)
    }

    /// As it is called where numbers are: `f32`, `bf16x3` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16x3 => "bf16x3",
            Self::Bf16 => "bf16",
        }
    }

    /// How many numbers of tiles a factor is, if products go through tiles.
    fn parts(self) -> Option<Parts> {
        match self {
            Self::F32 => None,
            Self::Bf16x3 => Some(Parts::Two),
            Self::Bf16 => Some(Parts::One),
        }
    }
}

/// Vectors that a processor may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Vectors {
    /// Plain Rust, for the compiler to make of it what it can.
    Portable,
    /// Of 256 bits, with fused multiply-add.
    Avx2,
    /// Of 512 bits.
    Avx512,
}

impl Vectors {
    /// The best that this processor has.
    pub(super) fn detect() -> Self {
        static FOUND: OnceLock<Vectors> = OnceLock::new();
        *FOUND.get_or_init(detect)
    }

    fn sizes(self) -> Sizes {
        match self {
            Self::Portable => Sizes::of::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Sizes::of::<x86::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Sizes::of::<x86::Avx512>(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => Sizes::of::<Portable>(),
        }
    }
}

/// What fits into some vectors' registers; see [`Vector`].
struct Sizes {
    tile: (usize, usize),
    gradient_tile: (usize, usize),
    sums: usize,
}

impl Sizes {
    fn of<V: Vector>() -> Self {
        Self { tile: V::TILE, gradient_tile: V::GRADIENT_TILE, sums: V::SUMS }
    }
}

/// What a team computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) vectors: Vectors,
    pub(super) precision: Precision,
}

impl Level {
    /// The best vectors that this processor has, and products as the process wants them.
    pub(super) fn chosen() -> Self {
        Self { vectors: Vectors::detect(), precision: Precision::chosen() }
    }

    /// Whether the processor has it. In tests all have tiles.
    pub(super) fn is_there(self) -> bool {
        self.vectors <= Vectors::detect() && (cfg!(test) || self.precision.is_there())
    }

    /// How many numbers of tiles a factor is, if products go through tiles.
    pub(super) fn parts(self) -> Option<Parts> {
        self.precision.parts()
    }

    /// Lanes of inputs that products take at a time; weights are packed for as many.
    pub(super) fn depth(self) -> usize {
        if self.parts().is_some() { 2 } else { 1 }
    }

    /// Lanes of a packed panel of weights with so many lanes of inputs.
    pub(super) fn panel(self, inputs: usize) -> usize {
        self.parts().map_or(WIDTH, |parts| ROWS * parts.count() / 2) * inputs
    }

    /// Writes a packed panel: `fill` writes the weights of one input after the other, where they stay zeros if there is none.
    pub(super) fn pack(self, panel: &mut [Lane], fill: impl FnOnce(&mut [Lane])) {
        thread_local! {
            /// Room for a panel that is larger before it is split than afterwards.
            static WHOLE: RefCell<Vec<Lane>> = const { RefCell::new(Vec::new()) };
        }
        match self.parts() {
            None => fill(panel),
            Some(Parts::Two) => {
                fill(panel);
                tiles::split_weights_in_place(panel);
            }
            Some(Parts::One) => WHOLE.with_borrow_mut(|whole| {
                whole.clear();
                whole.resize(2 * panel.len(), Lane::default());
                fill(whole);
                tiles::split_weights(whole, Parts::One, panel);
            }),
        }
    }

    /// Rows and lanes of this level's largest tile.
    pub(super) fn tile(self) -> (usize, usize) {
        self.vectors.sizes().tile
    }

    /// Channels and lanes of this level's largest tile of a weight's gradient.
    pub(super) fn gradient_tile(self) -> (usize, usize) {
        self.vectors.sizes().gradient_tile
    }

    /// Lanes of sums that stay in this level's registers.
    pub(super) fn sums(self) -> usize {
        self.vectors.sizes().sums
    }

    /// Runs `work` with this level's vectors.
    ///
    /// # Panics
    /// If the processor does not have them.
    #[inline]
    pub(super) fn run(self, work: impl Work) {
        assert!(self.vectors <= Vectors::detect(), "the processor has no {self:?}");
        match self.vectors {
            Vectors::Portable => work.run::<Portable>(),
            // SAFETY: `detect` found the features of these vectors, which is what these two functions need.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => unsafe { x86::run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => unsafe { x86::run_avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => work.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vectors {
    if is_x86_feature_detected!("avx512f") {
        Vectors::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Vectors::Avx2
    } else {
        Vectors::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Vectors {
    Vectors::Portable
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
