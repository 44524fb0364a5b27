//! What a product reads: for each output pixel the numbers it looks at, in lanes.

use super::{
    around::Around,
    conv::{ConvShape, Images},
    simd::Lane,
    stem::Planes,
    strided::Rest,
};

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// The pixels as they lie.
    Plain(Images<'a>),
    /// Windows of the images, gathered.
    Windows(Windows<'a>),
    /// Windows of plain planes: the first layer.
    Stem(Planes<'a>),
    /// What some of the pixels look at that a stride keeps apart.
    Rest(Rest<'a>),
}

impl<'a> Columns<'a> {
    /// What a convolution reads.
    pub(super) fn new(shape: ConvShape, images: Images<'a>) -> Self {
        if shape.is_pointwise() { Self::Plain(images) } else { Self::Windows(Windows { shape, images }) }
    }

    /// Lanes of numbers for each output pixel.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Plain(images) => images.channel_lanes(),
            Self::Windows(windows) => windows.lanes(),
            Self::Stem(planes) => planes.lanes(),
            Self::Rest(rest) => rest.lanes(),
        }
    }

    /// Output pixels.
    pub(super) fn pixels(&self) -> usize {
        match self {
            Self::Plain(images) => images.pixels(),
            Self::Windows(windows) => windows.images.images * windows.side().pow(2),
            Self::Stem(planes) => planes.pixels(),
            Self::Rest(rest) => rest.pixels(),
        }
    }

    /// The images, if a 3x3 convolution looks at each pixel and those around it.
    pub(super) fn around(&self) -> Option<Around<'a>> {
        match self {
            Self::Windows(Windows { shape: ConvShape { kernel: 3, stride: 1, padding: 1, .. }, images }) => {
                Some(Around { images: *images })
            }
            _ => None,
        }
    }

    /// One lane of what the output pixels from `first` on look at.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        match self {
            Self::Plain(images) => gathered.copy_from_slice(&images.plane(lane)[first..][..gathered.len()]),
            Self::Windows(windows) => windows.gather(lane, first, gathered),
            Self::Stem(planes) => planes.gather(lane, first, gathered),
            Self::Rest(rest) => rest.gather(lane, first, gathered),
        }
    }
}

/// The windows that a convolution's kernel looks through.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    shape: ConvShape,
    images: Images<'a>,
}

impl Windows<'_> {
    fn lanes(&self) -> usize {
        self.shape.kernel * self.shape.kernel * self.images.channel_lanes()
    }

    /// Of the output.
    fn side(&self) -> usize {
        self.shape.side(self.images.side)
    }

    /// Lanes by place in the kernel, then by channel.
    fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        let ConvShape { kernel, stride, padding, .. } = self.shape;
        let (place, channels) = (lane / self.images.channel_lanes(), lane % self.images.channel_lanes());
        let (down, right) = (place / kernel, place % kernel);
        let (plane, input, side) = (self.images.plane(channels), self.images.side, self.side());
        rows(first, gathered, (side, side), |image, y, x, row| {
            let line = (y * stride + down).checked_sub(padding).filter(|&y| y < input);
            match line {
                Some(y) => self.gather_row(&plane[(image * input + y) * input..][..input], x, right, row),
                None => row.fill(Lane::default()),
            }
        });
    }

    fn gather_row(&self, line: &[Lane], first: usize, right: usize, row: &mut [Lane]) {
        let ConvShape { stride, padding, .. } = self.shape;
        // The outputs that look to the left of the image, then those that look at every `stride`th pixel of it, then those to its right.
        let before = padding.saturating_sub(first * stride + right).div_ceil(stride).min(row.len());
        let (outside, row) = row.split_at_mut(before);
        outside.fill(Lane::default());
        let start = ((first + before) * stride + right).saturating_sub(padding).min(line.len());
        let inside = row.len().min((line.len() - start).div_ceil(stride));
        let (inside, outside) = row.split_at_mut(inside);
        for (lane, value) in inside.iter_mut().zip(line[start..].iter().step_by(stride)) {
            *lane = *value;
        }
        outside.fill(Lane::default());
    }
}

/// Cuts what is gathered for the pixels from `first` on into rows: `fill(image, y, x, row)` writes those from a pixel of images of that
/// many rows and columns to the right, as far as they go in its row.
pub(super) fn rows(
    first: usize,
    gathered: &mut [Lane],
    (rows, columns): (usize, usize),
    mut fill: impl FnMut(usize, usize, usize, &mut [Lane]),
) {
    let (mut pixel, mut rest) = (first, gathered);
    while !rest.is_empty() {
        let (image, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let (row, after) = rest.split_at_mut((columns - x).min(rest.len()));
        pixel += row.len();
        rest = after;
        fill(image, y, x, row);
    }
}
