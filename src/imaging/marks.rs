//! Marks near the border that look like text: bright strokes of one height, three or more in a row.

use super::GreyImage;

/// Longer side on which marks are looked for, in pixels.
const SIDE: u32 = 768;

/// Share of each side that counts as near the border.
const BORDER: f64 = 0.18;

/// What a stroke is at least above the mean around it, and at least by itself.
const CONTRAST: i32 = 70;
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
    let bright = strokes(&image);
    let (beside, above) = ((width as f64 * BORDER) as usize, (height as f64 * BORDER) as usize);
    let near = |mark: &Mark| {
        mark.right < beside || mark.left >= width - beside || mark.bottom < above || mark.top >= height - above
    };
    let mut letters: Vec<Mark> = marks(bright, width).into_iter().filter(|m| m.is_letter() && near(m)).collect();
    letters.sort_by_key(|letter| letter.left);
    longest_row(&letters) >= LETTERS
}

/// Averages of squares of pixels, in whole numbers of them.
fn reduced(image: &GreyImage) -> GreyImage {
    let step = image.width.max(image.height).div_ceil(SIDE) as usize;
    let (width, height) = (image.width as usize / step, image.height as usize / step);
    let grey = |at: usize| {
        let (x, y) = (at % width * step, at / width * step);
        let rows = (y..y + step).map(|y| &image.pixels[y * image.width as usize + x..][..step]);
        let sum: u32 = rows.flatten().map(|grey| u32::from(*grey)).sum();
        (sum / (step * step) as u32) as u8
    };
    GreyImage { width: width as u32, height: height as u32, pixels: (0..width * height).map(grey).collect() }
}

/// Pixels that are bright by themselves and against what is around them.
fn strokes(image: &GreyImage) -> Vec<bool> {
    let (width, height) = (image.width as usize, image.height as usize);
    // Sums over all rows and columns before, so that any square takes four look-ups.
    let mut sums = vec![0u64; (width + 1) * (height + 1)];
    for y in 0..height {
        for x in 0..width {
            let before = sums[y * (width + 1) + x + 1] + sums[(y + 1) * (width + 1) + x];
            let sum = before - sums[y * (width + 1) + x] + u64::from(image.pixels[y * width + x]);
            sums[(y + 1) * (width + 1) + x + 1] = sum;
        }
    }
    let around = |at: usize| {
        let (x, y) = (at % width, at / width);
        let (left, top) = (x.saturating_sub(AROUND), y.saturating_sub(AROUND));
        let (right, bottom) = ((x + AROUND + 1).min(width), (y + AROUND + 1).min(height));
        let sum = |x: usize, y: usize| sums[y * (width + 1) + x];
        let all = sum(right, bottom) + sum(left, top) - sum(left, bottom) - sum(right, top);
        (all / ((right - left) * (bottom - top)) as u64) as i32
    };
    let is_stroke = |(at, grey): (usize, &u8)| *grey >= BRIGHT && i32::from(*grey) - around(at) >= CONTRAST;
    image.pixels.iter().enumerate().map(is_stroke).collect()
}

/// Pixels that touch, also by their corners.
fn marks(mut bright: Vec<bool>, width: usize) -> Vec<Mark> {
    let height = bright.len() / width;
    let (mut marks, mut open) = (Vec::new(), Vec::new());
    for start in 0..bright.len() {
        if !std::mem::take(&mut bright[start]) {
            continue;
        }
        let (x, y) = (start % width, start / width);
        let mut mark = Mark { left: x, right: x, top: y, bottom: y, pixels: 0 };
        open.push(start);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            mark.pixels += 1;
            (mark.left, mark.right) = (mark.left.min(x), mark.right.max(x));
            (mark.top, mark.bottom) = (mark.top.min(y), mark.bottom.max(y));
            for y in y.saturating_sub(1)..(y + 2).min(height) {
                for x in x.saturating_sub(1)..(x + 2).min(width) {
                    if std::mem::take(&mut bright[y * width + x]) {
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

    #[test]
    fn plain_and_noisy_images_have_no_text_and_take_no_time() {
        for side in [32, 33, 1537] {
            let noise = (0..side * side).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            let image = GreyImage { width: side as u32, height: side as u32, pixels: noise };
            let start = std::time::Instant::now();
            text_near_border(&image);
            assert!(start.elapsed().as_secs() < 10);
            assert!(!text_near_border(&GreyImage { pixels: vec![255; side * side], ..image }));
        }
    }
}
