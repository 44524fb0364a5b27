//! Winograd convolution of few tiles, with weights that are transformed during the pass.
//!
//! The transformed weights are four times as large as the taps. With few tiles, loading them from main memory takes
//! longer than computing with them. So only the taps are loaded, and the transformed weights are used at once: from
//! registers, or, with more tiles, from the L1 cache.

mod buffered;

use std::ops::Range;

use super::{IN, InputTransform, OUT, Order, OutputTransform, Pass, TAPS, Winograd, tiles, transforms::KernelMatrix};
use crate::{
    layout::{Images, split_range},
    matmul::Epilogue,
    pack::Weights,
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Kernel, Level, Vector},
    team::{Team, Worker},
};

/// Maximum number of tiles. With more of them, weights that were transformed beforehand pay off.
const MAX_TILES: usize = 16;

/// Up to this number of tiles the weights stay in registers, and are transformed again for each group of tiles whose
/// sums fit there.
const MAX_TILES_IN_REGISTERS: usize = 8;

/// True if there are few enough tiles.
pub(crate) fn has_few_tiles(images: usize, side: usize) -> bool {
    tiles(images, side) <= MAX_TILES
}

/// Cost of transforming the weights of 36 points, in multiplications.
const TRANSFORM: usize = 140;

/// True if this is less work than the plain product: 36 multiplications per tile plus the transform, against nine per
/// pixel.
pub(crate) fn saves_work(level: Level, images: usize, side: usize) -> bool {
    let tiles = tiles(images, side);
    let transforms = if tiles > MAX_TILES_IN_REGISTERS { 1 } else { tiles.div_ceil(level.accumulators() / IN) };
    36 * tiles + TRANSFORM * transforms < 9 * images * side * side
}

/// A convolution of few tiles.
#[derive(Clone, Copy)]
pub(crate) struct OnTheFly<'a> {
    /// A packed matrix `[taps * inputs, outputs]`.
    pub(crate) taps: Weights<'a>,
    /// Input blocks.
    pub(crate) inputs: usize,
}

impl<'a> OnTheFly<'a> {
    fn layer(&self) -> Winograd<'static> {
        Winograd { points: &[], inputs: self.inputs, outputs: self.taps.outputs }
    }

    /// Scratch blocks of a pass.
    pub(crate) fn scratch(&self, team: &Team, images: usize, side: usize) -> usize {
        self.layer().scratch_len(tiles(images, side)) + team.threads() * buffered::BUFFER
    }

    /// Runs one pass. Every worker of the team must call it.
    ///
    /// # Safety
    /// No thread outside the team may access the output or the scratch.
    pub(crate) unsafe fn run(
        self,
        worker: &Worker<'_>,
        input: Images<'_>,
        scratch: Shared<'_>,
        epilogue: &Epilogue<'_>,
    ) {
        let (layer, count) = (self.layer(), tiles(input.images, input.side));
        let pass = Pass { layer, input, first: 0, count, scratch, offset: 0, order: Order::Blocks, epilogue };
        pass.by_block(worker, layer.inputs, |block, tiles| worker.run(InputTransform { pass, block, tiles }));
        let buffer = layer.scratch_len(count) + worker.index() * buffered::BUFFER;
        worker.parallel_for(layer.outputs, |output| {
            if count > MAX_TILES_IN_REGISTERS {
                worker.run(buffered::Sums { conv: self, pass, output, buffer });
            } else {
                worker.run(Sums { conv: self, pass, output });
            }
            worker.run(OutputTransform { pass, block: output, tiles: 0..count });
        });
    }

    /// The taps of one input block and one output block.
    #[inline(always)]
    fn taps(&self, output: usize, input: usize) -> [&'a [ChannelBlock; BLOCK]; TAPS * TAPS] {
        let (panel, padded) = (self.taps.panels(output, 1), self.inputs * BLOCK);
        let block = |place: usize| panel[place * padded + input * BLOCK..].first_chunk().expect("sixteen channels");
        let mut taps = [block(0); TAPS * TAPS];
        for place in 1..TAPS * TAPS {
            taps[place] = block(place);
        }
        taps
    }

    /// Taps to prefetch while row `R` processes an input block: those of the block `further` blocks later, three taps
    /// in every second row.
    #[inline(always)]
    fn ahead<const R: usize>(
        &self,
        output: usize,
        input: usize,
        further: usize,
    ) -> Option<[&'a [ChannelBlock; BLOCK]; TAPS]> {
        (R.is_multiple_of(2) && input + further < self.inputs).then(|| {
            let taps = self.taps(output, input + further);
            [taps[R / 2 * TAPS], taps[R / 2 * TAPS + 1], taps[R / 2 * TAPS + 2]]
        })
    }
}

/// Number of tiles, from the first, that need row `R` of points. The last row of points contributes only to the last
/// output row, which lies outside the image for the lowest tiles if the side is not a multiple of 4.
#[inline(always)]
fn tiles_needed<const R: usize>(pass: &Pass<'_>) -> usize {
    let Images { images, side, .. } = pass.input;
    let beyond = R == IN - 1 && images == 1 && !side.is_multiple_of(OUT);
    if beyond { pass.count - side.div_ceil(OUT) } else { pass.count }
}

#[inline(always)]
fn prefetch<V: Vector>(ahead: Option<[&[ChannelBlock; BLOCK]; TAPS]>, channel: usize) {
    for blocks in ahead.iter().flatten() {
        V::prefetch_far(&blocks[channel]);
    }
}

/// Unscaled weights of row `R` of points for one channel: one sum per column of taps, then six points from the three
/// sums.
#[inline(always)]
fn weights<V: Vector, const R: usize>(taps: &[&[ChannelBlock; BLOCK]; TAPS * TAPS], channel: usize) -> [V; IN] {
    let mut sums = [V::zero(); TAPS];
    for right in 0..TAPS {
        let mut column = [V::zero(); TAPS];
        for down in 0..TAPS {
            column[down] = V::load(&taps[down * TAPS + right][channel]);
        }
        sums[right] = KernelMatrix::unscaled::<V, R>(column);
    }
    KernelMatrix::unscaled_all(sums)
}

/// Sums that are accumulated by row of points, some input blocks at a time.
trait ByRow {
    /// Input blocks that are processed for all rows together.
    const TOGETHER: usize;

    /// Adds the contribution of these input blocks to row `R` of points. The first blocks replace the sums.
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>);

    /// Adds the contribution of all input blocks.
    #[inline(always)]
    fn all<V: Vector>(&self, inputs: usize) {
        for first in (0..inputs).step_by(Self::TOGETHER) {
            let inputs = first..(first + Self::TOGETHER).min(inputs);
            self.add::<V, 0>(inputs.clone());
            self.add::<V, 1>(inputs.clone());
            self.add::<V, 2>(inputs.clone());
            self.add::<V, 3>(inputs.clone());
            self.add::<V, 4>(inputs.clone());
            self.add::<V, 5>(inputs);
        }
    }
}

/// Sums of one output block before the output transform, with weights in registers.
///
/// The code that constructs this guarantees exclusive access to that block of the sums, and that nothing writes the
/// transformed input.
struct Sums<'a> {
    conv: OnTheFly<'a>,
    pass: Pass<'a>,
    output: usize,
}

impl Kernel for Sums<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        self.all::<V>(self.conv.inputs);
    }
}

impl ByRow for Sums<'_> {
    /// Their taps stay in the L1 cache.
    const TOGETHER: usize = 2;

    #[inline(always)]
    fn add<V: Vector, const R: usize>(&self, inputs: Range<usize>) {
        let count = tiles_needed::<R>(&self.pass);
        let groups = count.div_ceil(V::ACCUMULATORS / IN);
        for group in 0..groups {
            let tiles = split_range(group, groups, count);
            macro_rules! dispatch {
                ($($count:literal),*) => {
                    match tiles.len() {
                        $($count if $count * IN <= V::ACCUMULATORS => {
                            self.group::<V, R, $count>(inputs.clone(), tiles.start);
                        })*
                        _ => unreachable!("a group has at most ACCUMULATORS / 6 tiles"),
                    }
                };
            }
            dispatch!(1, 2, 3, 4);
        }
    }
}

impl Sums<'_> {
    /// `M` tiles.
    #[inline(always)]
    fn group<V: Vector, const R: usize, const M: usize>(&self, inputs: Range<usize>, first: usize) {
        let Self { conv, pass, output } = *self;
        let count = pass.count;
        // SAFETY: only this item accesses this block of the sums.
        let sums = unsafe { pass.scratch.slice_mut(pass.transformed_output(R * IN, output), IN * count) };
        let mut found = [[V::zero(); M]; IN];
        if inputs.start > 0 {
            for point in 0..IN {
                for m in 0..M {
                    found[point][m] = V::load(&sums[point * count + first + m]);
                }
            }
        }
        for input in inputs.clone() {
            let (taps, ahead) = (conv.taps(output, input), conv.ahead::<R>(output, input, Self::TOGETHER));
            // SAFETY: nothing writes the transformed input in this phase.
            let transformed_input = unsafe { pass.scratch.slice(pass.transformed_input(R * IN, input), IN * count) };
            let mut tiles: [&[ChannelBlock; M]; IN] =
                [transformed_input[first..].first_chunk().expect("the length is checked above"); IN];
            for point in 1..IN {
                tiles[point] =
                    transformed_input[point * count + first..].first_chunk().expect("the length is checked above");
            }
            for channel in 0..BLOCK {
                prefetch::<V>(ahead, channel);
                let weights = weights::<V, R>(&taps, channel);
                for point in 0..IN {
                    for m in 0..M {
                        let value = V::splat(tiles[point][m].0[channel]);
                        found[point][m] = value.mul_add(weights[point], found[point][m]);
                    }
                }
            }
        }
        // The scales of the kernel transform are applied to the sums: here that is cheaper than to the weights.
        if inputs.end == conv.inputs {
            for point in 0..IN {
                let scale = V::splat(KernelMatrix::scale(R, point));
                for m in 0..M {
                    found[point][m] = found[point][m].mul(scale);
                }
            }
        }
        for point in 0..IN {
            for m in 0..M {
                found[point][m].store(&mut sums[point * count + first + m]);
            }
        }
    }
}
