//! Examination of an uploaded radiograph: pixels, quality flags, DICOM attributes, and the de-identified file to store.

use image::ExtendedColorType;

use super::{
    DecodedImage, DicomRadiograph, Format, GreyImage, ImageError, Limits, container, dicom, encode, encode_png, jpeg,
    png,
    quality_flags::{grey_range, quality_flags},
    strip,
};
use crate::domain::{GreyRange, QualityFlag};

/// A decoded radiograph with its quality flags.
#[derive(Clone, Debug)]
pub struct ExaminedImage {
    /// Format of the file.
    pub format: Format,
    /// Pixels, identical to those of [`decode`](super::decode).
    pub image: GreyImage,
    /// Quality flags, sorted, without duplicates.
    pub flags: Vec<QualityFlag>,
    /// Range of grey levels.
    pub grey_range: GreyRange,
    /// Data of a DICOM file; none for PNG and JPEG.
    pub dicom: Option<DicomRadiograph>,
    /// True if the file is marked as a synthetic phantom.
    pub synthetic: bool,
    /// True if image viewers show the file as the same picture.
    viewers_agree: bool,
}

/// Decodes a file like [`decode`](super::decode), and derives quality flags from its header and pixels.
///
/// # Errors
/// Those of [`decode`](super::decode).
pub fn examine(bytes: &[u8], limits: &Limits) -> Result<ExaminedImage, ImageError> {
    let format = container::sniff(bytes).ok_or(ImageError::UnsupportedType)?;
    let (decoded, dicom) = match format {
        Format::Dicom => {
            let dicom = dicom::read(bytes, limits)?;
            (DecodedImage { image: dicom.grey(), viewers_agree: true, synthetic: false }, Some(dicom))
        }
        Format::Png => (png::read(bytes, limits)?, None),
        Format::Jpeg => (jpeg::read(bytes, limits)?, None),
    };
    let DecodedImage { image, viewers_agree, synthetic } = decoded;
    let mut flags = quality_flags(&image);
    flags.extend(dicom.iter().flat_map(|dicom| &dicom.flags));
    flags.sort();
    flags.dedup();
    let GreyRange { low, high } = grey_range(&image);
    let declared = |grey: u8| (f64::from(grey) * dicom.as_ref().map_or(1.0, |dicom| dicom.table_range)).round() as u8;
    let grey_range = GreyRange { low: declared(low), high: declared(high) };
    Ok(ExaminedImage { format, image, flags, grey_range, dicom, synthetic, viewers_agree })
}

impl ExaminedImage {
    /// The de-identified file to store, which [`decode`](super::decode) decodes to the same pixels and which image viewers show as the same
    /// image: a PNG or JPEG without metadata, or the grey plane of a DICOM file as PNG of 8 bits (of 16, if 8 lose information). Files
    /// that viewers would show differently, and a JPEG whose segments cannot be parsed, are stored as PNG of their decoded pixels.
    ///
    /// # Errors
    /// The chunks of a PNG cannot be parsed.
    pub fn deidentified(&self, bytes: &[u8]) -> Result<(Format, Vec<u8>), ImageError> {
        match (&self.dicom, self.format) {
            (Some(dicom), _) => Ok((Format::Png, encode_plane(dicom))),
            (None, _) if !self.viewers_agree => Ok((Format::Png, encode_png(&self.image))),
            (None, Format::Jpeg) => match strip::jpeg_file(bytes) {
                Ok(stripped) => Ok((Format::Jpeg, stripped)),
                Err(_) => Ok((Format::Png, encode_png(&self.image))),
            },
            (None, _) => Ok((Format::Png, strip::png_file(bytes)?)),
        }
    }
}

fn encode_plane(DicomRadiograph { width, height, plane, .. }: &DicomRadiograph) -> Vec<u8> {
    // An 8-bit value v corresponds to the 16-bit value 257 v.
    let (colour, bytes) = if plane.iter().all(|value| value % 257 == 0) {
        (ExtendedColorType::L8, plane.iter().map(|value| (value / 257) as u8).collect::<Vec<_>>())
    } else {
        (ExtendedColorType::L16, plane.iter().flat_map(|value| value.to_ne_bytes()).collect())
    };
    encode(*width, *height, &bytes, colour)
}
