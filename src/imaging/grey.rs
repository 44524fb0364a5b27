//! Conversion of all decoded pixel formats to one 8-bit grey plane.

use image::{DynamicImage, GrayImage, ImageBuffer, Pixel};

use super::ImageError;

/// Converts to 8-bit grey: colour to Rec. 601 luma, 16 bits to 8, transparency composited over black.
pub(super) fn from_dynamic(image: DynamicImage) -> Result<GrayImage, ImageError> {
    match image {
        DynamicImage::ImageLuma8(plane) => Ok(plane),
        DynamicImage::ImageLumaA8(image) => Ok(map(&image, |&[grey, alpha]: &[u8; 2]| over_black(grey, alpha))),
        DynamicImage::ImageRgb8(image) => Ok(map(&image, |&[r, g, b]: &[u8; 3]| luma(r, g, b))),
        DynamicImage::ImageRgba8(image) => {
            Ok(map(&image, |&[r, g, b, alpha]: &[u8; 4]| over_black(luma(r, g, b), alpha)))
        }
        DynamicImage::ImageLuma16(image) => Ok(map(&image, |&[grey]: &[u16; 1]| to_eight_bits(grey))),
        DynamicImage::ImageLumaA16(image) => {
            Ok(map(&image, |&[grey, alpha]: &[u16; 2]| over_black(to_eight_bits(grey), to_eight_bits(alpha))))
        }
        DynamicImage::ImageRgb16(image) => Ok(map(&image, |rgb: &[u16; 3]| {
            let [r, g, b] = rgb.map(to_eight_bits);
            luma(r, g, b)
        })),
        DynamicImage::ImageRgba16(image) => Ok(map(&image, |rgba: &[u16; 4]| {
            let [r, g, b, alpha] = rgba.map(to_eight_bits);
            over_black(luma(r, g, b), alpha)
        })),
        other => Err(ImageError::Undecodable(format!("pixel format {:?} is not supported", other.color()))),
    }
}

fn map<P: Pixel, const CHANNELS: usize>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    grey: impl Fn(&[P::Subpixel; CHANNELS]) -> u8,
) -> GrayImage {
    let pixels = image.as_raw().as_chunks::<CHANNELS>().0.iter().map(grey).collect();
    GrayImage::from_raw(image.width(), image.height(), pixels).expect("one byte per pixel")
}

/// Rec. 601 luma (0.299, 0.587, 0.114) in 16-bit fixed point, bit-identical to Pillow's mode `L`.
pub fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

fn over_black(grey: u8, alpha: u8) -> u8 {
    ((u32::from(grey) * u32::from(alpha) + 127) / 255) as u8
}

pub(super) fn to_eight_bits(value: u16) -> u8 {
    ((u32::from(value) + 128) / 257) as u8
}
