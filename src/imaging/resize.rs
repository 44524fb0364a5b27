//! Antialiased bilinear resize, as Pillow's `resize(…, BILINEAR)` does it.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::GreyImage;

/// Resizes to a `side` x `side` square (aspect ratio not kept, as the report does), antialiased bilinear: the
/// triangle filter widens with the reduction, so that every source pixel counts.
pub fn resize_square(image: &GreyImage, side: u32) -> GreyImage {
    resize(image, side, side)
}

/// A copy whose longer side is `longest` at most, its shape kept, for people to look at.
pub fn shrink(image: &GreyImage, longest: u32) -> GreyImage {
    let longer = image.width.max(image.height);
    if longer <= longest {
        return image.clone();
    }
    let scaled = |side: u32| (f64::from(side) * f64::from(longest) / f64::from(longer)).round().max(1.0) as u32;
    resize(image, scaled(image.width), scaled(image.height))
}

fn resize(image: &GreyImage, width: u32, height: u32) -> GreyImage {
    let source = ImageRef::new(image.width, image.height, &image.pixels, PixelType::U8)
        .expect("a grey image holds width x height pixels");
    let mut target = Image::new(width, height, PixelType::U8);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).expect("both sides are 8-bit grey");
    GreyImage { width, height, pixels: target.into_vec() }
}
