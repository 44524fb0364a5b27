//! Detection of burned-in text near the image border: bright connected components of letter size and equal height, at least
//! [`MIN_LETTERS`] of them in a row.

use std::{
    borrow::Cow,
    ops::{Range, RangeInclusive},
};

use super::GreyImage;

/// Maximum longer side of the image on which text is searched, in pixels.
const MAX_SIDE: u32 = 768;

/// Width of the border region as a fraction of each side.
const BORDER: f64 = 0.18;

/// Minimum difference of a stroke from the mean of its window, in grey levels.
const MIN_CONTRAST: f32 = 70.0;
/// Minimum grey level of a stroke.
const MIN_GREY: u8 = 150;

/// Radius of the square window around a pixel.
const RADIUS: usize = 12;

/// Heights and widths of letters, in pixels.
const HEIGHTS: RangeInclusive<usize> = 6..=40;
const WIDTHS: RangeInclusive<usize> = 2..=40;

/// Minimum number of letters of a text. A single letter is usually the laterality marker (L or R).
const MIN_LETTERS: usize = 4;

/// Bounding box (inclusive) and pixel count of a connected component of bright pixels.
#[derive(Clone, Copy, Debug)]
struct Component {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
    pixels: usize,
}

impl Component {
    fn width(&self) -> usize {
        self.right - self.left + 1
    }

    fn height(&self) -> usize {
        self.bottom - self.top + 1
    }

    /// True if size and fill ratio are those of a letter.
    fn is_letter(&self) -> bool {
        let fill = self.pixels as f64 / (self.width() * self.height()) as f64;
        HEIGHTS.contains(&self.height()) && WIDTHS.contains(&self.width()) && (0.12..0.9).contains(&fill)
    }

    /// True if `next` may be the next letter of the same text: similar height, same line, small distance.
    fn precedes(&self, next: &Self) -> bool {
        let (low, high) = (self.height().min(next.height()), self.height().max(next.height()));
        let overlap = (self.bottom.min(next.bottom) + 1).saturating_sub(self.top.max(next.top));
        next.left > self.left
            && next.left <= self.right + 1 + 2 * high
            && 10 * low >= 6 * high
            && 10 * overlap >= 7 * low
    }
}

/// True if there is a row of at least [`MIN_LETTERS`] letters near a border.
pub(super) fn text_near_border(image: &GreyImage) -> bool {
    let image = downscale(image);
    let (width, height) = (image.width as usize, image.height as usize);
    let (margin_x, margin_y) = ((width as f64 * BORDER) as usize, (height as f64 * BORDER) as usize);
    let bright = strokes(&image, margin_x, margin_y);
    let near = |component: &Component| {
        component.right < margin_x
            || component.left >= width - margin_x
            || component.bottom < margin_y
            || component.top >= height - margin_y
    };
    let mut letters: Vec<Component> =
        components(bright, width).into_iter().filter(|c| c.is_letter() && near(c)).collect();
    letters.sort_by_key(|letter| letter.left);
    longest_row(&letters) >= MIN_LETTERS
}

/// Downscales by an integer factor with box averaging, so that no side exceeds [`MAX_SIDE`]; borrows the image if it is small enough.
fn downscale(image: &GreyImage) -> Cow<'_, GreyImage> {
    let step = image.width.max(image.height).div_ceil(MAX_SIDE) as usize;
    if step == 1 {
        return Cow::Borrowed(image);
    }
    let (width, height) = (image.width as usize / step, image.height as usize / step);
    let mut pixels = Vec::with_capacity(width * height);
    let mut sums = vec![0u32; width];
    for rows in image.pixels.chunks_exact(image.width as usize * step).take(height) {
        sums.fill(0);
        for row in rows.chunks_exact(image.width as usize) {
            for (sum, square) in sums.iter_mut().zip(row.chunks_exact(step)) {
                *sum += square.iter().map(|grey| u32::from(*grey)).sum::<u32>();
            }
        }
        pixels.extend(sums.iter().map(|sum| (sum / (step * step) as u32) as u8));
    }
    Cow::Owned(GreyImage { width: width as u32, height: height as u32, pixels })
}

/// Mask of stroke pixels: bright in absolute terms and relative to their window. Only the border region is searched, and one pixel beyond
/// it, so that components that extend further are recognised as such.
fn strokes(image: &GreyImage, margin_x: usize, margin_y: usize) -> Vec<u8> {
    let (width, height) = (image.width as usize, image.height as usize);
    let sums = integral_image(image);
    let mut bright = vec![0; width * height];
    for (y, (row, bright)) in image.pixels.chunks_exact(width).zip(bright.chunks_exact_mut(width)).enumerate() {
        let (top, bottom) = (y.saturating_sub(RADIUS), (y + RADIUS + 1).min(height));
        let [top_sums, bottom_sums] = [top, bottom].map(|y| &sums[y * (width + 1)..][..=width]);
        let window = Window { row, top_sums, bottom_sums, rows: bottom - top };
        if y <= margin_y || y + 1 + margin_y >= height {
            window.mark(bright, 0..width);
        } else {
            window.mark(bright, 0..(margin_x + 1).min(width));
            window.mark(bright, (width - margin_x).saturating_sub(1)..width);
        }
    }
    bright
}

/// A row of pixels, and the rows of the integral image at the top and the bottom of the windows of its pixels.
struct Window<'a> {
    row: &'a [u8],
    top_sums: &'a [u32],
    bottom_sums: &'a [u32],
    rows: usize,
}

impl Window<'_> {
    fn mark(&self, bright: &mut [u8], columns: Range<usize>) {
        let width = self.row.len();
        // Within the image the window has a constant area, and the loop vectorises.
        let inner = columns.start.max(RADIUS)..columns.end.min(width.saturating_sub(RADIUS));
        let inner = if inner.is_empty() { columns.end..columns.end } else { inner };
        for x in (columns.start..inner.start).chain(inner.end..columns.end) {
            let (left, right) = (x.saturating_sub(RADIUS), (x + RADIUS + 1).min(width));
            let sum = (self.bottom_sums[right] - self.bottom_sums[left]) - (self.top_sums[right] - self.top_sums[left]);
            bright[x] = stroke(self.row[x], sum, ((right - left) * self.rows) as u32);
        }
        if inner.is_empty() {
            return;
        }
        let area = ((2 * RADIUS + 1) * self.rows) as u32;
        let (left, right) = (inner.start - RADIUS, inner.start + RADIUS + 1);
        let top = self.top_sums[left..].iter().zip(&self.top_sums[right..]);
        let bottom = self.bottom_sums[left..].iter().zip(&self.bottom_sums[right..]);
        let pixels = bright[inner.clone()].iter_mut().zip(&self.row[inner]);
        for ((bright, grey), ((top_left, top_right), (bottom_left, bottom_right))) in pixels.zip(top.zip(bottom)) {
            *bright = stroke(*grey, (bottom_right - bottom_left) - (top_right - top_left), area);
        }
    }
}

/// 1 if the pixel is bright and exceeds the (rounded down) mean of its window by [`MIN_CONTRAST`], else 0; without division or branch.
fn stroke(grey: u8, sum: u32, area: u32) -> u8 {
    // Integers below 2^24, which are exact in f32 and have vector multiplication on all processors.
    let threshold = (f32::from(grey) + 1.0 - MIN_CONTRAST) * area as i32 as f32;
    u8::from(grey >= MIN_GREY) & u8::from((sum as i32 as f32) < threshold)
}

/// Integral image (summed-area table), [(height + 1) * (width + 1)]: the sum of any window takes four look-ups. The sums fit into u32,
/// because a downscaled image has at most 768 x 768 pixels.
fn integral_image(image: &GreyImage) -> Vec<u32> {
    let width = image.width as usize;
    let mut sums = vec![0u32; (width + 1) * (image.height as usize + 1)];
    for (y, row) in image.pixels.chunks_exact(width).enumerate() {
        let (before, now) = sums[y * (width + 1)..].split_at_mut(width + 1);
        let mut row_sum = 0;
        for ((sum, above), grey) in now[1..=width].iter_mut().zip(&before[1..]).zip(row) {
            row_sum += u32::from(*grey);
            *sum = above + row_sum;
        }
    }
    sums
}

/// Connected components of the mask (8-connectivity).
fn components(mut bright: Vec<u8>, width: usize) -> Vec<Component> {
    let height = bright.len() / width;
    let (mut components, mut open, mut seen) = (Vec::new(), Vec::new(), 0);
    while let Some(next) = memchr::memchr(1, &bright[seen..]) {
        seen += next;
        let (x, y) = (seen % width, seen / width);
        let mut component = Component { left: x, right: x, top: y, bottom: y, pixels: 0 };
        bright[seen] = 0;
        open.push(seen);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            component.pixels += 1;
            (component.left, component.right) = (component.left.min(x), component.right.max(x));
            (component.top, component.bottom) = (component.top.min(y), component.bottom.max(y));
            for y in y.saturating_sub(1)..(y + 2).min(height) {
                for x in x.saturating_sub(1)..(x + 2).min(width) {
                    if std::mem::take(&mut bright[y * width + x]) == 1 {
                        open.push(y * width + x);
                    }
                }
            }
        }
        components.push(component);
    }
    components
}

/// Length of the longest row among letters sorted by their left edge. At most 2000 letters are considered, to bound the time for noise.
fn longest_row(letters: &[Component]) -> usize {
    let letters = &letters[..letters.len().min(2000)];
    let mut rows = vec![1usize; letters.len()];
    for at in 0..letters.len() {
        let before = (0..at).filter(|before| letters[*before].precedes(&letters[at]));
        rows[at] = before.map(|before| rows[before] + 1).max().unwrap_or(1);
    }
    rows.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gradient of 400 x 400 pixels with letters of 9 x 13 pixels at `positions`.
    fn with_letters(positions: &[(usize, usize)]) -> GreyImage {
        let mut pixels: Vec<u8> = (0..400 * 400).map(|at| (20 + at % 400 / 4) as u8).collect();
        for (left, top) in positions {
            // The letter H.
            for y in 0..13 {
                for x in 0..9 {
                    if !(2..=6).contains(&x) || y == 6 {
                        pixels[(top + y) * 400 + left + x] = 255;
                    }
                }
            }
        }
        GreyImage { width: 400, height: 400, pixels }
    }

    #[test]
    fn a_line_of_letters_near_the_border_is_text() {
        let line =
            |left: usize, top: usize, letters: usize| (0..letters).map(|at| (left + at * 13, top)).collect::<Vec<_>>();
        assert!(text_near_border(&with_letters(&line(20, 10, 6))));
        assert!(text_near_border(&with_letters(&line(300, 380, 6))));
        assert!(!text_near_border(&with_letters(&line(20, 10, 1))), "a laterality marker");
        assert!(!text_near_border(&with_letters(&line(150, 200, 6))), "away from the border");
        assert!(!text_near_border(&with_letters(&[(10, 10), (300, 20), (10, 380), (200, 385)])), "not on one line");
        assert!(!text_near_border(&with_letters(&[])));
    }

    /// Reference implementation for one pixel.
    fn plain_stroke(image: &GreyImage, x: usize, y: usize) -> bool {
        let (width, height) = (image.width as usize, image.height as usize);
        let rows = y.saturating_sub(RADIUS)..(y + RADIUS + 1).min(height);
        let columns = x.saturating_sub(RADIUS)..(x + RADIUS + 1).min(width);
        let square: Vec<u32> =
            rows.flat_map(|y| columns.clone().map(move |x| u32::from(image.pixels[y * width + x]))).collect();
        let (grey, mean) = (image.pixels[y * width + x], square.iter().sum::<u32>() / square.len() as u32);
        grey >= MIN_GREY && f32::from(grey) - mean as f32 >= MIN_CONTRAST
    }

    #[test]
    fn strokes_agree_with_the_reference_implementation() {
        for (width, height) in [(20, 31), (64, 90), (130, 70)] {
            let grey = |at: usize| {
                ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8 / if at.is_multiple_of(3) { 1 } else { 2 }
            };
            let pixels = (0..width * height).map(grey).collect();
            let image = GreyImage { width: width as u32, height: height as u32, pixels };
            let (margin_x, margin_y) = (width / 5, height / 5);
            let bright = strokes(&image, margin_x, margin_y);
            for (at, bright) in bright.iter().enumerate() {
                let (x, y) = (at % width, at / width);
                let near = x <= margin_x || x + 1 + margin_x >= width || y <= margin_y || y + 1 + margin_y >= height;
                assert_eq!(*bright == 1, near && plain_stroke(&image, x, y), "{x}, {y} of {width} x {height}");
            }
            assert!(bright.contains(&1));
        }
    }

    #[test]
    fn blank_images_have_no_text_and_noise_is_processed() {
        for side in [32, 33, 1537] {
            let noise = (0..side * side).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            let image = GreyImage { width: side as u32, height: side as u32, pixels: noise };
            // Noise has thousands of components; the quadratic comparison of letters is capped.
            text_near_border(&image);
            assert!(!text_near_border(&GreyImage { pixels: vec![255; side * side], ..image }));
        }
    }
}
