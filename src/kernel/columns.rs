//! What a product reads: for each output pixel the numbers it looks at, in lanes.

use super::{
    conv::{ConvShape, Images},
    pack::Direction,
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
    /// What a convolution reads in that direction; `side` is that of what it gives.
    pub(super) fn new(shape: ConvShape, direction: Direction, images: Images<'a>, side: usize) -> Self {
        if shape.is_pointwise() {
            Self::Plain(images)
        } else {
            Self::Windows(Windows { shape, direction, images, side })
        }
    }

    /// Lanes of numbers for each output pixel.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Plain(images) => images.lanes.len() / images.pixels(),
            Self::Windows(windows) => windows.lanes(),
            Self::Stem(planes) => planes.lanes(),
            Self::Rest(rest) => rest.lanes(),
        }
    }

    /// Output pixels.
    pub(super) fn pixels(&self) -> usize {
        match self {
            Self::Plain(images) => images.pixels(),
            Self::Windows(windows) => windows.images.images * windows.side * windows.side,
            Self::Stem(planes) => planes.pixels(),
            Self::Rest(rest) => rest.pixels(),
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
    direction: Direction,
    images: Images<'a>,
    /// Of the output.
    side: usize,
}

impl Windows<'_> {
    fn lanes(&self) -> usize {
        self.shape.kernel * self.shape.kernel * self.channel_lanes()
    }

    fn channel_lanes(&self) -> usize {
        self.images.lanes.len() / self.images.pixels()
    }

    /// Lanes by place in the kernel, then by channel.
    fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        let (place, channels) = (lane / self.channel_lanes(), lane % self.channel_lanes());
        let (down, right) = (place / self.shape.kernel, place % self.shape.kernel);
        let (plane, input, side) = (self.images.plane(channels), self.images.side, self.side);
        let mut pixel = first;
        let mut rest = gathered;
        while !rest.is_empty() {
            let (image, y, x) = (pixel / (side * side), pixel / side % side, pixel % side);
            let (row, after) = rest.split_at_mut((side - x).min(rest.len()));
            pixel += row.len();
            rest = after;
            match self.looked_at(y, down) {
                Some(y) => self.gather_row(&plane[(image * input + y) * input..][..input], x, right, row),
                None => row.fill(Lane::default()),
            }
        }
    }

    fn gather_row(&self, line: &[Lane], first: usize, right: usize, row: &mut [Lane]) {
        let ConvShape { stride, padding, .. } = self.shape;
        // Within the image the outputs of a line look at every `stride`th pixel.
        if self.direction == Direction::Forward && first * stride + right >= padding {
            let start = (first * stride + right - padding).min(line.len());
            let inside = row.len().min((line.len() - start).div_ceil(stride));
            let (inside, outside) = row.split_at_mut(inside);
            for (lane, value) in inside.iter_mut().zip(line[start..].iter().step_by(stride)) {
                *lane = *value;
            }
            return outside.fill(Lane::default());
        }
        for (index, lane) in row.iter_mut().enumerate() {
            *lane = self.looked_at(first + index, right).map_or(Lane::default(), |x| line[x]);
        }
    }

    /// The row or column of the input that an output looks at through a place of the kernel; `None` outside of the image and between
    /// the pixels that a stride keeps apart.
    #[inline(always)]
    fn looked_at(&self, output: usize, place: usize) -> Option<usize> {
        let ConvShape { kernel, stride, padding, .. } = self.shape;
        let at = match self.direction {
            Direction::Forward => (output * stride + place).checked_sub(padding)?,
            Direction::Backward => {
                let spread = (output + place + padding + 1).checked_sub(kernel)?;
                if !spread.is_multiple_of(stride) {
                    return None;
                }
                spread / stride
            }
        };
        (at < self.images.side).then_some(at)
    }
}
