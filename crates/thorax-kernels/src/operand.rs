//! Left operand of tiled products: im2col columns, or zero-padded images.

use super::{halo::Halo, im2col::Im2col, simd::ChannelBlock};

/// Rows of the left operand of a product, or of a weight gradient.
#[derive(Clone, Copy)]
pub(super) enum LeftOperand<'a> {
    /// Columns gathered for each pixel.
    Im2col(Im2col<'a>),
    /// Zero-padded images, read at nine tap offsets.
    Halo(Halo<'a>),
}

impl<'a> LeftOperand<'a> {
    pub(super) fn new(im2col: Im2col<'a>) -> Self {
        // With an odd number of blocks the taps would share pairs.
        let halo = im2col.halo().filter(|halo| halo.images.channel_blocks().is_multiple_of(2));
        halo.map_or(Self::Im2col(im2col), Self::Halo)
    }

    /// Number of blocks to gather.
    pub(super) fn blocks(&self) -> usize {
        match self {
            Self::Im2col(im2col) => im2col.blocks(),
            Self::Halo(halo) => halo.images.channel_blocks(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Im2col(im2col) => im2col.pixels(),
            Self::Halo(halo) => halo.outputs(),
        }
    }

    /// Offsets of the first row of each tap: nine, or one for im2col columns.
    pub(super) fn tap_offsets(&self) -> Vec<usize> {
        match self {
            Self::Im2col(_) => vec![0],
            Self::Halo(halo) => halo.tap_offsets(),
        }
    }

    /// Number of rows read before the first row of a chunk, and after its last.
    pub(super) fn margin(&self) -> usize {
        match self {
            Self::Im2col(_) => 0,
            Self::Halo(halo) => halo.margin(),
        }
    }

    /// Gathers one block of the rows starting at `first`, whose margin comes before it.
    pub(super) fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        match self {
            Self::Im2col(im2col) => im2col.gather(block, first, gathered),
            Self::Halo(halo) => halo.gather(block, first, gathered),
        }
    }

    /// Output pixel of a row, or none for padding; and the length of the run of such pixels (or padding) that starts
    /// there.
    pub(super) fn pixels_from(&self, row: usize) -> (Option<usize>, usize) {
        match self {
            Self::Im2col(im2col) => (Some(row), im2col.pixels() - row),
            Self::Halo(halo) => halo.pixels_from(row),
        }
    }
}
