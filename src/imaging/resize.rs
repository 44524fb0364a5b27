//! Antialiased bilinear resizing, equivalent to Pillow's `resize(…, BILINEAR)`.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::GreyImage;

/// Resizes to a square of `side` x `side` pixels with an antialiased bilinear (triangle) filter, whose support grows with the reduction.
/// The aspect ratio is not kept, as in the COVID-ResNet report.
pub fn resize_square(image: &GreyImage, side: u32) -> GreyImage {
    resize(image, side, side)
}

/// A copy with a longer side of at most `max_side` pixels and the same aspect ratio, for display.
pub fn shrink(image: &GreyImage, max_side: u32) -> GreyImage {
    let longer = image.width.max(image.height);
    if longer <= max_side {
        return image.clone();
    }
    let scaled = |side: u32| (f64::from(side) * f64::from(max_side) / f64::from(longer)).round().max(1.0) as u32;
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
