//! Bounded decoding of PNG to one grey plane.
//!
//! The decoder is the `png` crate, and not `image`'s wrapper of it, which does not compare the checksum of the pixels (Adler-32).

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, metadata::Orientation};

use super::{DecodedImage, GreyImage, ImageError, Limits, check_size, damage::plain_reason, exif, grey, undecodable};

/// The first bytes of every PNG.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Content of the tEXt chunk that marks a synthetic phantom: its keyword and its text.
const PHANTOM_MARK: &[u8] = b"Thorax\0synthetic phantom";

/// Maximum size of the uncompressed colour profiles and texts, in bytes.
const MAX_METADATA_BYTES: usize = 8 << 20;

/// A chunk: its type, its content, and all its bytes, which begin with its length and end with its checksum.
pub(super) struct Chunk<'a> {
    pub(super) kind: [u8; 4],
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl Chunk<'_> {
    /// True for the chunk that marks a synthetic phantom.
    pub(super) fn is_phantom_mark(&self) -> bool {
        self.kind == *b"tEXt" && self.content == PHANTOM_MARK
    }
}

/// Decodes a PNG whose header is within `limits`. Bits by the sBIT chunk, transparency and EXIF orientation are applied.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<DecodedImage, ImageError> {
    // Checked before the decoder runs, because it allocates a row of the width in the header.
    let (width, height) = size(bytes).ok_or_else(|| undecodable("the PNG header is missing or truncated"))?;
    check_size(width, height, limits)?;
    let mut reader = reader(bytes)?;
    let orientation = orientation_of(&reader);
    let mut image = pixels(&mut reader)?;
    let scaled = significant_bits(bytes).is_some_and(|bits| scale_to_sixteen_bits(&mut image, bits));
    let viewers_agree = !scaled && is_opaque(&image);
    let mut grey = DynamicImage::ImageLuma8(grey::from_dynamic(image)?);
    grey.apply_orientation(orientation);
    let (width, height) = (grey.width(), grey.height());
    let image = GreyImage { width, height, pixels: grey.into_bytes() };
    Ok(DecodedImage { image, viewers_agree, synthetic: chunks(bytes).any(|chunk| chunk.is_phantom_mark()) })
}

/// EXIF orientation of a PNG.
pub(super) fn orientation(bytes: &[u8]) -> Result<Orientation, ImageError> {
    Ok(orientation_of(&reader(bytes)?))
}

/// The chunks after the signature; ends at the first one that is not whole.
pub(super) fn chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    std::iter::from_fn(move || {
        let head = rest.first_chunk::<8>()?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (whole, after) = rest.split_at_checked(length.checked_add(12)?)?;
        rest = after;
        Some(Chunk { kind: [head[4], head[5], head[6], head[7]], content: &whole[8..8 + length], whole })
    })
}

/// A chunk with its length and checksum.
pub(super) fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(kind);
    checksum.update(content);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], kind, content, &checksum.finalize().to_be_bytes()].concat()
}

/// The PNG with the mark of a synthetic phantom, after its header.
pub(super) fn marked_as_phantom(png: &[u8]) -> Vec<u8> {
    let (header, rest) = png.split_at(SIGNATURE.len() + 25);
    [header, &chunk(b"tEXt", PHANTOM_MARK), rest].concat()
}

type Reader<'a> = ::png::Reader<Cursor<&'a [u8]>>;

/// A reader that verifies checksums, positioned before the pixels.
fn reader(bytes: &[u8]) -> Result<Reader<'_>, ImageError> {
    let mut options = ::png::DecodeOptions::default();
    options.set_ignore_adler32(false);
    let mut decoder = ::png::Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(::png::Limits { bytes: MAX_METADATA_BYTES });
    // Palettes become colours, samples of fewer than eight bits become eight, and a tRNS chunk becomes an alpha channel.
    decoder.set_transformations(::png::Transformations::EXPAND);
    decoder.read_info().map_err(|error| damaged(&error))
}

fn orientation_of(reader: &Reader<'_>) -> Orientation {
    let exif = reader.info().exif_metadata.as_deref();
    exif.and_then(exif::orientation).unwrap_or(Orientation::NoTransforms)
}

/// Decodes the pixels of the main image.
fn pixels(reader: &mut Reader<'_>) -> Result<DynamicImage, ImageError> {
    let too_large = || undecodable("the PNG is too large for the memory of this machine");
    let mut samples = vec![0; reader.output_buffer_size().ok_or_else(too_large)?];
    let frame = reader.next_frame(&mut samples).map_err(|error| damaged(&error))?;
    samples.truncate(frame.buffer_size());
    let (width, height) = (frame.width, frame.height);
    let wide = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair)).collect::<Vec<_>>();
    use ::png::{BitDepth::*, ColorType::*};
    let image = match (frame.color_type, frame.bit_depth) {
        (Grayscale, Eight) => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
        (GrayscaleAlpha, Eight) => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLumaA8),
        (Rgb, Eight) => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
        (Rgba, Eight) => ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageRgba8),
        (Grayscale, Sixteen) => ImageBuffer::from_raw(width, height, wide(&samples)).map(DynamicImage::ImageLuma16),
        (GrayscaleAlpha, Sixteen) => {
            ImageBuffer::from_raw(width, height, wide(&samples)).map(DynamicImage::ImageLumaA16)
        }
        (Rgb, Sixteen) => ImageBuffer::from_raw(width, height, wide(&samples)).map(DynamicImage::ImageRgb16),
        (Rgba, Sixteen) => ImageBuffer::from_raw(width, height, wide(&samples)).map(DynamicImage::ImageRgba16),
        (colour, depth) => {
            return Err(undecodable(format!("pixel format {colour:?} of {depth:?} bits is not supported")));
        }
    };
    image.ok_or_else(|| undecodable("the PNG has fewer pixels than its header announces"))
}

fn damaged(error: &::png::DecodingError) -> ImageError {
    undecodable(plain_reason("the PNG", error))
}

/// Width and height from the IHDR chunk, which the standard puts first.
fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(8..24)?;
    let number = |at: usize| header[at..at + 4].try_into().map(u32::from_be_bytes).ok();
    if &header[4..8] == b"IHDR" { number(8).zip(number(12)) } else { None }
}

/// The number of significant bits by the sBIT chunk: the maximum over the channels.
fn significant_bits(bytes: &[u8]) -> Option<u8> {
    let before_pixels = |chunk: &Chunk<'_>| !matches!(&chunk.kind, b"IDAT" | b"PLTE");
    let bits = chunks(bytes).take_while(before_pixels).find(|chunk| chunk.kind == *b"sBIT")?;
    bits.content.iter().copied().max()
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
