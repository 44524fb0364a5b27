//! Image statistics, used to detect drift between the input images and the training images of a model.

use super::{GreyImage, resize_square};
use crate::domain::{FINGERPRINT_SIDE, InputStatistics};

/// Grey levels below this are dark.
const DARK: u8 = 16;
/// Grey levels above this are bright.
const BRIGHT: u8 = 239;

/// The statistics of an image.
pub fn statistics(image: &GreyImage) -> InputStatistics {
    statistics_of_plane(&resize_square(image, FINGERPRINT_SIDE as u32).pixels, image.width, image.height)
}

/// The statistics of an image, from the plane of its fingerprint ([`FINGERPRINT_SIDE`] x [`FINGERPRINT_SIDE`]) and its original size.
pub fn statistics_of_plane(plane: &[u8], width: u32, height: u32) -> InputStatistics {
    let count = plane.len() as f32;
    let fraction = |is: fn(&u8) -> bool| plane.iter().filter(|grey| is(grey)).count() as f32 / count;
    let mean = plane.iter().map(|grey| u32::from(*grey)).sum::<u32>() as f32 / count;
    let variance = plane.iter().map(|grey| f64::from(f32::from(*grey) - mean).powi(2)).sum::<f64>() / f64::from(count);
    let differences: u32 = plane
        .chunks_exact(FINGERPRINT_SIDE)
        .flat_map(|row| row.iter().zip(&row[1..]))
        .map(|(one, next)| u32::from(one.abs_diff(*next)))
        .sum();
    let detail = differences as f32 / (FINGERPRINT_SIDE * (FINGERPRINT_SIDE - 1)) as f32;
    let aspect_ratio = width as f32 / height as f32;
    InputStatistics([
        mean,
        variance.sqrt() as f32,
        fraction(|grey| *grey < DARK),
        fraction(|grey| *grey > BRIGHT),
        detail,
        aspect_ratio,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_stripes_are_exact() {
        // Alternating black and white columns; the image is twice as wide as high.
        let pixels = (0..128 * 64).map(|at| if at / 2 % 2 == 0 { 0 } else { 255 }).collect();
        let InputStatistics([mean, contrast, dark, bright, detail, aspect]) = statistics_of_plane(
            &(0..64 * 64).map(|at| if at % 2 == 0 { 0 } else { 255 }).collect::<Vec<u8>>(),
            128,
            64,
        );
        assert_eq!((mean, contrast, dark, bright, detail, aspect), (127.5, 127.5, 0.5, 0.5, 255.0, 2.0));
        let image = GreyImage { width: 128, height: 64, pixels };
        let of_plane = statistics_of_plane(&resize_square(&image, 64).pixels, 128, 64);
        assert_eq!(statistics(&image), of_plane);
    }
}
