//! An activation map laid over the image that it is about.

use super::{GreyImage, encode_colour_png};
use crate::domain::ActivationMap;

/// What the strongest cell is tinted with: a colour that no radiograph has.
const TINT: [f32; 3] = [255.0, 72.0, 0.0];

/// How much of the tint there is at the strongest; the image stays readable below it.
const STRENGTH: f32 = 0.6;

/// Encodes the image as 8-bit RGB PNG, tinted where the map is strong and untouched where it is 0. The map covers the whole image,
/// whatever its shape: the network saw it as a square.
pub fn overlay_png(image: &GreyImage, map: &ActivationMap) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(3 * image.pixels.len());
    let share = |place: u32, side: u32| (place as f32 + 0.5) / side as f32;
    for (y, row) in (0..).zip(image.pixels.chunks_exact(image.width as usize)) {
        for (x, &grey) in (0..).zip(row) {
            let amount = STRENGTH * map.sample(share(y, image.height), share(x, image.width));
            pixels.extend(TINT.map(|tint| (f32::from(grey) + (tint - f32::from(grey)) * amount).round() as u8));
        }
    }
    encode_colour_png(image.width, image.height, &pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::shrink;

    #[test]
    fn only_what_is_strong_is_tinted_and_the_shape_is_kept() {
        let image = GreyImage { width: 80, height: 40, pixels: vec![100; 80 * 40] };
        let map = ActivationMap { rows: 1, columns: 2, values: vec![0.0, 1.0] };
        let drawn = image::load_from_memory(&overlay_png(&image, &map)).unwrap().to_rgb8();
        assert_eq!(drawn.dimensions(), (80, 40));
        assert_eq!(drawn.get_pixel(5, 20).0, [100; 3], "nothing there");
        assert_eq!(drawn.get_pixel(75, 20).0, [193, 83, 40], "the strongest");
        let middle = drawn.get_pixel(40, 20).0;
        assert!((101..193).contains(&middle[0]), "between: {middle:?}");
    }

    #[test]
    fn what_is_shrunk_keeps_its_shape_and_what_is_small_stays() {
        let image = |width, height| GreyImage { width, height, pixels: vec![7; (width * height) as usize] };
        let small = shrink(&image(300, 100), 60);
        assert_eq!((small.width, small.height, small.pixels.len()), (60, 20, 1200));
        assert_eq!(shrink(&image(60, 20), 60), image(60, 20));
        assert_eq!(shrink(&image(2000, 3), 50).height, 1);
    }
}
