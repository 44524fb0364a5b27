//! Antialiased bilinear resize, as Pillow's `resize(…, BILINEAR)` does it.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::GreyImage;

/// Resizes to a `side` x `side` square (aspect ratio not kept, as the report does), antialiased bilinear: the
/// triangle filter widens with the reduction, so that every source pixel counts.
pub fn resize_square(image: &GreyImage, side: u32) -> GreyImage {
    let source = ImageRef::new(image.width, image.height, &image.pixels, PixelType::U8)
        .expect("a grey image holds width x height pixels");
    let mut target = Image::new(side, side, PixelType::U8);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).expect("both sides are 8-bit grey");
    GreyImage { width: side, height: side, pixels: target.into_vec() }
}
