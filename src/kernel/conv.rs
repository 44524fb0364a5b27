//! A convolution with all that follows it up to the next one: bias, residual addition, ReLU.

use super::{
    product::{Finish, Packed, Pixels, Tile, multiply},
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::Member,
};

/// Weights up to this size stay in a core's second-level cache while the pixels go by.
const CACHED: usize = 384 << 10;

/// Lanes of gathered pixels that are held at once.
const GATHERED: usize = (1 << 20) / size_of::<Lane>();

/// A square convolution's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
}

impl ConvShape {
    /// Side of the output for that side of the input.
    pub fn side(&self, input: usize) -> usize {
        (input + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Whether each output looks at the input at its own place alone.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }
}

/// Images of one size, each pixel's channels in lanes: `[lanes of channels, images, side, side]`.
#[derive(Clone, Copy)]
pub(super) struct Images<'a> {
    pub(super) lanes: &'a [Lane],
    pub(super) images: usize,
    pub(super) side: usize,
}

impl Images<'_> {
    /// Pixels of all images: the distance between a pixel's lanes.
    pub(super) fn pixels(&self) -> usize {
        self.images * self.side * self.side
    }
}

/// Packed weights of any convolution, as one matrix of kernel positions and input channels by outputs.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    shape: ConvShape,
    weights: Packed,
}

impl Direct {
    /// `weights`: `[outputs, inputs, kernel, kernel]`.
    pub(super) fn new(shape: ConvShape, weights: &[f32]) -> Self {
        let ConvShape { inputs, outputs, kernel, .. } = shape;
        let (area, padded) = (kernel * kernel, inputs.next_multiple_of(WIDTH));
        let weight = |position: usize, output: usize| {
            let (place, input) = (position / padded, position % padded);
            if input < inputs { weights[(output * inputs + input) * area + place] } else { 0.0 }
        };
        Self { shape, weights: Packed::new(area * padded, outputs, weight) }
    }

    /// One pass; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have the output.
    pub(super) unsafe fn run(
        &self,
        member: &Member<'_>,
        level: Level,
        input: Images<'_>,
        scratch: Shared<'_>,
        finish: &Finish<'_>,
    ) {
        if self.shape.is_pointwise() {
            let pixels = Pixels { lanes: input.lanes, stride: input.pixels() };
            // SAFETY: as the caller's.
            return unsafe { product(member, level, pixels, input.pixels(), 0, &self.weights, finish) };
        }
        let side = self.shape.side(input.side);
        let total = input.images * side * side;
        let chunk = self.chunk(level, total);
        for first in (0..total).step_by(chunk) {
            let count = chunk.min(total - first);
            let lanes = self.weights.inputs;
            member.each(lanes, |lane| {
                // SAFETY: this member alone has this lane of the scratch until the phase is over.
                let gathered = unsafe { scratch.part(lane * count, count) };
                self.gather(input, side, first, lane, gathered);
            });
            // SAFETY: nobody writes the scratch in this phase; the output is vouched for by the caller.
            unsafe {
                let pixels = Pixels { lanes: &scratch.whole()[..lanes * count], stride: count };
                product(member, level, pixels, count, first, &self.weights, finish);
            }
        }
    }

    /// Lanes of scratch that a pass needs.
    pub(super) fn scratch(&self, level: Level, images: usize, side: usize) -> usize {
        if self.shape.is_pointwise() {
            return 0;
        }
        let side = self.shape.side(side);
        self.chunk(level, images * side * side) * self.weights.inputs
    }

    /// How many pixels are gathered at once: whole tiles.
    fn chunk(&self, level: Level, total: usize) -> usize {
        let (rows, _) = level.tile();
        let fits = (GATHERED / self.weights.inputs / rows).max(4) * rows;
        fits.min(total)
    }

    /// One lane of what the outputs from `first` on look at: one place of the kernel, sixteen channels.
    fn gather(&self, input: Images<'_>, side: usize, first: usize, lane: usize, gathered: &mut [Lane]) {
        let ConvShape { inputs, kernel, stride, padding, .. } = self.shape;
        let channel_lanes = inputs.div_ceil(WIDTH);
        let (place, channels) = (lane / channel_lanes, lane % channel_lanes);
        let (down, right) = (place / kernel, place % kernel);
        let plane = &input.lanes[channels * input.pixels()..][..input.pixels()];
        let mut pixel = first;
        for lane in gathered {
            let (image, y, x) = (pixel / (side * side), pixel / side % side, pixel % side);
            let (y, x) = ((y * stride + down).wrapping_sub(padding), (x * stride + right).wrapping_sub(padding));
            let inside = y < input.side && x < input.side;
            *lane = if inside { plane[(image * input.side + y) * input.side + x] } else { Lane::default() };
            pixel += 1;
        }
    }
}

/// `count` pixels times the weights, shared out over the team; the first pixel becomes the output's pixel `first`.
///
/// # Safety
/// Nobody outside the team may have the output.
pub(super) unsafe fn product(
    member: &Member<'_>,
    level: Level,
    pixels: Pixels<'_>,
    count: usize,
    first: usize,
    weights: &Packed,
    finish: &Finish<'_>,
) {
    let (rows, width) = level.tile();
    let (tiles, panels) = (count.div_ceil(rows), weights.outputs.div_ceil(width));
    let bytes = weights.inputs * weights.outputs * WIDTH * size_of::<Lane>();
    let job = Job { pixels, count, first, weights, finish };
    // Small weights: one tile of pixels after the other goes through all of them. Large ones: one panel after the other goes over all
    // pixels. Items are small enough that two cores finish together.
    if bytes <= CACHED && tiles >= 8 {
        let group = tiles.div_ceil(64).max(1);
        member.each(tiles.div_ceil(group), |item| {
            let range = item * group..((item + 1) * group).min(tiles);
            level.run(Tiles { job, tiles: range, of: tiles, panels: 0..panels });
        });
    } else {
        member.each(panels, |panel| level.run(Tiles { job, tiles: 0..tiles, of: tiles, panels: panel..panel + 1 }));
    }
}

#[derive(Clone, Copy)]
struct Job<'a> {
    pixels: Pixels<'a>,
    count: usize,
    first: usize,
    weights: &'a Packed,
    finish: &'a Finish<'a>,
}

/// Some tiles of pixels by some panels of outputs.
struct Tiles<'a> {
    job: Job<'a>,
    tiles: std::ops::Range<usize>,
    of: usize,
    panels: std::ops::Range<usize>,
}

impl Work for Tiles<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Job { pixels, count, first, weights, finish } = self.job;
        let (_, width) = V::TILE;
        for index in self.tiles {
            // Tiles of nearly the same size: a last one of a single row would waste as much as a whole one.
            let (start, end) = (index * count / self.of, (index + 1) * count / self.of);
            let pixels = Pixels { lanes: &pixels.lanes[start..], ..pixels };
            for panel in self.panels.clone() {
                let output = panel * width;
                let outputs = width.min(weights.outputs - output);
                let tile = Tile { first: first + start, rows: end - start, output, outputs };
                // SAFETY: each tile and panel belongs to one item of the phase, and the caller of `product` vouches for the rest.
                unsafe { multiply::<V>(pixels, weights, tile, finish) };
            }
        }
    }
}
