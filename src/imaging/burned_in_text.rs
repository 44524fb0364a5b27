//! Marks near the border that look like text: bright strokes of one height, three or more in a row.

use std::{borrow::Cow, ops::Range};

use super::GreyImage;

/// Longer side on which marks are looked for, in pixels.
const SIDE: u32 = 768;

/// Share of each side that counts as near the border.
const BORDER: f64 = 0.18;

/// What a stroke is at least above the mean around it, and at least by itself.
const CONTRAST: f32 = 70.0;
const BRIGHT: u8 = 150;

/// Half the side of the square around a pixel.
const AROUND: usize = 12;

/// Heights and widths of a letter, in pixels.
const HEIGHTS: std::ops::RangeInclusive<usize> = 6..=40;
const WIDTHS: std::ops::RangeInclusive<usize> = 2..=40;

/// Letters that make a text; a single letter tells the side of the patient.
const LETTERS: usize = 4;

/// The box of connected bright pixels, ends included.
#[derive(Clone, Copy, Debug)]
struct Mark {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
    pixels: usize,
}

impl Mark {
    fn width(&self) -> usize {
        self.right - self.left + 1
    }

    fn height(&self) -> usize {
        self.bottom - self.top + 1
    }

    fn is_letter(&self) -> bool {
        let share = self.pixels as f64 / (self.width() * self.height()) as f64;
        HEIGHTS.contains(&self.height()) && WIDTHS.contains(&self.width()) && (0.12..0.9).contains(&share)
    }

    /// The letter after this one: of like height, on the same line, and near.
    fn precedes(&self, next: &Self) -> bool {
        let (low, high) = (self.height().min(next.height()), self.height().max(next.height()));
        let shared = (self.bottom.min(next.bottom) + 1).saturating_sub(self.top.max(next.top));
        next.left > self.left
            && next.left <= self.right + 1 + 2 * high
            && 10 * low >= 6 * high
            && 10 * shared >= 7 * low
    }
}

/// Whether there are [`LETTERS`] in a row near a border.
pub(super) fn text_near_border(image: &GreyImage) -> bool {
    let image = reduced(image);
    let (width, height) = (image.width as usize, image.height as usize);
    let (beside, above) = ((width as f64 * BORDER) as usize, (height as f64 * BORDER) as usize);
    let bright = strokes(&image, beside, above);
    let near = |mark: &Mark| {
        mark.right < beside || mark.left >= width - beside || mark.bottom < above || mark.top >= height - above
    };
    let mut letters: Vec<Mark> = marks(bright, width).into_iter().filter(|m| m.is_letter() && near(m)).collect();
    letters.sort_by_key(|letter| letter.left);
    longest_row(&letters) >= LETTERS
}

/// Averages of squares of pixels, in whole numbers of them; the image itself where it is small enough.
fn reduced(image: &GreyImage) -> Cow<'_, GreyImage> {
    let step = image.width.max(image.height).div_ceil(SIDE) as usize;
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

/// Pixels that are bright by themselves and against what is around them: those near a border, and one beyond, so that a mark that
/// reaches further is seen to.
fn strokes(image: &GreyImage, beside: usize, above: usize) -> Vec<u8> {
    let (width, height) = (image.width as usize, image.height as usize);
    let sums = sums(image);
    let mut bright = vec![0; width * height];
    for (y, (row, bright)) in image.pixels.chunks_exact(width).zip(bright.chunks_exact_mut(width)).enumerate() {
        let (top, bottom) = (y.saturating_sub(AROUND), (y + AROUND + 1).min(height));
        let [over, under] = [top, bottom].map(|y| &sums[y * (width + 1)..][..=width]);
        let window = Window { row, over, under, rows: bottom - top };
        if y <= above || y + 1 + above >= height {
            window.mark(bright, 0..width);
        } else {
            window.mark(bright, 0..(beside + 1).min(width));
            window.mark(bright, (width - beside).saturating_sub(1)..width);
        }
    }
    bright
}

/// A row, and the sums above and below the squares around its pixels.
struct Window<'a> {
    row: &'a [u8],
    over: &'a [u32],
    under: &'a [u32],
    rows: usize,
}

impl Window<'_> {
    fn mark(&self, bright: &mut [u8], columns: Range<usize>) {
        let width = self.row.len();
        // Where the whole square is in the image, one area serves all, and the loop becomes one of vectors.
        let inner = columns.start.max(AROUND)..columns.end.min(width.saturating_sub(AROUND));
        let inner = if inner.is_empty() { columns.end..columns.end } else { inner };
        for x in (columns.start..inner.start).chain(inner.end..columns.end) {
            let (left, right) = (x.saturating_sub(AROUND), (x + AROUND + 1).min(width));
            let sum = (self.under[right] - self.under[left]) - (self.over[right] - self.over[left]);
            bright[x] = stroke(self.row[x], sum, ((right - left) * self.rows) as u32);
        }
        if inner.is_empty() {
            return;
        }
        let area = ((2 * AROUND + 1) * self.rows) as u32;
        let (left, right) = (inner.start - AROUND, inner.start + AROUND + 1);
        let over = self.over[left..].iter().zip(&self.over[right..]);
        let under = self.under[left..].iter().zip(&self.under[right..]);
        let pixels = bright[inner.clone()].iter_mut().zip(&self.row[inner]);
        for ((bright, grey), ((over_left, over_right), (under_left, under_right))) in pixels.zip(over.zip(under)) {
            *bright = stroke(*grey, (under_right - under_left) - (over_right - over_left), area);
        }
    }
}

/// 1 if the pixel is bright, and by [`CONTRAST`] above the mean of its square in whole greys, else 0; said without division or branch.
fn stroke(grey: u8, sum: u32, area: u32) -> u8 {
    // Whole numbers below 2^24, which are exact, and which all processors multiply by vectors.
    let least = (f32::from(grey) + 1.0 - CONTRAST) * area as i32 as f32;
    u8::from(grey >= BRIGHT) & u8::from((sum as i32 as f32) < least)
}

/// Of all pixels above and left of each place, so that any square takes four look-ups: [(height + 1) * (width + 1)]. They fit, for no
/// reduced image has more than 768 x 768 pixels.
fn sums(image: &GreyImage) -> Vec<u32> {
    let width = image.width as usize;
    let mut sums = vec![0u32; (width + 1) * (image.height as usize + 1)];
    for (y, row) in image.pixels.chunks_exact(width).enumerate() {
        let (before, now) = sums[y * (width + 1)..].split_at_mut(width + 1);
        let mut along = 0;
        for ((sum, above), grey) in now[1..=width].iter_mut().zip(&before[1..]).zip(row) {
            along += u32::from(*grey);
            *sum = above + along;
        }
    }
    sums
}

/// Pixels that touch, also by their corners.
fn marks(mut bright: Vec<u8>, width: usize) -> Vec<Mark> {
    let height = bright.len() / width;
    let (mut marks, mut open, mut seen) = (Vec::new(), Vec::new(), 0);
    while let Some(next) = memchr::memchr(1, &bright[seen..]) {
        seen += next;
        let (x, y) = (seen % width, seen / width);
        let mut mark = Mark { left: x, right: x, top: y, bottom: y, pixels: 0 };
        bright[seen] = 0;
        open.push(seen);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            mark.pixels += 1;
            (mark.left, mark.right) = (mark.left.min(x), mark.right.max(x));
            (mark.top, mark.bottom) = (mark.top.min(y), mark.bottom.max(y));
            for y in y.saturating_sub(1)..(y + 2).min(height) {
                for x in x.saturating_sub(1)..(x + 2).min(width) {
                    if std::mem::take(&mut bright[y * width + x]) == 1 {
                        open.push(y * width + x);
                    }
                }
            }
        }
        marks.push(mark);
    }
    marks
}

/// Of letters ordered from the left. An image of nothing but marks, such as noise, is cut short.
fn longest_row(letters: &[Mark]) -> usize {
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

    /// 400 x 400 of a soft gradient, with letters of 9 x 13 pixels at the places.
    fn lettered(places: &[(usize, usize)]) -> GreyImage {
        let mut pixels: Vec<u8> = (0..400 * 400).map(|at| (20 + at % 400 / 4) as u8).collect();
        for (left, top) in places {
            // An H.
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
        assert!(text_near_border(&lettered(&line(20, 10, 6))));
        assert!(text_near_border(&lettered(&line(300, 380, 6))));
        assert!(!text_near_border(&lettered(&line(20, 10, 1))), "one letter tells the side");
        assert!(!text_near_border(&lettered(&line(150, 200, 6))), "in the middle");
        assert!(!text_near_border(&lettered(&[(10, 10), (300, 20), (10, 380), (200, 385)])), "no line");
        assert!(!text_near_border(&lettered(&[])));
    }

    /// By the definition, pixel by pixel.
    fn plain_stroke(image: &GreyImage, x: usize, y: usize) -> bool {
        let (width, height) = (image.width as usize, image.height as usize);
        let rows = y.saturating_sub(AROUND)..(y + AROUND + 1).min(height);
        let columns = x.saturating_sub(AROUND)..(x + AROUND + 1).min(width);
        let square: Vec<u32> =
            rows.flat_map(|y| columns.clone().map(move |x| u32::from(image.pixels[y * width + x]))).collect();
        let (grey, mean) = (image.pixels[y * width + x], square.iter().sum::<u32>() / square.len() as u32);
        grey >= BRIGHT && f32::from(grey) - mean as f32 >= CONTRAST
    }

    #[test]
    fn strokes_are_those_of_the_definition_near_the_border() {
        for (width, height) in [(20, 31), (64, 90), (130, 70)] {
            let grey = |at: usize| {
                ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8 / if at.is_multiple_of(3) { 1 } else { 2 }
            };
            let pixels = (0..width * height).map(grey).collect();
            let image = GreyImage { width: width as u32, height: height as u32, pixels };
            let (beside, above) = (width / 5, height / 5);
            let bright = strokes(&image, beside, above);
            for (at, bright) in bright.iter().enumerate() {
                let (x, y) = (at % width, at / width);
                let near = x <= beside || x + 1 + beside >= width || y <= above || y + 1 + above >= height;
                assert_eq!(*bright == 1, near && plain_stroke(&image, x, y), "{x}, {y} of {width} x {height}");
            }
            assert!(bright.contains(&1));
        }
    }

    #[test]
    fn plain_and_noisy_images_have_no_text() {
        for side in [32, 33, 1537] {
            let noise = (0..side * side).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            let image = GreyImage { width: side as u32, height: side as u32, pixels: noise };
            // Thousands of marks: what is compared pair by pair is cut short.
            text_near_border(&image);
            assert!(!text_near_border(&GreyImage { pixels: vec![255; side * side], ..image }));
        }
    }
}
