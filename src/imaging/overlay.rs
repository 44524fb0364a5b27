//! Heat map: a class activation map overlaid on its image.

use super::{GreyImage, encode_colour_png};
use crate::domain::ActivationMap;

/// Colour of the strongest activation, which no radiograph contains.
const TINT: [f32; 3] = [255.0, 72.0, 0.0];

/// Opacity of the strongest activation; the image remains readable below it.
const MAX_OPACITY: f32 = 0.6;

/// Encodes the image as 8-bit RGB PNG, tinted in proportion to the map. The map is stretched over the whole image whatever its aspect
/// ratio, because the network input was the image resized to a square.
pub fn overlay_png(image: &GreyImage, map: &ActivationMap) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(3 * image.pixels.len());
    let fraction = |at: u32, side: u32| (at as f32 + 0.5) / side as f32;
    for (y, row) in (0..).zip(image.pixels.chunks_exact(image.width as usize)) {
        for (x, &grey) in (0..).zip(row) {
            let opacity = MAX_OPACITY * map.sample(fraction(y, image.height), fraction(x, image.width));
            pixels.extend(TINT.map(|tint| (f32::from(grey) + (tint - f32::from(grey)) * opacity).round() as u8));
        }
    }
    encode_colour_png(image.width, image.height, &pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::shrink;

    #[test]
    fn activated_regions_are_tinted_and_the_size_is_kept() {
        let image = GreyImage { width: 80, height: 40, pixels: vec![100; 80 * 40] };
        let map = ActivationMap { rows: 1, columns: 2, values: vec![0.0, 1.0] };
        let overlay = image::load_from_memory(&overlay_png(&image, &map)).unwrap().to_rgb8();
        assert_eq!(overlay.dimensions(), (80, 40));
        assert_eq!(overlay.get_pixel(5, 20).0, [100; 3], "no activation");
        assert_eq!(overlay.get_pixel(75, 20).0, [193, 83, 40], "full activation");
        let middle = overlay.get_pixel(40, 20).0;
        assert!((101..193).contains(&middle[0]), "between: {middle:?}");
    }

    #[test]
    fn shrinking_keeps_the_aspect_ratio_and_small_images() {
        let image = |width, height| GreyImage { width, height, pixels: vec![7; (width * height) as usize] };
        let small = shrink(&image(300, 100), 60);
        assert_eq!((small.width, small.height, small.pixels.len()), (60, 20, 1200));
        assert_eq!(shrink(&image(60, 20), 60), image(60, 20));
        assert_eq!(shrink(&image(2000, 3), 50).height, 1);
    }
}
