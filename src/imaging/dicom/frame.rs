//! Stored pixel values of a single-frame image, native or encapsulated.

use dicom_dictionary_std::tags;

use super::{
    codec::Codec,
    header::{Header, PixelData, words},
    jpeg_2000, jpeg_ls, rle,
    syntax::TransferSyntax,
    undecodable,
};
use crate::imaging::{
    ImageError,
    damage::plain_reason,
    jpeg::{self, ColourSpace, Frame, Stream},
};

/// Stored values of the frame.
pub(super) struct StoredValues {
    /// The values, [rows * columns * samples] with interleaved samples, masked to Bits Stored.
    pub(super) values: Vec<u16>,
    /// Colour space of three samples.
    pub(super) colour: SampleColour,
    /// Bits Stored, corrected by the encoded image.
    pub(super) bits_stored: u16,
    /// True if the values are in two's complement.
    pub(super) signed: bool,
    /// True if the header contradicts the encoded image.
    pub(super) mismatch: bool,
}

/// Colour space of three samples per pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleColour {
    Rgb,
    /// Full-range YCbCr.
    Ybr,
}

/// Decodes the stored values.
///
/// # Errors
/// The pixel format or the transfer syntax is not supported, or the pixel data is corrupt.
pub(super) fn stored_values(header: &Header, syntax: &TransferSyntax) -> Result<StoredValues, ImageError> {
    check(header)?;
    let pixels = usize::from(header.rows) * usize::from(header.columns);
    let samples = usize::from(header.samples);
    let declared = Codec::declared(&syntax.uid)
        .ok_or_else(|| undecodable(format!("the DICOM transfer syntax {} is not supported", syntax.uid)))?;
    // The data says better than the header how it is encoded. Data of no known codec is left to the decoder to refuse.
    let codec = Codec::detected(&header.pixels).unwrap_or(declared);
    let mut stored = match (&header.pixels, codec) {
        (PixelData::Native { bytes, words }, _) => native(header, bytes, *words, syntax.big_endian, pixels)?,
        (PixelData::Encapsulated(_), Codec::Native) => {
            return Err(undecodable("the pixel data is encapsulated, but not of a supported encoding"));
        }
        (PixelData::Encapsulated(data), Codec::Rle) => {
            let bytes = usize::from(header.bits_allocated / 8);
            let image = rle::decode(data, pixels, samples, bytes)?;
            let values = if bytes == 2 { words(&image, false) } else { image.into_iter().map(u16::from).collect() };
            StoredValues::as_declared(header, values)
        }
        (PixelData::Encapsulated(data), Codec::Jpeg) => jpeg(header, data)?,
        (PixelData::Encapsulated(data), Codec::JpegLs) => {
            let (values, precision) = jpeg_ls::decode(data, header.columns.into(), header.rows.into())?;
            StoredValues::as_declared(header, values).with_precision(header, precision)?
        }
        (PixelData::Encapsulated(data), Codec::Jpeg2000) => {
            let decoded = jpeg_2000::decode(header, data)?;
            let mut stored =
                StoredValues::as_declared(header, decoded.values).with_precision(header, decoded.precision)?;
            let photometric = header.photometric();
            stored.mismatch |= match photometric.as_str() {
                "YBR_RCT" | "YBR_ICT" => !decoded.is_rgb,
                other => decoded.is_rgb && other.starts_with("YBR_FULL"),
            };
            if decoded.is_rgb {
                stored.colour = SampleColour::Rgb;
            }
            // Unsigned samples under a signed header are two's complement that the encoder did not know as such.
            stored.mismatch |= decoded.signed != header.signed;
            stored.signed |= decoded.signed;
            stored
        }
    };
    stored.mismatch |= codec != declared;
    if stored.values.len() != pixels * samples {
        return Err(undecodable(format!(
            "the frame has {} values instead of {}",
            stored.values.len(),
            pixels * samples
        )));
    }
    mask_stored_bits(header, codec, &mut stored);
    Ok(stored)
}

impl StoredValues {
    /// Values with the bits and the colour space that the header declares.
    fn as_declared(header: &Header, values: Vec<u16>) -> Self {
        let colour = if header.photometric().starts_with("YBR_FULL") { SampleColour::Ybr } else { SampleColour::Rgb };
        Self { values, colour, bits_stored: header.bits_stored, signed: header.signed, mismatch: false }
    }

    /// Values of an encoded image with `precision` bits per sample, which may be more than Bits Stored.
    ///
    /// # Errors
    /// They are more than Bits Allocated.
    fn with_precision(mut self, header: &Header, precision: u16) -> Result<Self, ImageError> {
        if precision > header.bits_allocated {
            return Err(undecodable(format!(
                "the embedded image has {precision} bits per sample, more than Bits Allocated ({})",
                header.bits_allocated
            )));
        }
        if precision > header.bits_stored {
            self.bits_stored = precision;
            self.mismatch = true;
        }
        Ok(self)
    }
}

/// Checks the pixel format: one frame, one or three samples of 8 or 16 bits.
fn check(header: &Header) -> Result<(), ImageError> {
    let &Header { samples, bits_allocated, bits_stored, high_bit, .. } = header;
    if header.number(tags::NUMBER_OF_FRAMES).is_some_and(|frames| frames > 1.0) {
        return Err(undecodable("the DICOM file has several frames; only single-frame images are supported"));
    }
    if !matches!((samples, bits_allocated), (1 | 3, 8 | 16)) {
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
    pixels: usize,
) -> Result<StoredValues, ImageError> {
    let is_subsampled = header.samples == 3 && header.bits_allocated == 8 && header.photometric() == "YBR_FULL_422";
    let count = pixels * if is_subsampled { 2 } else { usize::from(header.samples) };
    let needed = count * usize::from(header.bits_allocated / 8);
    let truncated = || undecodable(format!("the pixel data has {} bytes instead of {needed}", bytes.len()));
    if header.bits_allocated == 16 {
        let values = words(bytes.get(..needed).ok_or_else(truncated)?, big_endian);
        return Ok(StoredValues::as_declared(header, interleave(header, values, pixels)));
    }
    let mut bytes = bytes.to_vec();
    if as_words && big_endian {
        // Two pixels share a word, whose bytes are swapped.
        bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.swap(0, 1));
    }
    let values: Vec<u16> = bytes.get(..needed).ok_or_else(truncated)?.iter().map(|byte| u16::from(*byte)).collect();
    let values = if is_subsampled { full_chroma(&values) } else { interleave(header, values, pixels) };
    Ok(StoredValues::as_declared(header, values))
}

/// Repeats the chroma of YBR_FULL_422: two luma samples share the Cb and Cr that follow them (PS3.3, C.7.6.3.1.2).
fn full_chroma(values: &[u16]) -> Vec<u16> {
    values.as_chunks::<4>().0.iter().flat_map(|&[y0, y1, cb, cr]| [y0, cb, cr, y1, cb, cr]).collect()
}

/// Interleaves colour planes (Planar Configuration 1).
fn interleave(header: &Header, values: Vec<u16>, pixels: usize) -> Vec<u16> {
    if header.samples != 3 || header.word(tags::PLANAR_CONFIGURATION) != Some(1) {
        return values;
    }
    (0..pixels).flat_map(|at| [values[at], values[pixels + at], values[2 * pixels + at]]).collect()
}

fn jpeg(header: &Header, data: &[u8]) -> Result<StoredValues, ImageError> {
    let stream = Stream::parse(data);
    let frame = stream.whole_frame()?;
    header.check_size("JPEG", frame.width.into(), frame.height.into())?;
    if frame.components.len() != usize::from(header.samples) {
        return Err(undecodable(format!(
            "the embedded JPEG has {} components, but the header announces {} samples per pixel",
            frame.components.len(),
            header.samples
        )));
    }
    let declared = StoredValues::as_declared(header, Vec::new()).with_precision(header, frame.precision.into())?;
    let is_lossless = frame.code == 0xc3;
    let coded = if header.samples == 3 { colour_of(&stream, frame, declared.colour) } else { SampleColour::Rgb };
    let mismatch = declared.mismatch || header.samples == 3 && coded != declared.colour;
    let values = if frame.precision > 8 && !is_lossless {
        extended(data, header)?
    } else {
        // Lossless coding never transforms colours, and the decoder leaves its samples as they are.
        let transform = match (header.samples, coded) {
            (1, _) => ColourSpace::Grey,
            (_, SampleColour::Ybr) => ColourSpace::YCbCr,
            (_, SampleColour::Rgb) => ColourSpace::Rgb,
        };
        let samples = jpeg::decode(data, transform)?;
        if frame.precision > 8 {
            samples.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair)).collect()
        } else {
            samples.into_iter().map(u16::from).collect()
        }
    };
    let colour = if is_lossless { coded } else { SampleColour::Rgb };
    Ok(StoredValues { values, colour, mismatch, ..declared })
}

/// The colour space of three components. Photometric Interpretation decides (PS3.5, 8.2.1), unless the stream contradicts it: an Adobe
/// segment names the colour space, RGB has neither subsampled components nor a JFIF segment, and components may be called R, G and B.
fn colour_of(stream: &Stream, frame: &Frame, declared: SampleColour) -> SampleColour {
    match stream.adobe {
        Some(0) => SampleColour::Rgb,
        Some(1) => SampleColour::Ybr,
        _ if frame.is_subsampled() || stream.jfif => SampleColour::Ybr,
        _ if frame.has_rgb_ids() => SampleColour::Rgb,
        _ => declared,
    }
}

/// Decodes the DCT-based coding of more than 8 bits per sample (JPEG Extended), which `jpeg-decoder` does not have.
fn extended(data: &[u8], header: &Header) -> Result<Vec<u16>, ImageError> {
    let max_bytes = 2 * usize::from(header.rows) * usize::from(header.columns) * usize::from(header.samples);
    let raster = openreadout_codecs::jpeg_decode_limited(data, max_bytes)
        .map_err(|error| undecodable(plain_reason("the embedded JPEG", &error)))?;
    Ok(raster.data.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// Shifts the stored bits down to bit 0 and clears other bits of the word, such as an embedded overlay.
fn mask_stored_bits(header: &Header, codec: Codec, stored: &mut StoredValues) {
    let shift = match codec {
        // RLE encodes the words of native pixel data as they are.
        Codec::Native | Codec::Rle => header.high_bit + 1 - header.bits_stored,
        Codec::Jpeg | Codec::JpegLs | Codec::Jpeg2000 => 0,
    };
    let mask = u16::MAX >> (16 - stored.bits_stored);
    stored.values.iter_mut().for_each(|value| *value = (*value >> shift) & mask);
}
