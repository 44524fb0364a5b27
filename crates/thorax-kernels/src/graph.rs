//! A trained network compiled for prediction: batch normalisation is folded into the weights, the weights are packed,
//! and buffers are kept between calls.

mod compile;
mod pass;

use parking_lot::Mutex;

use super::{
    im2col::Im2col,
    layout::{ConvShape, Images},
    matmul, memory,
    shared::Shared,
    simd::{BLOCK, ChannelBlock},
    stem::PaddedPlanes,
    team::Team,
    zeros,
};
use compile::{Compiler, Convolution, Stem};
use pass::Pass;

/// A convolution with folded batch normalisation.
#[derive(Clone, Debug)]
pub struct ConvLayer {
    /// Shape of the convolution.
    pub shape: ConvShape,
    /// `[outputs, inputs, kernel, kernel]`.
    pub weights: Vec<f32>,
    /// Bias of each output.
    pub bias: Vec<f32>,
}

/// Affine map from the grey level to each channel of the input: `grey * scale + shift`.
#[derive(Clone, Debug)]
pub struct ChannelAffine {
    /// Factor of each channel.
    pub scale: Vec<f32>,
    /// Offset of each channel.
    pub shift: Vec<f32>,
}

/// Index of an activation buffer. The first convolution writes slot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub usize);

/// An operation after the first convolution.
#[derive(Clone, Debug)]
pub enum Op {
    /// Convolution, addition of a residual, and ReLU.
    Conv {
        /// Weights and bias.
        layer: ConvLayer,
        /// Slot to read.
        input: Slot,
        /// Slot to write. It must differ from the input and the residual.
        output: Slot,
        /// Slot that is added before the ReLU.
        residual: Option<Slot>,
        /// True to apply ReLU.
        relu: bool,
    },
    /// Max pooling with stride 2. Padding counts as zero, so the input must not be negative.
    MaxPool {
        /// Side of the window: 3 with a padding of 1, or 2 without padding.
        window: usize,
        /// Slot to read.
        input: Slot,
        /// Slot to write.
        output: Slot,
    },
    /// Stride-2 subsampling: every second pixel of every second row. A pointwise convolution with stride 2 then needs
    /// no stride.
    Subsample {
        /// Slot to read.
        input: Slot,
        /// Slot to write.
        output: Slot,
    },
}

/// Output of the graph: means over a grid of cells, as in PyTorch's `AdaptiveAvgPool2d`.
#[derive(Clone, Copy, Debug)]
pub struct GridMean {
    /// Slot to average.
    pub input: Slot,
    /// Cells per side. If there are more cells than pixels, they overlap.
    pub grid: usize,
}

/// Maximum batch of one pass. Larger batches are not faster and need more memory.
const MAX_BATCH: usize = 8;

/// Memory limit of the slots. A batch is split to stay below it, down to one image.
const MAX_SLOT_BYTES: usize = 512 << 20;

/// A network compiled for one image size and one instruction level.
#[derive(Debug)]
pub struct Graph {
    stem: Stem,
    ops: Vec<CompiledOp>,
    /// Activation that is averaged.
    result: SlotShape,
    /// Cells per side of the result.
    grid: usize,
    /// Blocks per image of the largest activation in each slot.
    slots: Vec<usize>,
    buffers: Mutex<Buffers>,
}

/// Buffers that are kept between calls.
#[derive(Debug, Default)]
struct Buffers {
    planes: Vec<f32>,
    slots: Vec<Vec<ChannelBlock>>,
    scratch: Vec<ChannelBlock>,
}

/// An operation with the shapes of its input and output.
#[derive(Debug)]
struct CompiledOp {
    work: OpKind,
    input: SlotShape,
    output: SlotShape,
}

/// A slot and the shape of the activation in it.
#[derive(Clone, Copy, Debug)]
struct SlotShape {
    slot: Slot,
    blocks: usize,
    side: usize,
}

#[derive(Debug)]
enum OpKind {
    Conv { convolution: Convolution, residual: Option<Slot>, relu: bool },
    MaxPool { window: usize },
    Subsample,
}

impl Graph {
    /// Compiles a network for images of `side` pixels per side. `first` (with ReLU) writes slot 0, `ops` follow, and
    /// `result` is the output.
    ///
    /// # Panics
    /// If an operation does not match the shape of its input, reads a slot that was not written, or writes a slot
    /// that it reads.
    pub fn new(
        team: &Team,
        side: usize,
        first: &ConvLayer,
        channels: &ChannelAffine,
        ops: &[Op],
        result: GridMean,
    ) -> Self {
        let stem = Stem::new(team, side, first, channels);
        let start =
            SlotShape { slot: Slot(0), blocks: stem.shape.outputs.div_ceil(BLOCK), side: stem.shape.side(side) };
        let mut compiler = Compiler { team, written: vec![start], slots: vec![start.size()] };
        let ops = ops.iter().map(|op| compiler.op(op)).collect();
        let GridMean { input, grid } = result;
        let result = compiler.find(input);
        Self { stem, ops, result, grid, slots: compiler.slots, buffers: Mutex::default() }
    }

    /// Features `[images, channels * grid * grid]` of square grey images, `side * side` bytes each; channel by
    /// channel, then row by row.
    ///
    /// # Panics
    /// If an image has another size.
    pub fn features(&self, team: &Team, images: &[&[u8]]) -> Vec<Vec<f32>> {
        self.passes(images).flat_map(|images| self.pass(team, images, |_, _| ()).0).collect()
    }

    /// The features, and the activation maps that they average: `[images, channels * map_side * map_side]` (see
    /// [`Graph::map_side`]). The maps are read from the buffers of the same pass, at almost no cost.
    ///
    /// # Panics
    /// Panics under the conditions of [`Graph::features`].
    pub fn features_and_maps(&self, team: &Team, images: &[&[u8]]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let read = |maps: Images<'_>, image| maps.channels(image, self.result.blocks);
        let passes: Vec<_> = self.passes(images).map(|images| self.pass(team, images, read)).collect();
        let (features, maps): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        (features.concat(), maps.concat())
    }

    /// Side of the activation maps in pixels.
    pub fn map_side(&self) -> usize {
        self.result.side
    }

    /// Splits the images into the batches of the passes.
    fn passes<'a, 'b>(&self, images: &'a [&'b [u8]]) -> impl Iterator<Item = &'a [&'b [u8]]> {
        let fit = MAX_SLOT_BYTES / (self.slots.iter().sum::<usize>() * size_of::<ChannelBlock>());
        images.chunks(fit.clamp(1, MAX_BATCH))
    }

    /// Runs one pass. Returns the features of each image and the result of `read` for each image's activation maps.
    fn pass<T>(&self, team: &Team, images: &[&[u8]], read: impl Fn(Images<'_>, usize) -> T) -> (Vec<Vec<f32>>, Vec<T>) {
        let mut buffers = self.buffers.lock();
        let Buffers { planes, slots, scratch } = &mut *buffers;
        let planes = self.stem.planes(images, planes);
        slots.resize_with(self.slots.len(), Vec::new);
        for (buffer, size) in slots.iter_mut().zip(&self.slots) {
            grow(buffer, size * images.len());
            memory::poison(buffer);
        }
        grow(scratch, self.scratch(team, planes, slots, images.len()));
        memory::poison(scratch);
        let (blocks, cells) = (self.result.blocks, self.grid * self.grid);
        let mut means = zeros(blocks * images.len() * cells);
        let pass = Pass {
            graph: self,
            images: images.len(),
            slots: slots.iter_mut().map(|buffer| Shared::new(buffer)).collect(),
            scratch: Shared::new(scratch),
        };
        let shared = Shared::new(&mut means);
        // SAFETY: the buffers are locked by this call until it returns.
        team.run(|worker| unsafe { pass.run(worker, planes, shared) });
        let of_block = |image, block| {
            let means = &means[(block * images.len() + image) * cells..][..cells];
            (0..BLOCK).flat_map(move |channel| means.iter().map(move |mean| mean.0[channel]))
        };
        let features =
            (0..images.len()).map(|image| (0..blocks).flat_map(|block| of_block(image, block)).collect()).collect();
        let SlotShape { slot, side, .. } = self.result;
        let maps = Images { blocks: &slots[slot.0][..self.result.size() * images.len()], images: images.len(), side };
        (features, (0..images.len()).map(|image| read(maps, image)).collect())
    }

    fn scratch(&self, team: &Team, planes: PaddedPlanes<'_>, slots: &[Vec<ChannelBlock>], images: usize) -> usize {
        let stem = matmul::scratch(team, Im2col::Stem(planes), self.stem.weights(team.level()).outputs);
        let op = |op: &CompiledOp| match &op.work {
            OpKind::Conv { convolution, .. } => {
                let SlotShape { slot, side, .. } = op.input;
                let blocks = &slots[slot.0][..op.input.size() * images];
                convolution.scratch(team, Images { blocks, images, side }, op)
            }
            OpKind::MaxPool { .. } | OpKind::Subsample => 0,
        };
        self.ops.iter().map(op).max().unwrap_or(0).max(stem)
    }
}

fn grow(buffer: &mut Vec<ChannelBlock>, length: usize) {
    if buffer.len() < length {
        *buffer = zeros(length);
    }
}

impl SlotShape {
    /// Blocks per image.
    fn size(&self) -> usize {
        self.blocks * self.side * self.side
    }
}
