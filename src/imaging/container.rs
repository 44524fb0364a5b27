//! Format detection, and bounded decoding of PNG and JPEG: the header is checked against the limits before the image is decoded.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
};

use super::{Format, GreyImage, ImageError, Limits, check_size, dicom, grey, jpeg, undecodable};

pub(super) const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// Maximum size of the uncompressed colour profiles and texts of a PNG, in bytes.
pub(super) const MAX_METADATA_BYTES: u64 = 8 << 20;

/// Detects the format from the first bytes; none if it is not supported.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(PNG_SIGNATURE) {
        Some(Format::Png)
    } else if bytes.starts_with(JPEG_SIGNATURE) {
        Some(Format::Jpeg)
    } else if dicom::is_dicom(bytes) {
        Some(Format::Dicom)
    } else {
        None
    }
}

/// Decodes a PNG whose header is within `limits`.
pub(super) fn read_png(bytes: &[u8], limits: &Limits) -> Result<GreyImage, ImageError> {
    // Checked before the decoder runs, because it allocates a row of the width in the header.
    let (width, height) = png_size(bytes).ok_or_else(|| undecodable("the PNG header is missing or truncated"))?;
    check_size(width, height, limits)?;
    let mut bounds = image::Limits::default();
    bounds.max_image_width = Some(width);
    bounds.max_image_height = Some(height);
    bounds.max_alloc = Some(MAX_METADATA_BYTES);
    read(PngDecoder::with_limits(Cursor::new(bytes), bounds).map_err(undecodable)?)
}

/// Decodes a JPEG whose header is within `limits`.
pub(super) fn read_jpeg(bytes: &[u8], limits: &Limits) -> Result<GreyImage, ImageError> {
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    // The decoder would fill the missing part with grey, and half a chest must not pass for a whole one.
    if !jpeg::is_complete(bytes) {
        return Err(undecodable("the JPEG is truncated: it has no end marker"));
    }
    read(decoder)
}

fn read(mut decoder: impl ImageDecoder) -> Result<GreyImage, ImageError> {
    let orientation = decoder.orientation().map_err(undecodable)?;
    let image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    let mut grey = DynamicImage::ImageLuma8(grey::from_dynamic(image)?);
    grey.apply_orientation(orientation);
    let (width, height) = (grey.width(), grey.height());
    Ok(GreyImage { width, height, pixels: grey.into_bytes() })
}

/// Width and height from the IHDR chunk, which the standard puts first.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(8..24)?;
    let number = |at: usize| header[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    if &header[4..8] == b"IHDR" { number(8).zip(number(12)) } else { None }
}
