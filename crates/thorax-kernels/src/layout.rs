//! Shapes of convolutions and layout of blocked images; the other modules share them.

use std::ops::Range;

use super::simd::{BLOCK, ChannelBlock};

/// Shape of a square convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Number of input channels.
    pub inputs: usize,
    /// Number of output channels.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding on each side of the image.
    pub padding: usize,
}

impl ConvShape {
    /// Side of the output for an input of side `input`.
    pub fn side(&self, input: usize) -> usize {
        (input + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// True for a 1x1 convolution without stride and padding.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }
}

/// A batch of square images in NCHW16c layout: `[channel blocks, images, side, side]` of [`ChannelBlock`].
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// All blocks, in that order.
    pub blocks: &'a [ChannelBlock],
    /// Number of images.
    pub images: usize,
    /// Side of each image in pixels.
    pub side: usize,
}

impl<'a> Images<'a> {
    /// Number of pixels of all images: the distance between two channel blocks of a pixel.
    pub fn pixels(&self) -> usize {
        self.images * self.side * self.side
    }

    /// Number of channel blocks.
    pub(super) fn channel_blocks(&self) -> usize {
        self.blocks.len() / self.pixels()
    }

    /// One channel block of all images.
    pub(super) fn plane(&self, block: usize) -> &'a [ChannelBlock] {
        &self.blocks[block * self.pixels()..][..self.pixels()]
    }

    /// Channels of the first `blocks` blocks of one image, in channel-major order.
    pub(super) fn channels(&self, image: usize, blocks: usize) -> Vec<f32> {
        let pixels = self.side * self.side;
        let of_block = |block| {
            let plane = &self.plane(block)[image * pixels..][..pixels];
            (0..BLOCK).flat_map(move |channel| plane.iter().map(move |pixel| pixel.0[channel]))
        };
        (0..blocks).flat_map(of_block).collect()
    }

    /// # Panics
    /// If the images do not have that many channels.
    pub(super) fn check(&self, channels: usize) {
        assert_eq!(
            self.blocks.len(),
            channels.div_ceil(BLOCK) * self.pixels(),
            "the images must have {channels} channels"
        );
    }
}

/// Range of the `index`th of `parts` nearly equal parts of `total` items.
#[inline(always)]
pub(super) fn split_range(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// Splits `gathered`, the pixels starting at `first`, at the ends of image rows: `fill(image, y, x, row)` writes the
/// pixels of one image row from column `x` on. The images have `rows` by `columns` pixels.
pub(super) fn for_each_row(
    first: usize,
    gathered: &mut [ChannelBlock],
    (rows, columns): (usize, usize),
    mut fill: impl FnMut(usize, usize, usize, &mut [ChannelBlock]),
) {
    let (mut pixel, mut remaining) = (first, gathered);
    while !remaining.is_empty() {
        let (image, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let (row, after) = remaining.split_at_mut((columns - x).min(remaining.len()));
        pixel += row.len();
        remaining = after;
        fill(image, y, x, row);
    }
}
