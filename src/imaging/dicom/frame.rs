//! Stored pixel values of a single-frame image, native or encapsulated.

use std::io::Cursor;

use dicom_dictionary_std::{tags, uids};
use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
use jpeg_decoder::{Decoder, PixelFormat};

use super::{
    header::{Header, PixelData, words},
    jpeg_ls, rle,
    syntax::{BIG_ENDIAN, TransferSyntax},
    undecodable,
};
use crate::imaging::{ImageError, jpeg::is_complete};

/// The stored values, [rows * columns * samples] with interleaved samples, masked to Bits Stored.
pub(super) fn stored_values(header: &Header, syntax: &TransferSyntax) -> Result<Vec<u16>, ImageError> {
    check(header)?;
    let pixels = usize::from(header.rows) * usize::from(header.columns);
    let samples = usize::from(header.samples);
    let mut values = match (&header.pixels, syntax.uid.as_str()) {
        (
            PixelData::Native { bytes, words },
            uids::IMPLICIT_VR_LITTLE_ENDIAN
            | uids::EXPLICIT_VR_LITTLE_ENDIAN
            | uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
            | BIG_ENDIAN,
        ) => interleave(header, native(header, bytes, *words, syntax.big_endian, pixels * samples)?, pixels),
        (PixelData::Encapsulated(data), uid) => decode_encapsulated(header, uid, data, pixels)?,
        (PixelData::Native { .. }, uid) => return Err(unsupported(uid)),
    };
    if values.len() != pixels * samples {
        return Err(undecodable(format!("the frame has {} values instead of {}", values.len(), pixels * samples)));
    }
    mask_stored_bits(header, &mut values);
    Ok(values)
}

fn unsupported(uid: &str) -> ImageError {
    undecodable(format!("the DICOM transfer syntax {uid} is not supported"))
}

/// Checks the pixel format: one frame, 8 or 16 bits grey, or 8 bits RGB.
fn check(header: &Header) -> Result<(), ImageError> {
    let &Header { samples, bits_allocated, bits_stored, high_bit, .. } = header;
    if header.number(tags::NUMBER_OF_FRAMES).is_some_and(|frames| frames > 1.0) {
        return Err(undecodable("the DICOM file has several frames; only single-frame images are supported"));
    }
    if !matches!((samples, bits_allocated), (1, 8 | 16) | (3, 8)) {
        return Err(undecodable(format!("{samples} samples per pixel of {bits_allocated} bits are not supported")));
    }
    if bits_stored == 0 || bits_stored > bits_allocated || high_bit >= bits_allocated || high_bit + 1 < bits_stored {
        return Err(undecodable(format!(
            "Bits Stored {bits_stored}, High Bit {high_bit} and Bits Allocated {bits_allocated} contradict each other"
        )));
    }
    Ok(())
}

/// Values of native (uncompressed) pixel data.
fn native(
    header: &Header,
    bytes: &[u8],
    as_words: bool,
    big_endian: bool,
    count: usize,
) -> Result<Vec<u16>, ImageError> {
    let needed = count * usize::from(header.bits_allocated / 8);
    let truncated = || undecodable(format!("the pixel data has {} bytes instead of {needed}", bytes.len()));
    if header.bits_allocated == 16 {
        return Ok(words(bytes.get(..needed).ok_or_else(truncated)?, big_endian));
    }
    let mut bytes = bytes.to_vec();
    if as_words && big_endian {
        // Two pixels share a word, whose bytes are swapped.
        bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.swap(0, 1));
    }
    Ok(bytes.get(..needed).ok_or_else(truncated)?.iter().map(|byte| u16::from(*byte)).collect())
}

/// Interleaves colour planes (Planar Configuration 1).
fn interleave(header: &Header, values: Vec<u16>, pixels: usize) -> Vec<u16> {
    if header.samples != 3 || header.word(tags::PLANAR_CONFIGURATION) != Some(1) {
        return values;
    }
    (0..pixels).flat_map(|at| [values[at], values[pixels + at], values[2 * pixels + at]]).collect()
}

/// Decodes encapsulated (compressed) pixel data.
fn decode_encapsulated(header: &Header, uid: &str, data: &[u8], pixels: usize) -> Result<Vec<u16>, ImageError> {
    match uid {
        uids::RLE_LOSSLESS => {
            let bytes = usize::from(header.bits_allocated / 8);
            let image = rle::decode(data, pixels, header.samples.into(), bytes)?;
            Ok(if bytes == 2 { words(&image, false) } else { image.into_iter().map(u16::from).collect() })
        }
        uids::JPEG_BASELINE8_BIT | uids::JPEG_EXTENDED12_BIT | uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => {
            jpeg(header, data)
        }
        uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => {
            jpeg_ls::decode(data, header.columns.into(), header.rows.into())
        }
        uids::JPEG2000_LOSSLESS | uids::JPEG2000 => jpeg_2000(header, data),
        other => Err(unsupported(other)),
    }
}

fn jpeg(header: &Header, data: &[u8]) -> Result<Vec<u16>, ImageError> {
    let failed = |error: jpeg_decoder::Error| undecodable(format!("embedded JPEG: {error}"));
    if !is_complete(data) {
        return Err(undecodable("the embedded JPEG is truncated: it has no end marker"));
    }
    let mut decoder = Decoder::new(Cursor::new(data));
    decoder.read_info().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| undecodable("the embedded JPEG has no header"))?;
    check_size(header, info.width.into(), info.height.into())?;
    let values = decoder.decode().map_err(failed)?;
    match (info.pixel_format, header.samples) {
        (PixelFormat::L8, 1) | (PixelFormat::RGB24, 3) => Ok(values.into_iter().map(u16::from).collect()),
        (PixelFormat::L16, 1) => Ok(values.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair)).collect()),
        (format, samples) => Err(undecodable(format!(
            "the embedded JPEG has the pixel format {format:?}, but the header announces {samples} samples per pixel"
        ))),
    }
}

fn jpeg_2000(header: &Header, data: &[u8]) -> Result<Vec<u16>, ImageError> {
    let failed = |error: hayro_jpeg2000::DecodeError| undecodable(format!("embedded JPEG 2000: {error}"));
    let image = Image::new(data, &DecodeSettings { strict: true, ..DecodeSettings::default() }).map_err(failed)?;
    check_size(header, image.width(), image.height())?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(failed)?;
    let components: Vec<&[f32]> = decoded.components().iter().map(|component| component.samples()).collect();
    if components.len() != usize::from(header.samples) {
        return Err(undecodable(format!(
            "the embedded JPEG 2000 has {} components instead of {}",
            components.len(),
            header.samples
        )));
    }
    // Negative values are in two's complement, like all signed values in the file.
    let value = |value: f32| value.round() as i32 as u16;
    Ok((0..components[0].len()).flat_map(|at| components.iter().map(move |samples| value(samples[at]))).collect())
}

fn check_size(header: &Header, width: u32, height: u32) -> Result<(), ImageError> {
    if (width, height) == (header.columns.into(), header.rows.into()) {
        return Ok(());
    }
    let Header { columns, rows, .. } = header;
    Err(undecodable(format!(
        "the embedded image has {width} x {height} pixels, but the DICOM header announces {columns} x {rows}"
    )))
}

/// Shifts the stored bits down to bit 0 and clears other bits of the word, such as an embedded overlay.
fn mask_stored_bits(header: &Header, values: &mut [u16]) {
    let shift = match header.pixels {
        PixelData::Native { .. } => header.high_bit + 1 - header.bits_stored,
        PixelData::Encapsulated(_) => 0,
    };
    let mask = u16::MAX >> (16 - header.bits_stored);
    values.iter_mut().for_each(|value| *value = (*value >> shift) & mask);
}
