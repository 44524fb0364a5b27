//! Left operand of a convolution as a matrix product: for each output pixel, the inputs under the kernel, in channel
//! blocks.

use super::{
    halo::Halo,
    layout::{ConvShape, Images, for_each_row},
    residue::Residue,
    simd::ChannelBlock,
    stem::PaddedPlanes,
};

/// The im2col matrix `[output pixels, taps * channels]`, gathered on demand.
#[derive(Clone, Copy)]
pub(super) enum Im2col<'a> {
    /// The pixels themselves: a pointwise convolution.
    Identity(Images<'a>),
    /// Windows of blocked images.
    Windows(Windows<'a>),
    /// Windows of unblocked planes: the first convolution.
    Stem(PaddedPlanes<'a>),
    /// Windows of one residue class of pixels: the input gradient of a strided convolution.
    Residue(Residue<'a>),
}

impl<'a> Im2col<'a> {
    /// The im2col matrix of a convolution.
    pub(super) fn new(shape: ConvShape, images: Images<'a>) -> Self {
        if shape.is_pointwise() { Self::Identity(images) } else { Self::Windows(Windows { shape, images }) }
    }

    /// Blocks per output pixel.
    pub(super) fn blocks(&self) -> usize {
        match self {
            Self::Identity(images) => images.channel_blocks(),
            Self::Windows(windows) => windows.blocks(),
            Self::Stem(planes) => planes.blocks(),
            Self::Residue(residue) => residue.blocks(),
        }
    }

    /// Number of output pixels.
    pub(super) fn pixels(&self) -> usize {
        match self {
            Self::Identity(images) => images.pixels(),
            Self::Windows(windows) => windows.images.images * windows.side().pow(2),
            Self::Stem(planes) => planes.pixels(),
            Self::Residue(residue) => residue.pixels(),
        }
    }

    /// The zero-padded images, if this is a 3x3 convolution with stride 1 and padding 1.
    pub(super) fn halo(&self) -> Option<Halo<'a>> {
        match self {
            Self::Windows(Windows { shape: ConvShape { kernel: 3, stride: 1, padding: 1, .. }, images }) => {
                Some(Halo { images: *images })
            }
            _ => None,
        }
    }

    /// Gathers one block of the output pixels starting at `first`.
    pub(super) fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        match self {
            Self::Identity(images) => gathered.copy_from_slice(&images.plane(block)[first..][..gathered.len()]),
            Self::Windows(windows) => windows.gather(block, first, gathered),
            Self::Stem(planes) => planes.gather(block, first, gathered),
            Self::Residue(residue) => residue.gather(block, first, gathered),
        }
    }
}

/// Windows under a convolution kernel.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    shape: ConvShape,
    images: Images<'a>,
}

impl Windows<'_> {
    fn blocks(&self) -> usize {
        self.shape.kernel * self.shape.kernel * self.images.channel_blocks()
    }

    /// Side of the output.
    fn side(&self) -> usize {
        self.shape.side(self.images.side)
    }

    /// Gathers one block. Blocks are ordered by tap, then by channel.
    fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        let ConvShape { kernel, stride, padding, .. } = self.shape;
        let (tap, channels) = (block / self.images.channel_blocks(), block % self.images.channel_blocks());
        let (down, right) = (tap / kernel, tap % kernel);
        let (plane, input, side) = (self.images.plane(channels), self.images.side, self.side());
        for_each_row(first, gathered, (side, side), |image, y, x, row| {
            let line = (y * stride + down).checked_sub(padding).filter(|&y| y < input);
            match line {
                Some(y) => self.gather_row(&plane[(image * input + y) * input..][..input], x, right, row),
                None => row.fill(ChannelBlock::default()),
            }
        });
    }

    fn gather_row(&self, line: &[ChannelBlock], first: usize, right: usize, row: &mut [ChannelBlock]) {
        let ConvShape { stride, padding, .. } = self.shape;
        // First the outputs whose tap lies left of the image, then those inside it (every `stride`th pixel), then
        // those right of it.
        let before = padding.saturating_sub(first * stride + right).div_ceil(stride).min(row.len());
        let (outside, row) = row.split_at_mut(before);
        outside.fill(ChannelBlock::default());
        let start = ((first + before) * stride + right).saturating_sub(padding).min(line.len());
        let inside = row.len().min((line.len() - start).div_ceil(stride));
        let (inside, outside) = row.split_at_mut(inside);
        for (block, value) in inside.iter_mut().zip(line[start..].iter().step_by(stride)) {
            *block = *value;
        }
        outside.fill(ChannelBlock::default());
    }
}
