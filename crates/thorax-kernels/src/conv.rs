//! The measures of convolutions and of what they work on.

use super::simd::{Lane, WIDTH};

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

    /// How many weights it has.
    pub fn weights(&self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// Whether each output looks at the input at its own place alone.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }
}

/// Square images of one size, each pixel's channels in lanes: `[lanes of channels, images, side, side]`.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// All lanes.
    pub lanes: &'a [Lane],
    /// How many images.
    pub images: usize,
    /// Their side in pixels.
    pub side: usize,
}

impl<'a> Images<'a> {
    /// Pixels of all images: the distance between a pixel's lanes.
    pub fn pixels(&self) -> usize {
        self.images * self.side * self.side
    }

    /// How many lanes of channels they have.
    pub(super) fn channel_lanes(&self) -> usize {
        self.lanes.len() / self.pixels()
    }

    /// One lane of channels of all images.
    pub(super) fn plane(&self, lane: usize) -> &'a [Lane] {
        &self.lanes[lane * self.pixels()..][..self.pixels()]
    }

    /// The channels of `lanes` lanes of one image, one after the other.
    pub(super) fn channels(&self, image: usize, lanes: usize) -> Vec<f32> {
        let pixels = self.side * self.side;
        let of_lane = |lane| {
            let plane = &self.plane(lane)[image * pixels..][..pixels];
            (0..WIDTH).flat_map(move |channel| plane.iter().map(move |pixel| pixel.0[channel]))
        };
        (0..lanes).flat_map(of_lane).collect()
    }

    /// # Panics
    /// If these are not images of that many channels.
    pub(super) fn check(&self, channels: usize) {
        assert_eq!(self.lanes.len(), channels.div_ceil(WIDTH) * self.pixels(), "images of {channels} channels");
    }
}
