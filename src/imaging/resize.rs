//! Antialiased bilinear resizing, equivalent to Pillow's `resize(…, BILINEAR)`.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8,
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
    // `Resizer::resize` would compile the kernels of every pixel type into this crate: 46 MB of code and minutes of build time.
    let source = TypedImageRef::<U8>::from_buffer(image.width, image.height, &image.pixels)
        .expect("a grey image holds width x height pixels");
    let mut pixels = vec![0; width as usize * height as usize];
    let mut target =
        TypedImage::<U8>::from_buffer(width, height, &mut pixels).expect("the buffer holds width x height pixels");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize_typed(&source, &mut target, &options).expect("the whole image is resized");
    GreyImage { width, height, pixels }
}
