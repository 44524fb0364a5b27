//! The stored values of the one frame, whatever they are packed in.

use std::io::Cursor;

use dicom_dictionary_std::{tags, uids};
use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
use jpeg_decoder::{Decoder, PixelFormat};

use super::{
    header::{Header, PixelData, words},
    jpeg_ls, rle,
    syntax::{BIG_ENDIAN, Syntax},
    undecodable,
};
use crate::imaging::{ImageError, container::jpeg_reaches_its_end};

/// `rows x columns x samples` values, samples interleaved, in the bits that are stored of them.
pub(super) fn values(header: &Header, syntax: &Syntax) -> Result<Vec<u16>, ImageError> {
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
        ) => planar(header, native(header, bytes, *words, syntax.big_endian, pixels * samples)?, pixels),
        (PixelData::Packed(data), uid) => packed(header, uid, data, pixels)?,
        (PixelData::Native { .. }, uid) => return Err(unread(uid)),
    };
    if values.len() != pixels * samples {
        return Err(undecodable(format!("{} values where {} are needed", values.len(), pixels * samples)));
    }
    align(header, &mut values);
    Ok(values)
}

fn unread(uid: &str) -> ImageError {
    undecodable(format!("DICOM of the transfer syntax {uid} is not read"))
}

/// What a radiograph's pixels can be.
fn check(header: &Header) -> Result<(), ImageError> {
    let &Header { samples, bits_allocated, bits_stored, high_bit, .. } = header;
    if header.number(tags::NUMBER_OF_FRAMES).is_some_and(|frames| frames > 1.0) {
        return Err(undecodable("a DICOM of several frames: send a single one"));
    }
    if !matches!((samples, bits_allocated), (1, 8 | 16) | (3, 8)) {
        return Err(undecodable(format!("{samples} samples of {bits_allocated} bits are not read")));
    }
    if bits_stored == 0 || bits_stored > bits_allocated || high_bit >= bits_allocated || high_bit + 1 < bits_stored {
        return Err(undecodable(format!("{bits_stored} bits up to bit {high_bit} of {bits_allocated}")));
    }
    Ok(())
}

fn native(
    header: &Header,
    bytes: &[u8],
    as_words: bool,
    big_endian: bool,
    count: usize,
) -> Result<Vec<u16>, ImageError> {
    let needed = count * usize::from(header.bits_allocated / 8);
    let cut_off = || undecodable(format!("{} bytes of pixels where {needed} are needed", bytes.len()));
    if header.bits_allocated == 16 {
        return Ok(words(bytes.get(..needed).ok_or_else(cut_off)?, big_endian));
    }
    let mut bytes = bytes.to_vec();
    if as_words && big_endian {
        // Two pixels are one word, whose bytes come in the other order.
        bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.swap(0, 1));
    }
    Ok(bytes.get(..needed).ok_or_else(cut_off)?.iter().map(|byte| u16::from(*byte)).collect())
}

/// Colour by plane becomes colour by pixel.
fn planar(header: &Header, values: Vec<u16>, pixels: usize) -> Vec<u16> {
    if header.samples != 3 || header.word(tags::PLANAR_CONFIGURATION) != Some(1) {
        return values;
    }
    (0..pixels).flat_map(|at| [values[at], values[pixels + at], values[2 * pixels + at]]).collect()
}

fn packed(header: &Header, uid: &str, data: &[u8], pixels: usize) -> Result<Vec<u16>, ImageError> {
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
        other => Err(unread(other)),
    }
}

fn jpeg(header: &Header, data: &[u8]) -> Result<Vec<u16>, ImageError> {
    let failed = |error: jpeg_decoder::Error| undecodable(format!("the JPEG within: {error}"));
    if !jpeg_reaches_its_end(data) {
        return Err(undecodable("the JPEG within is cut off before its end marker"));
    }
    let mut decoder = Decoder::new(Cursor::new(data));
    decoder.read_info().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| undecodable("the JPEG within has no header"))?;
    same_size(header, info.width.into(), info.height.into())?;
    let values = decoder.decode().map_err(failed)?;
    match (info.pixel_format, header.samples) {
        (PixelFormat::L8, 1) | (PixelFormat::RGB24, 3) => Ok(values.into_iter().map(u16::from).collect()),
        (PixelFormat::L16, 1) => Ok(values.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair)).collect()),
        (format, samples) => Err(undecodable(format!("a JPEG of {format:?} where {samples} samples are announced"))),
    }
}

fn jpeg_2000(header: &Header, data: &[u8]) -> Result<Vec<u16>, ImageError> {
    let failed = |error: hayro_jpeg2000::DecodeError| undecodable(format!("the JPEG 2000 within: {error}"));
    let image = Image::new(data, &DecodeSettings { strict: true, ..DecodeSettings::default() }).map_err(failed)?;
    same_size(header, image.width(), image.height())?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(failed)?;
    let components: Vec<&[f32]> = decoded.components().iter().map(|component| component.samples()).collect();
    if components.len() != usize::from(header.samples) {
        return Err(undecodable(format!("a JPEG 2000 of {} components", components.len())));
    }
    // A negative value keeps its lowest bits, as everywhere in a file of signed ones.
    let value = |value: f32| value.round() as i32 as u16;
    Ok((0..components[0].len()).flat_map(|at| components.iter().map(move |samples| value(samples[at]))).collect())
}

fn same_size(header: &Header, width: u32, height: u32) -> Result<(), ImageError> {
    if (width, height) == (header.columns.into(), header.rows.into()) {
        return Ok(());
    }
    let Header { columns, rows, .. } = header;
    Err(undecodable(format!("the image within has {width} x {height} pixels, its DICOM says {columns} x {rows}")))
}

/// Moves the stored bits down to bit 0 and clears what else was in the word, such as an overlay.
fn align(header: &Header, values: &mut [u16]) {
    let shift = match header.pixels {
        PixelData::Native { .. } => header.high_bit + 1 - header.bits_stored,
        PixelData::Packed(_) => 0,
    };
    let mask = u16::MAX >> (16 - header.bits_stored);
    values.iter_mut().for_each(|value| *value = (*value >> shift) & mask);
}
