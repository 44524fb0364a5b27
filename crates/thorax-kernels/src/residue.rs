//! Residue classes of input pixels modulo the stride, for the input gradient of a strided convolution.

use super::{
    layout::{ConvShape, Images, for_each_row},
    simd::ChannelBlock,
};

/// One axis of a residue class.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) offset: usize,
    /// Number of pixels.
    pub(super) count: usize,
    /// First tap of the rotated kernel that reaches these pixels. The others follow at distances of the stride.
    pub(super) first: usize,
    pub(super) taps: usize,
    /// Position in the gradient that the first pixel reads through the first tap. Each further tap or pixel reads the
    /// next position.
    pub(super) start: isize,
}

impl Axis {
    pub(super) fn new(shape: ConvShape, side: usize, offset: usize) -> Self {
        let ConvShape { kernel, stride, padding, .. } = shape;
        let at = |tap: usize| (offset + tap + padding + 1) as isize - kernel as isize;
        let step = stride as isize;
        let first = (0..kernel).find(|&tap| at(tap).rem_euclid(step) == 0).unwrap_or(kernel);
        Self {
            offset,
            count: side.saturating_sub(offset).div_ceil(stride),
            first,
            taps: (kernel - first).div_ceil(stride),
            start: at(first).div_euclid(step),
        }
    }
}

/// The input pixels of one pair of residues (row, column).
#[derive(Clone, Copy)]
pub(super) struct Residue<'a> {
    pub(super) images: Images<'a>,
    pub(super) down: Axis,
    pub(super) right: Axis,
}

impl Residue<'_> {
    pub(super) fn taps(&self) -> usize {
        self.down.taps * self.right.taps
    }

    pub(super) fn pixels(&self) -> usize {
        self.images.images * self.down.count * self.right.count
    }

    /// Blocks per pixel.
    pub(super) fn blocks(&self) -> usize {
        self.taps() * self.images.channel_blocks()
    }

    /// Gathers one block of the pixels starting at `first`. Blocks are ordered by tap, then by channel.
    pub(super) fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        let (tap, channels) = (block / self.images.channel_blocks(), block % self.images.channel_blocks());
        let (down, right) = (tap / self.right.taps, tap % self.right.taps);
        let (plane, side) = (self.images.plane(channels), self.images.side);
        for_each_row(first, gathered, (self.down.count, self.right.count), |image, y, x, row| {
            let (y, x) = (self.down.start + (y + down) as isize, self.right.start + (x + right) as isize);
            let line =
                usize::try_from(y).ok().filter(|&y| y < side).map(|y| &plane[(image * side + y) * side..][..side]);
            copy_from(line.unwrap_or_default(), x, row);
        });
    }
}

/// Copies a line from position `start` on; zeros beyond its ends.
fn copy_from(line: &[ChannelBlock], start: isize, row: &mut [ChannelBlock]) {
    let before = usize::try_from(-start).unwrap_or(0).min(row.len());
    let (zeros, row) = row.split_at_mut(before);
    zeros.fill(ChannelBlock::default());
    let line = line.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default();
    let (inside, beyond) = row.split_at_mut(line.len().min(row.len()));
    inside.copy_from_slice(&line[..inside.len()]);
    beyond.fill(ChannelBlock::default());
}
