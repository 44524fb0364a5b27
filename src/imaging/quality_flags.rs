//! Quality flags derived from pixels: photographic negatives, burned-in text, and a narrow range of grey levels.

use super::{GreyImage, resize_square};
use crate::domain::{GreyRange, QualityFlag};

/// Side of the thumbnail on which mean grey levels of regions are compared, in pixels.
const SIDE: usize = 32;

/// Images with a lower score count as negatives. Of 1,531 frontal radiographs 0.1 % score lower, and 99.5 % of their inverted versions do.
const NEGATIVE_THRESHOLD: f64 = -0.3;

/// Images whose darkest and brightest pixels differ by less have a narrow range: a quarter of the grey levels. 12-bit values in a 16-bit
/// file without a declaration use a sixteenth.
const NARROW_RANGE: u8 = 64;

/// Regions of the thumbnail that contain lungs, spine and heart, and background in a frontal view.
const LUNGS: [Region; 2] = [Region { rows: (8, 19), columns: (6, 13) }, Region { rows: (8, 19), columns: (19, 26) }];
const SPINE: [Region; 1] = [Region { rows: (10, 28), columns: (14, 18) }];
const BACKGROUND: [Region; 2] =
    [Region { rows: (0, 14), columns: (0, 2) }, Region { rows: (0, 14), columns: (30, 32) }];
const ALL: [Region; 1] = [Region { rows: (0, SIDE), columns: (0, SIDE) }];

struct Region {
    rows: (usize, usize),
    columns: (usize, usize),
}

/// The quality flags of the pixels.
pub fn quality_flags(image: &GreyImage) -> Vec<QualityFlag> {
    let negative = is_negative(image).then_some(QualityFlag::PhotographicNegative);
    let text = super::burned_in_text::text_near_border(image).then_some(QualityFlag::TextNearBorder);
    let GreyRange { low, high } = grey_range(image);
    let narrow = (high - low < NARROW_RANGE).then_some(QualityFlag::NarrowRange);
    negative.into_iter().chain(text).chain(narrow).collect()
}

/// Darkest and brightest grey level of the image.
pub fn grey_range(image: &GreyImage) -> GreyRange {
    let extremes = image.pixels.iter().fold((u8::MAX, 0), |(low, high), &grey| (low.min(grey), high.max(grey)));
    // An image without pixels is uniformly black.
    let (low, high) = if image.pixels.is_empty() { (0, 0) } else { extremes };
    GreyRange { low, high }
}

/// True if the score (spine - lungs + (image - background) / 2, in standard deviations of the grey levels) is below the threshold.
fn is_negative(image: &GreyImage) -> bool {
    let small = resize_square(image, SIDE as u32);
    let mean = |regions: &[Region]| mean(&small, regions);
    let all = mean(&ALL);
    let variance = small.pixels.iter().map(|grey| (f64::from(*grey) - all).powi(2)).sum::<f64>() / (SIDE * SIDE) as f64;
    // A uniform image has no lungs.
    variance > 1.0
        && (mean(&SPINE) - mean(&LUNGS) + 0.5 * (all - mean(&BACKGROUND))) / variance.sqrt() < NEGATIVE_THRESHOLD
}

fn mean(image: &GreyImage, regions: &[Region]) -> f64 {
    let greys = regions.iter().flat_map(|&Region { rows, columns }| {
        (rows.0..rows.1).flat_map(move |row| &image.pixels[row * SIDE + columns.0..row * SIDE + columns.1])
    });
    let (sum, count) = greys.fold((0.0, 0.0), |(sum, count), grey| (sum + f64::from(*grey), count + 1.0));
    sum / count
}
