//! PNG and JPEG containers, and what tells them and DICOM: magic bytes, header against limits, then the bounded decode.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
};

use super::{Format, GreyImage, ImageError, Limits, check_size, dicom, grey, undecodable};

pub(super) const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// What colour profiles and text inside a PNG may take when unpacked, in bytes.
pub(super) const METADATA_BYTES: u64 = 8 << 20;

/// The container that the first bytes announce, whatever the file is called.
pub(super) fn sniff(bytes: &[u8]) -> Option<Format> {
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
    // Before the decoder sees it: it takes memory for a row as wide as the header says.
    let (width, height) = png_size(bytes).ok_or_else(|| undecodable("the PNG header is missing or cut off"))?;
    check_size(width, height, limits)?;
    let mut bounds = image::Limits::default();
    bounds.max_image_width = Some(width);
    bounds.max_image_height = Some(height);
    bounds.max_alloc = Some(METADATA_BYTES);
    read(PngDecoder::with_limits(Cursor::new(bytes), bounds).map_err(undecodable)?)
}

/// Decodes a JPEG whose header is within `limits`.
pub(super) fn read_jpeg(bytes: &[u8], limits: &Limits) -> Result<GreyImage, ImageError> {
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    // The decoder fills what is missing of a cut-off file with grey: half a chest must not pass for a whole one.
    if !jpeg_reaches_its_end(bytes) {
        return Err(undecodable("the JPEG is cut off before its end marker"));
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

/// Walks the marker segments (ITU-T T.81, annex B) and the entropy-coded data between them to the end marker.
pub(super) fn jpeg_reaches_its_end(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some((marker, after)) = next_marker(rest) {
        rest = match marker {
            0xd9 => return true,
            // Start of image, restarts and TEM stand alone; every other marker names the length of its segment.
            0xd8 | 0xd0..=0xd7 | 0x01 => after,
            _ => match after.first_chunk::<2>().and_then(|length| after.get(u16::from_be_bytes(*length).into()..)) {
                Some(next) => next,
                None => return false,
            },
        };
    }
    false
}

/// The next marker and what follows it. Within entropy-coded data 0xff is followed by a stuffed zero, so no scan
/// can hold a marker by accident.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let is_marker = |&at: &usize| bytes.get(at + 1).is_some_and(|next| !matches!(next, 0x00 | 0xff));
    let at = memchr::memchr_iter(0xff, bytes).find(is_marker)?;
    Some((bytes[at + 1], &bytes[at + 2..]))
}
