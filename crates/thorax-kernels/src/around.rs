//! Images with zeros around them, as 3x3 convolutions read them without gathering each pixel nine times.

use super::{conv::Images, simd::Lane};

/// Images in a row of pixels: zeros lie above each image and below the last, and one at the right of each of its rows, which is also the
/// one at the left of the next. So a place of the kernel looks as far from one output's pixel as from any other, and the zeros are outputs
/// as well, which nobody wants.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) images: Images<'a>,
}

impl Around<'_> {
    /// From a pixel to the one below.
    fn pitch(&self) -> usize {
        self.images.side + 1
    }

    /// Pixels before the first of some outputs, and as many after the last, that they look at.
    pub(super) fn halo(&self) -> usize {
        self.pitch() + 1
    }

    /// Outputs from the first that is wanted to the last.
    pub(super) fn outputs(&self) -> usize {
        self.images.images * self.pitch().pow(2) - self.pitch() - 1
    }

    /// How far from the first pixel of an output's halo each place of the kernel looks.
    pub(super) fn places(&self) -> Vec<usize> {
        (0..9).map(|place| place / 3 * self.pitch() + place % 3).collect()
    }

    /// One lane of the pixels from `first` on, counted from the halo of the first output.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        let plane = self.images.plane(lane);
        let (mut at, mut rest) = (first, gathered);
        while !rest.is_empty() {
            let (pixel, count) = match at.checked_sub(self.halo()) {
                Some(output) => self.pixels_from(output),
                None => (None, self.halo() - at),
            };
            let (line, after) = rest.split_at_mut(count.min(rest.len()));
            match pixel.filter(|_| at < self.halo() + self.outputs()) {
                Some(pixel) => line.copy_from_slice(&plane[pixel..][..line.len()]),
                None => line.fill(Lane::default()),
            }
            at += line.len();
            rest = after;
        }
    }

    /// Which of the images' pixels an output is, or none, and how many from it on are the next ones, or none either.
    pub(super) fn pixels_from(&self, output: usize) -> (Option<usize>, usize) {
        let (side, pitch) = (self.images.side, self.pitch());
        let (line, x) = (output / pitch, output % pitch);
        let (image, y) = (line / pitch, line % pitch);
        if x == side || y == side { (None, pitch - x) } else { (Some((image * side + y) * side + x), side - x) }
    }
}
