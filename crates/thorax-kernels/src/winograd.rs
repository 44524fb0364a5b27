//! 3x3 convolutions with stride 1 by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016, arXiv:1509.09308),
//! with a quarter of the multiplications.
//!
//! The output is cut into tiles of 4x4 pixels. Each needs 6x6 inputs. The input transform gives 36 points per tile
//! and channel, the kernel transform 36 points per pair of channels; their products, summed over the input channels,
//! are transformed to the outputs. So the work is 36 matrix products of tiles by channels.

mod gradient;
mod on_the_fly;
mod transforms;

pub(super) use gradient::{Unpack, scratch as gradient_scratch, weight_gradient};
pub(super) use on_the_fly::{OnTheFly, has_few_tiles, saves_work};

use std::ops::Range;

use super::{
    layout::{ConvShape, Images, split_range},
    matmul::{Epilogue, PixelMatrix, RegisterTiles},
    pack::{Source, Weights},
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Kernel, Level, Vector},
    team::{Team, Worker},
};
use transforms::{InputMatrix, KernelMatrix, OutputMatrix, Transform};

/// Side of an output tile.
const OUT: usize = 4;
/// Side of an input tile.
const IN: usize = 6;
/// Side of the kernel.
const TAPS: usize = 3;
/// Number of points: matrix products per tile.
const POINTS: usize = IN * IN;

/// Blocks of transformed inputs and outputs per worker if workers are independent: most of an L2 cache.
const WORKER_CHUNK_BLOCKS: usize = (896 << 10) / size_of::<ChannelBlock>();

/// Blocks of transformed inputs and outputs if all workers process the same tiles.
const TEAM_CHUNK_BLOCKS: usize = (3 << 19) / size_of::<ChannelBlock>();

/// Maximum size of the transformed weights, in bytes, if every worker reads all of them.
const MAX_WORKER_WEIGHT_BYTES: usize = 3 << 20;

/// Transformed weights of a convolution: a packed matrix `[inputs, outputs]` for each of the 36 points.
#[derive(Clone, Copy)]
pub(super) struct Winograd<'a> {
    pub(super) points: &'a [ChannelBlock],
    /// Input blocks.
    pub(super) inputs: usize,
    /// Output blocks.
    pub(super) outputs: usize,
}

/// True if this is the best algorithm for the convolution. With AMX the plain product is faster in spite of its
/// multiplications.
pub(super) fn is_applicable(level: Level, shape: ConvShape) -> bool {
    (shape.kernel, shape.stride, shape.padding) == (3, 1, 1) && level.bf16_parts().is_none()
}

/// Length of the transformed weights, or of their gradient.
pub(super) fn packed(source: &Source<'_>) -> usize {
    let (inputs, outputs) = source.channels();
    points_len(inputs.next_multiple_of(BLOCK) * outputs.div_ceil(BLOCK))
}

/// Transforms and packs the weights, one item per output block. Every worker of the team must call it.
///
/// # Safety
/// No thread outside the team may access `packed`.
pub(super) unsafe fn pack(worker: &Worker<'_>, source: Source<'_>, packed: Shared<'_>) {
    let (_, outputs) = source.channels();
    worker.parallel_for(outputs.div_ceil(BLOCK), |output| worker.run(Pack { source, output, packed }));
}

/// Transforms the weights of one output block.
struct Pack<'a> {
    source: Source<'a>,
    output: usize,
    packed: Shared<'a>,
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { source, output, packed } = self;
        let (inputs, outputs) = source.channels();
        let (padded, outputs) = (inputs.next_multiple_of(BLOCK), outputs.div_ceil(BLOCK));
        for input in 0..inputs {
            let mut taps = [[V::zero(); TAPS]; TAPS];
            for place in 0..TAPS * TAPS {
                taps[place / TAPS][place % TAPS] = V::load(&source.block(input, place, output));
            }
            let points = KernelMatrix::apply_2d(taps);
            for point in 0..POINTS {
                // SAFETY: only this worker accesses this output block during the phase.
                let place = unsafe { packed.slice_mut(point * pitch(outputs * padded) + output * padded + input, 1) };
                points[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}

impl Winograd<'_> {
    /// The layer of these weights, without the transformed weights.
    pub(super) fn of(source: &Source<'_>) -> Self {
        let (inputs, outputs) = source.channels();
        Self { points: &[], inputs: inputs.div_ceil(BLOCK), outputs: outputs.div_ceil(BLOCK) }
    }

    /// Scratch blocks of a pass.
    pub(super) fn scratch(&self, team: &Team, images: usize, side: usize) -> usize {
        let total = tiles(images, side);
        match self.independent_chunks(team.threads(), total) {
            Some(chunks) => team.threads() * self.scratch_len(total.div_ceil(chunks)),
            None => self.scratch_len(self.chunk(total)),
        }
    }

    /// Scratch blocks of one tile.
    fn tile(&self) -> usize {
        POINTS * (self.inputs + self.outputs)
    }

    /// Scratch blocks of `count` tiles.
    fn scratch_len(&self, count: usize) -> usize {
        points_len(self.inputs * count) + points_len(self.outputs * count)
    }

    /// Number of chunks if each worker takes some tiles through all three phases alone, within its own cache. `None`
    /// if the weights are too large to be read by each worker, or the chunks too small to pay off.
    fn independent_chunks(&self, threads: usize, total: usize) -> Option<usize> {
        let bytes = POINTS * self.inputs * BLOCK * self.outputs * size_of::<ChannelBlock>();
        let fits = (WORKER_CHUNK_BLOCKS / self.tile()).max(1);
        let chunks = total.div_ceil(fits).next_multiple_of(threads);
        (bytes <= MAX_WORKER_WEIGHT_BYTES && total >= 16 * chunks).then_some(chunks)
    }

    /// Number of tiles that go through the three phases together if all workers process the same tiles.
    fn chunk(&self, total: usize) -> usize {
        let fits = TEAM_CHUNK_BLOCKS / self.tile();
        let chunks = total.div_ceil(fits.max(32));
        total.div_ceil(chunks)
    }

    /// Runs one pass. Every worker of the team must call it.
    ///
    /// # Safety
    /// No thread outside the team may access the output or the scratch.
    pub(super) unsafe fn run(
        self,
        worker: &Worker<'_>,
        input: Images<'_>,
        scratch: Shared<'_>,
        epilogue: &Epilogue<'_>,
    ) {
        let total = tiles(input.images, input.side);
        let panels = self.outputs.div_ceil(worker.level().tile().1);
        let pass = |tiles: Range<usize>, offset| Pass {
            layer: self,
            input,
            first: tiles.start,
            count: tiles.len(),
            scratch,
            offset,
            order: Order::Points,
            epilogue,
        };
        if let Some(chunks) = self.independent_chunks(worker.threads(), total) {
            let size = self.scratch_len(total.div_ceil(chunks));
            return worker.parallel_for(chunks, |chunk| {
                let pass = pass(split_range(chunk, chunks, total), worker.index() * size);
                (0..self.inputs).for_each(|block| worker.run(InputTransform { pass, block, tiles: 0..pass.count }));
                (0..POINTS).for_each(|point| pass.multiply(worker, point, 0..panels));
                (0..self.outputs).for_each(|block| worker.run(OutputTransform { pass, block, tiles: 0..pass.count }));
            });
        }
        let chunk = self.chunk(total);
        for first in (0..total).step_by(chunk) {
            let pass = pass(first..(first + chunk).min(total), 0);
            pass.by_block(worker, self.inputs, |block, tiles| worker.run(InputTransform { pass, block, tiles }));
            worker.parallel_for(POINTS * panels, |item| {
                let panel = item % panels;
                pass.multiply(worker, item / panels, panel..panel + 1);
            });
            pass.by_block(worker, self.outputs, |block, tiles| worker.run(OutputTransform { pass, block, tiles }));
        }
    }

    fn point(&self, point: usize) -> Weights<'_> {
        let length = self.inputs * BLOCK * self.outputs;
        Weights::plain(&self.points[point * pitch(length)..][..length], self.inputs, self.outputs)
    }
}

/// Distance between the matrices of two points. It is odd: a worker accesses the same position of all 36 matrices in
/// turn, and with a power of two between them they would map to the same cache sets.
#[inline(always)]
fn pitch(blocks: usize) -> usize {
    blocks | 1
}

/// Total number of blocks of 36 matrices.
pub(super) fn points_len(blocks: usize) -> usize {
    POINTS * pitch(blocks)
}

/// Number of output tiles of all images. Those at the right and lower edge may extend beyond the image.
fn tiles(images: usize, side: usize) -> usize {
    images * side.div_ceil(OUT) * side.div_ceil(OUT)
}

/// Some tiles on their way through the three phases.
#[derive(Clone, Copy)]
struct Pass<'a> {
    layer: Winograd<'a>,
    input: Images<'a>,
    first: usize,
    count: usize,
    scratch: Shared<'a>,
    /// Offset of its part of the scratch.
    offset: usize,
    order: Order,
    epilogue: &'a Epilogue<'a>,
}

/// Layout of the transformed numbers in the scratch.
#[derive(Clone, Copy)]
enum Order {
    /// `[point, block, tile]`: each point is a matrix.
    Points,
    /// `[block, point, tile]`: the points of a block are adjacent.
    Blocks,
}

impl Pass<'_> {
    /// Runs one phase over channel blocks, and over parts of the tiles if there are few blocks.
    fn by_block(&self, worker: &Worker<'_>, blocks: usize, work: impl Fn(usize, Range<usize>)) {
        let parts = (4 * worker.threads()).div_ceil(blocks).min(self.count);
        worker.parallel_for(blocks * parts, |item| work(item / parts, split_range(item % parts, parts, self.count)));
    }

    /// Phase 2: the matrix product of one point, for some panels of outputs, to which no other worker may write.
    fn multiply(&self, worker: &Worker<'_>, point: usize, panels: Range<usize>) {
        // SAFETY: nothing writes the transformed input in this phase.
        let transformed_input =
            unsafe { self.scratch.slice(self.transformed_input(point, 0), self.layer.inputs * self.count) };
        worker.run(RegisterTiles {
            pixels: PixelMatrix { blocks: transformed_input, stride: self.count },
            count: self.count,
            first: self.transformed_output(point, 0),
            weights: self.layer.point(point),
            epilogue: &Epilogue::plain(self.scratch, self.count),
            panels,
        });
    }

    /// Offset of a point and block of the transformed input.
    #[inline(always)]
    fn transformed_input(&self, point: usize, block: usize) -> usize {
        self.offset + self.row(point, block, self.layer.inputs)
    }

    /// Offset of a point and block of the transformed output, after all inputs.
    #[inline(always)]
    fn transformed_output(&self, point: usize, block: usize) -> usize {
        self.offset + points_len(self.layer.inputs * self.count) + self.row(point, block, self.layer.outputs)
    }

    /// Offset of a point and block within its part.
    #[inline(always)]
    fn row(&self, point: usize, block: usize, blocks: usize) -> usize {
        match self.order {
            Order::Points => point * pitch(blocks * self.count) + block * self.count,
            Order::Blocks => (block * POINTS + point) * self.count,
        }
    }

    /// Image, first output row and first output column of a tile of this pass.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let across = self.input.side.div_ceil(OUT);
        let tile = self.first + tile;
        (tile / (across * across), tile / across % across * OUT, tile % across * OUT)
    }
}

/// Phase 1: input transform of some tiles of one channel block.
struct InputTransform<'a> {
    pass: Pass<'a>,
    block: usize,
    tiles: Range<usize>,
}

impl Kernel for InputTransform<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, block, tiles } = self;
        let (side, plane) = (pass.input.side, pass.input.plane(block));
        for tile in tiles {
            let (image, top, left) = pass.place(tile);
            let mut values = [[V::zero(); IN]; IN];
            for (y, row) in values.iter_mut().enumerate() {
                // One row above the outputs and one below. Outside the image the input is zero.
                let y = (top + y).wrapping_sub(1);
                if y < side {
                    let line = &plane[(image * side + y) * side..][..side];
                    for (x, value) in row.iter_mut().enumerate() {
                        if let Some(block) = line.get((left + x).wrapping_sub(1)) {
                            *value = V::load(block);
                        }
                    }
                }
            }
            let values = InputMatrix::apply_2d(values);
            for point in 0..POINTS {
                // SAFETY: only this worker accesses this block of the transformed input during the phase.
                let place = unsafe { pass.scratch.slice_mut(pass.transformed_input(point, block) + tile, 1) };
                values[point / IN][point % IN].store(&mut place[0]);
            }
        }
    }
}

/// Phase 3: output transform of some tiles of one channel block.
struct OutputTransform<'a> {
    pass: Pass<'a>,
    block: usize,
    tiles: Range<usize>,
}

impl Kernel for OutputTransform<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, block, tiles } = self;
        let (side, epilogue) = (pass.input.side, pass.epilogue);
        let bias = epilogue.bias::<V>(block);
        for tile in tiles {
            let (image, top, left) = pass.place(tile);
            let mut values = [[V::zero(); IN]; IN];
            for point in 0..POINTS {
                // SAFETY: nothing writes the sums of this block any more.
                let sum = unsafe { pass.scratch.slice(pass.transformed_output(point, block) + tile, 1) };
                values[point / IN][point % IN] = V::load(&sum[0]);
            }
            let outputs = OutputMatrix::apply_2d(values);
            for (y, row) in outputs.iter().enumerate().take(side - top) {
                let start = block * epilogue.stride + (image * side + top + y) * side + left;
                let length = OUT.min(side - left);
                // SAFETY: only this worker accesses this output block, and no thread outside the team does.
                let line = unsafe { epilogue.output.slice_mut(start, length) };
                for (x, (block, &value)) in line.iter_mut().zip(row).enumerate() {
                    epilogue.write(value.add(bias), start + x, block);
                }
            }
        }
    }
}
