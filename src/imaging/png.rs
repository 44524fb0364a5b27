//! Bounded decoding of PNG to one grey plane.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, codecs::png::PngDecoder};

use super::{DecodedImage, GreyImage, ImageError, Limits, check_size, grey, undecodable};

/// The first bytes of every PNG.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Maximum size of the uncompressed colour profiles and texts, in bytes.
const MAX_METADATA_BYTES: u64 = 8 << 20;

/// Decodes a PNG whose header is within `limits`. Bits by the sBIT chunk, transparency and EXIF orientation are applied.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<DecodedImage, ImageError> {
    // Checked before the decoder runs, because it allocates a row of the width in the header.
    let (width, height) = size(bytes).ok_or_else(|| undecodable("the PNG header is missing or truncated"))?;
    check_size(width, height, limits)?;
    let mut bounds = image::Limits::default();
    bounds.max_image_width = Some(width);
    bounds.max_image_height = Some(height);
    bounds.max_alloc = Some(MAX_METADATA_BYTES);
    let mut decoder = PngDecoder::with_limits(Cursor::new(bytes), bounds).map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    let scaled = significant_bits(bytes).is_some_and(|bits| scale_to_sixteen_bits(&mut image, bits));
    let viewers_agree = !scaled && is_opaque(&image);
    let mut grey = DynamicImage::ImageLuma8(grey::from_dynamic(image)?);
    grey.apply_orientation(orientation);
    let (width, height) = (grey.width(), grey.height());
    Ok(DecodedImage { image: GreyImage { width, height, pixels: grey.into_bytes() }, viewers_agree })
}

/// EXIF orientation of a PNG.
pub(super) fn orientation(bytes: &[u8]) -> Result<image::metadata::Orientation, ImageError> {
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(MAX_METADATA_BYTES);
    PngDecoder::with_limits(Cursor::new(bytes), bounds)
        .and_then(|mut decoder| decoder.orientation())
        .map_err(undecodable)
}

/// Width and height from the IHDR chunk, which the standard puts first.
fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(8..24)?;
    let number = |at: usize| header[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    if &header[4..8] == b"IHDR" { number(8).zip(number(12)) } else { None }
}

/// The number of significant bits by the sBIT chunk: the maximum over the channels.
fn significant_bits(bytes: &[u8]) -> Option<u8> {
    let mut rest = bytes.get(SIGNATURE.len()..)?;
    loop {
        let head = rest.first_chunk::<8>()?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        match &head[4..] {
            b"sBIT" => return rest.get(8..8_usize.checked_add(length)?)?.iter().copied().max(),
            b"IDAT" | b"PLTE" => return None,
            _ => rest = rest.get(length.checked_add(12)?..)?,
        }
    }
}

/// Scales samples of 16 bits whose sBIT chunk announces `bits` bits. The standard stores significant bits in the high bits of a sample;
/// some programs store them in the low bits, and the image would be nearly black. The result is false if nothing had to be scaled.
fn scale_to_sixteen_bits(image: &mut DynamicImage, bits: u8) -> bool {
    let (samples, channels, colours): (&mut [u16], usize, usize) = match image {
        DynamicImage::ImageLuma16(image) => (image, 1, 1),
        DynamicImage::ImageLumaA16(image) => (image, 2, 1),
        DynamicImage::ImageRgb16(image) => (image, 3, 3),
        DynamicImage::ImageRgba16(image) => (image, 4, 3),
        _ => return false,
    };
    if !(1..16).contains(&bits) {
        return false;
    }
    let max = (1_u32 << bits) - 1;
    if samples.chunks_exact(channels).any(|pixel| pixel[..colours].iter().any(|sample| u32::from(*sample) > max)) {
        return false;
    }
    for sample in samples.chunks_exact_mut(channels).flat_map(|pixel| &mut pixel[..colours]) {
        *sample = ((u32::from(*sample) * 65_535 + max / 2) / max) as u16;
    }
    true
}

/// True if no pixel is transparent. Viewers show transparent pixels over a background of their own.
fn is_opaque(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageLumaA8(image) => image.pixels().all(|pixel| pixel[1] == u8::MAX),
        DynamicImage::ImageRgba8(image) => image.pixels().all(|pixel| pixel[3] == u8::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().all(|pixel| pixel[1] == u16::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().all(|pixel| pixel[3] == u16::MAX),
        _ => true,
    }
}
