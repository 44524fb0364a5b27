//! JPEG 2000 (ITU-T T.800): decoding, and the parameters of the codestream that the decoder does not report.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
use memchr::memmem;

use super::{codec::CODESTREAM, header::Header, undecodable};
use crate::imaging::{ImageError, damage::plain_reason};

/// Parameters of a codestream.
struct Codestream {
    /// True if the samples of the first component are signed.
    signed: bool,
    /// True if the encoder applied a multiple component transformation (RGB to YCbCr), which the decoder reverses.
    colour_transformed: bool,
}

/// Decoded samples.
pub(super) struct Decoded {
    /// Interleaved samples; negative values in two's complement.
    pub(super) values: Vec<u16>,
    /// Bits per sample of the codestream.
    pub(super) precision: u16,
    /// True if the samples of the codestream are signed.
    pub(super) signed: bool,
    /// True if the samples are RGB because the decoder reversed a colour transformation.
    pub(super) is_rgb: bool,
}

/// Decodes a codestream whose size and number of components agree with the header.
pub(super) fn decode(header: &Header, data: &[u8]) -> Result<Decoded, ImageError> {
    let failed = |error: hayro_jpeg2000::DecodeError| undecodable(plain_reason("the embedded JPEG 2000", &error));
    // Some programs embed a JP2 file, whose boxes repeat what the DICOM header says, in place of its codestream.
    let data = memmem::find(data, CODESTREAM).map(|start| &data[start..]);
    let data = data.ok_or_else(|| undecodable("the embedded JPEG 2000 has no codestream"))?;
    let Codestream { signed, colour_transformed } =
        codestream(data).ok_or_else(|| undecodable("the embedded JPEG 2000 has no valid header"))?;
    let image = Image::new(data, &DecodeSettings { strict: true, ..DecodeSettings::default() }).map_err(failed)?;
    header.check_size("JPEG 2000", image.width(), image.height())?;
    let precision = u16::from(image.original_bit_depth());
    if precision > header.bits_allocated {
        return Err(undecodable(format!(
            "the embedded JPEG 2000 has {precision} bits per sample, more than Bits Allocated ({})",
            header.bits_allocated
        )));
    }
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
    // The decoder treats all samples as unsigned and adds half of the range, which moves signed samples.
    let offset = if signed { 1_i32 << (precision - 1) } else { 0 };
    let value = |value: f32| (value.round() as i32 - offset) as u16;
    let values =
        (0..components[0].len()).flat_map(|at| components.iter().map(move |samples| value(samples[at]))).collect();
    Ok(Decoded { values, precision, signed, is_rgb: colour_transformed })
}

/// Parses the main header.
fn codestream(data: &[u8]) -> Option<Codestream> {
    let (mut signed, mut colour_transformed) = (None, false);
    let mut rest = data.get(2..)?;
    loop {
        let &[0xff, marker, high, low] = rest.first_chunk::<4>()? else { return None };
        let content = rest.get(4..2 + usize::from(u16::from_be_bytes([high, low])))?;
        match marker {
            // SIZ: capabilities, eight sizes and the number of components precede the first component.
            0x51 => signed = Some(content.get(36)? & 0x80 != 0),
            // COD: style, progression order and number of layers precede the transformation.
            0x52 => colour_transformed = *content.get(4)? == 1,
            // SOT: end of the main header.
            0x90 => return Some(Codestream { signed: signed?, colour_transformed }),
            _ => {}
        }
        rest = &rest[4 + content.len()..];
    }
}
