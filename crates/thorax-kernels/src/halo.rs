//! Zero-padded view of images (halo), which a 3x3 convolution reads without an im2col copy of each pixel per tap.

use super::{layout::Images, simd::ChannelBlock};

/// Images as one sequence of pixels with zero padding: a row of zeros above each image and below the last one, and
/// one zero at the right end of each row, which also serves as the left padding of the next row. So each tap has a
/// constant offset from the output pixel. The padding positions are computed as outputs too and then discarded.
#[derive(Clone, Copy)]
pub(super) struct Halo<'a> {
    pub(super) images: Images<'a>,
}

impl Halo<'_> {
    /// Distance from a pixel to the pixel below it.
    fn pitch(&self) -> usize {
        self.images.side + 1
    }

    /// Number of pixels read before the first output, and after the last one.
    pub(super) fn margin(&self) -> usize {
        self.pitch() + 1
    }

    /// Number of outputs from the first to the last real pixel, padding positions included.
    pub(super) fn outputs(&self) -> usize {
        self.images.images * self.pitch().pow(2) - self.pitch() - 1
    }

    /// Offset of each tap from the first pixel of the margin of an output.
    pub(super) fn tap_offsets(&self) -> Vec<usize> {
        (0..9).map(|place| place / 3 * self.pitch() + place % 3).collect()
    }

    /// Gathers one channel block of the pixels starting at `first`, counted from the margin of the first output.
    pub(super) fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        let plane = self.images.plane(block);
        let (mut at, mut rest) = (first, gathered);
        while !rest.is_empty() {
            let (pixel, count) = match at.checked_sub(self.margin()) {
                Some(output) => self.pixels_from(output),
                None => (None, self.margin() - at),
            };
            let (line, after) = rest.split_at_mut(count.min(rest.len()));
            match pixel.filter(|_| at < self.margin() + self.outputs()) {
                Some(pixel) => line.copy_from_slice(&plane[pixel..][..line.len()]),
                None => line.fill(ChannelBlock::default()),
            }
            at += line.len();
            rest = after;
        }
    }

    /// Index of the image pixel that an output corresponds to, or none for padding; and the length of the run of such
    /// pixels (or padding) that starts there.
    pub(super) fn pixels_from(&self, output: usize) -> (Option<usize>, usize) {
        let (side, pitch) = (self.images.side, self.pitch());
        let (line, x) = (output / pitch, output % pitch);
        let (image, y) = (line / pitch, line % pitch);
        if x == side || y == side { (None, pitch - x) } else { (Some((image * side + y) * side + x), side - x) }
    }
}
