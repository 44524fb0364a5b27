//! A radiograph on its way in: what networks see of it, what is stored, what its header may keep, and what looks wrong.

use image::ExtendedColorType;

use super::{
    DicomRadiograph, Format, GreyImage, ImageError, Limits, container, decode, dicom, encode, encode_png,
    quality_flags::quality_flags, strip,
};
use crate::domain::QualityFlag;

/// A decoded file and what was noticed.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Of the file.
    pub format: Format,
    /// The very pixels of [`decode`].
    pub image: GreyImage,
    /// In order, each once.
    pub flags: Vec<QualityFlag>,
    /// What a DICOM file said.
    pub dicom: Option<DicomRadiograph>,
}

/// Decodes as [`decode`] does, and looks at header and greys.
///
/// # Errors
/// Those of [`decode`].
pub fn examine(bytes: &[u8], limits: &Limits) -> Result<Examined, ImageError> {
    let (format, image, dicom) = match container::sniff(bytes) {
        Some(Format::Dicom) => {
            let dicom = dicom::read(bytes, limits)?;
            (Format::Dicom, dicom.grey(), Some(dicom))
        }
        _ => {
            let (format, image) = decode(bytes, limits)?;
            (format, image, None)
        }
    };
    let mut flags = quality_flags(&image);
    flags.extend(dicom.iter().flat_map(|dicom| &dicom.flags));
    flags.sort();
    flags.dedup();
    Ok(Examined { format, image, flags, dicom })
}

impl Examined {
    /// What may be stored of the file, which [`decode`] turns into the same pixels: a PNG or JPEG without its texts and
    /// profiles, the grey of a DICOM as a PNG of 8 bits, or of 16 where 8 do not hold it, and the grey of a JPEG that is so damaged that its
    /// parts cannot be told from each other, though it can be decoded.
    ///
    /// # Errors
    /// When a PNG's parts cannot be told from each other.
    pub fn storable(&self, bytes: &[u8]) -> Result<(Format, Vec<u8>), ImageError> {
        match (&self.dicom, self.format) {
            (Some(dicom), _) => Ok((Format::Png, encode_plane(dicom))),
            (None, Format::Jpeg) => match strip::jpeg(bytes) {
                Ok(stripped) => Ok((Format::Jpeg, stripped)),
                Err(_) => Ok((Format::Png, encode_png(&self.image))),
            },
            (None, _) => Ok((Format::Png, strip::png(bytes)?)),
        }
    }
}

impl DicomRadiograph {
    /// A file's name, or one that says nothing if something in the header would be found in it.
    pub fn harmless_name(&self, name: &str) -> String {
        let names = dicom::names_someone(name, &self.identifiers);
        if names { "radiograph.dcm".to_owned() } else { name.to_owned() }
    }
}

fn encode_plane(DicomRadiograph { width, height, plane, .. }: &DicomRadiograph) -> Vec<u8> {
    // A value of 8 bits is one of 16 that begins and ends alike.
    let (colour, bytes) = if plane.iter().all(|value| value % 257 == 0) {
        (ExtendedColorType::L8, plane.iter().map(|value| (value / 257) as u8).collect::<Vec<_>>())
    } else {
        (ExtendedColorType::L16, plane.iter().flat_map(|value| value.to_ne_bytes()).collect())
    };
    encode(*width, *height, &bytes, colour)
}
