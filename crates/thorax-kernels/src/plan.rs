//! A trained network made ready for prediction: batch normalisation is in the weights, the weights are packed, the buffers are there.

mod compile;
mod pass;

use parking_lot::Mutex;

use super::{
    columns::Columns,
    conv::{ConvShape, Images},
    product,
    shared::Shared,
    simd::{Lane, WIDTH},
    stem::Planes,
    team::Team,
    zeros,
};
use compile::{Compiler, Convolution, Stem};
use pass::Pass;

/// A convolution that does all that comes before the next one.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its measures.
    pub shape: ConvShape,
    /// `[outputs, inputs, kernel, kernel]`.
    pub weights: Vec<f32>,
    /// One for each output.
    pub bias: Vec<f32>,
}

/// What grey levels become in each channel of the input: `grey * scale + shift`.
#[derive(Clone, Debug)]
pub struct Channels {
    /// By channel.
    pub scale: Vec<f32>,
    /// By channel.
    pub shift: Vec<f32>,
}

/// One of the plan's buffers. The first layer writes slot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub usize);

/// What is done after the first layer.
#[derive(Clone, Debug)]
pub enum Step {
    /// A convolution, the sum with a residual, and a ReLU.
    Convolve {
        /// The convolution.
        layer: Layer,
        /// What it reads.
        input: Slot,
        /// What it writes; none of the others.
        output: Slot,
        /// Added before the ReLU.
        residual: Option<Slot>,
        /// Whether negative numbers become zero.
        relu: bool,
    },
    /// The maximum over windows, every second pixel, no less than zero.
    MaxPool {
        /// Side of a window: 3, padded by one pixel, or 2.
        window: usize,
        /// What it reads.
        input: Slot,
        /// What it writes.
        output: Slot,
    },
    /// Every second pixel of every second row: all that convolutions of one pixel and a stride of 2 look at, which then need none.
    Thin {
        /// What it reads.
        input: Slot,
        /// What it writes.
        output: Slot,
    },
}

/// What the answer is: the means over a grid of cells, cut as in PyTorch's adaptive pooling.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Of what lies there.
    pub of: Slot,
    /// Cells on a side; where there are more than pixels they overlap.
    pub grid: usize,
}

/// Images that go through together: more would not be faster, and take more memory.
const TOGETHER: usize = 8;

/// Fewer of them, but at least one, where the slots would take more bytes than this.
const ROOM: usize = 512 << 20;

/// A network compiled for one size of images.
#[derive(Debug)]
pub struct Plan {
    stem: Stem,
    steps: Vec<Ready>,
    /// What the answer is the means of.
    result: Place,
    /// Cells on a side of it.
    grid: usize,
    /// Lanes of the largest that ever lies in each slot, for one image.
    slots: Vec<usize>,
    buffers: Mutex<Buffers>,
}

/// Kept between calls.
#[derive(Debug, Default)]
struct Buffers {
    planes: Vec<f32>,
    slots: Vec<Vec<Lane>>,
    scratch: Vec<Lane>,
}

/// A step with its measures.
#[derive(Debug)]
struct Ready {
    work: Kind,
    input: Place,
    output: Place,
}

/// A slot and what lies in it.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: Slot,
    lanes: usize,
    side: usize,
}

#[derive(Debug)]
enum Kind {
    Convolve { convolution: Convolution, residual: Option<Slot>, relu: bool },
    MaxPool { window: usize },
    Thin,
}

impl Plan {
    /// Compiles a network for images of `side`: the first layer (with ReLU) writes slot 0, the steps follow, and `result` is
    /// the answer.
    ///
    /// # Panics
    /// If a layer does not fit what it reads, reads what nobody wrote, or writes where it reads.
    pub fn new(team: &Team, side: usize, first: &Layer, channels: &Channels, steps: &[Step], result: Means) -> Self {
        let stem = Stem::new(team, side, first, channels);
        let start = Place { slot: Slot(0), lanes: stem.shape.outputs.div_ceil(WIDTH), side: stem.shape.side(side) };
        let mut compiler = Compiler { team, places: vec![start], slots: vec![start.size()] };
        let steps = steps.iter().map(|step| compiler.step(step)).collect();
        let Means { of, grid } = result;
        let result = compiler.find(of);
        Self { stem, steps, result, grid, slots: compiler.slots, buffers: Mutex::default() }
    }

    /// Features `[images, channels * grid * grid]` of grey squares of the plan's side: channel by channel, row by row.
    ///
    /// # Panics
    /// If an image is not of that side.
    pub fn features(&self, team: &Team, images: &[&[u8]]) -> Vec<Vec<f32>> {
        self.passes(images).flat_map(|images| self.pass(team, images, |_, _| ()).0).collect()
    }

    /// The same, and of what they are the means: `[images, channels * side * side]` with the side of [`Plan::map_side`]. It is read
    /// where the pass left it, so that it costs next to nothing.
    ///
    /// # Panics
    /// As [`Plan::features`].
    pub fn features_and_maps(&self, team: &Team, images: &[&[u8]]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let read = |maps: Images<'_>, image| maps.channels(image, self.result.lanes);
        let passes: Vec<_> = self.passes(images).map(|images| self.pass(team, images, read)).collect();
        let (features, maps): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        (features.concat(), maps.concat())
    }

    /// The side of the maps that the features are the means of, in pixels.
    pub fn map_side(&self) -> usize {
        self.result.side
    }

    /// The images that go through together.
    fn passes<'a, 'b>(&self, images: &'a [&'b [u8]]) -> impl Iterator<Item = &'a [&'b [u8]]> {
        let fit = ROOM / (self.slots.iter().sum::<usize>() * size_of::<Lane>());
        images.chunks(fit.clamp(1, TOGETHER))
    }

    /// The features of each image, and what `read` takes from its maps.
    fn pass<T>(&self, team: &Team, images: &[&[u8]], read: impl Fn(Images<'_>, usize) -> T) -> (Vec<Vec<f32>>, Vec<T>) {
        let mut buffers = self.buffers.lock();
        let Buffers { planes, slots, scratch } = &mut *buffers;
        let planes = self.stem.planes(images, planes);
        slots.resize_with(self.slots.len(), Vec::new);
        for (buffer, size) in slots.iter_mut().zip(&self.slots) {
            grow(buffer, size * images.len());
        }
        grow(scratch, self.scratch(team, planes, slots, images.len()));
        let (lanes, cells) = (self.result.lanes, self.grid * self.grid);
        let mut means = zeros(lanes * images.len() * cells);
        let pass = Pass {
            plan: self,
            images: images.len(),
            slots: slots.iter_mut().map(|buffer| Shared::new(buffer)).collect(),
            scratch: Shared::new(scratch),
        };
        let shared = Shared::new(&mut means);
        // SAFETY: all buffers are this call's until it returns.
        team.run(|member| unsafe { pass.run(member, planes, shared) });
        let of_lane = |image, lane| {
            let means = &means[(lane * images.len() + image) * cells..][..cells];
            (0..WIDTH).flat_map(move |channel| means.iter().map(move |mean| mean.0[channel]))
        };
        let features =
            (0..images.len()).map(|image| (0..lanes).flat_map(|lane| of_lane(image, lane)).collect()).collect();
        let Place { slot, side, .. } = self.result;
        let maps = Images { lanes: &slots[slot.0][..self.result.size() * images.len()], images: images.len(), side };
        (features, (0..images.len()).map(|image| read(maps, image)).collect())
    }

    fn scratch(&self, team: &Team, planes: Planes<'_>, slots: &[Vec<Lane>], images: usize) -> usize {
        let stem = product::scratch(team, Columns::Stem(planes), self.stem.weights(team.level()).outputs);
        let step = |step: &Ready| match &step.work {
            Kind::Convolve { convolution, .. } => {
                let Place { slot, side, .. } = step.input;
                let lanes = &slots[slot.0][..step.input.size() * images];
                convolution.scratch(team, Images { lanes, images, side }, step)
            }
            Kind::MaxPool { .. } | Kind::Thin => 0,
        };
        self.steps.iter().map(step).max().unwrap_or(0).max(stem)
    }
}

fn grow(buffer: &mut Vec<Lane>, length: usize) {
    if buffer.len() < length {
        *buffer = zeros(length);
    }
}

impl Place {
    /// Lanes of one image.
    fn size(&self) -> usize {
        self.lanes * self.side * self.side
    }
}
