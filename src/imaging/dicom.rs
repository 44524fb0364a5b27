//! DICOM radiographs: header, decoding of stored values, and the grey-scale pipeline (PS3.3, C.7.6.3 and C.11).
//!
//! Lengths in a file are untrusted. Elements are read with the lazy reader of dicom-rs, which allocates no memory for a value until it is
//! requested, and every requested value is checked against a limit first.

mod attributes;
mod character_set;
mod codec;
mod frame;
mod grey;
mod header;
mod jpeg_2000;
mod jpeg_ls;
mod kind;
mod rle;
mod syntax;
mod unknown_sequence;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) use syntax::is_dicom;

use super::{GreyImage, ImageError, Limits, check_size, grey::to_eight_bits, undecodable};
use crate::domain::{DicomAttributes, QualityFlag};
use grey::GreyPlane;
use header::Header;
pub use header::{SopInstance, sop_instance};
use syntax::DicomFile;

/// A decoded DICOM radiograph. Nothing else of the header is kept.
#[derive(Clone, Debug)]
pub struct DicomRadiograph {
    /// Width in pixels.
    pub(super) width: u32,
    /// Height in pixels.
    pub(super) height: u32,
    /// Grey levels in row-major order, 0 (black) to 65535 (white).
    pub(super) plane: Vec<u16>,
    /// Attributes that may be stored.
    pub attributes: DicomAttributes,
    /// Quality flags derived from the header.
    pub(super) flags: Vec<QualityFlag>,
    /// Fraction of its declared range that the lookup table uses: 1 unless it was scaled by its maximum.
    pub(super) table_range: f64,
    /// Patient ID; only its keyed hash may be stored.
    pub patient_id: Option<String>,
}

impl DicomRadiograph {
    /// The 8-bit image, rounded like a 16-bit PNG, so that the stored file decodes to the same pixels.
    pub(super) fn grey(&self) -> GreyImage {
        let pixels = self.plane.iter().map(|value| to_eight_bits(*value)).collect();
        GreyImage { width: self.width, height: self.height, pixels }
    }
}

/// Reads a DICOM file, with or without preamble and meta information.
///
/// # Errors
/// The image exceeds the pixel limit, is not a single-frame radiograph, uses an unsupported transfer syntax, or the file is corrupt.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<DicomRadiograph, ImageError> {
    // Third-party parsers and codecs may panic on corrupt files; such a panic is an error of the file.
    catch_unwind(AssertUnwindSafe(|| read_unguarded(bytes, limits)))
        .unwrap_or_else(|_| Err(undecodable("the DICOM decoder failed on this file")))
}

fn read_unguarded(bytes: &[u8], limits: &Limits) -> Result<DicomRadiograph, ImageError> {
    let file = DicomFile::parse(bytes)?;
    let (header, syntax) = Header::read(&file, limits)?;
    kind::check_radiograph(&header)?;
    let (width, height) = (header.columns.into(), header.rows.into());
    check_size(width, height, limits)?;
    let stored = frame::stored_values(&header, &syntax)?;
    let mismatch = stored.mismatch || !syntax.as_declared;
    let GreyPlane { plane, has_window, table_range } = grey::plane(&header, stored)?;
    let mut flags = kind::flags(&header);
    flags.extend((!has_window).then_some(QualityFlag::NoWindow));
    flags.extend((table_range < 1.0).then_some(QualityFlag::NarrowRange));
    flags.extend(mismatch.then_some(QualityFlag::HeaderMismatch));
    Ok(DicomRadiograph {
        width,
        height,
        plane,
        attributes: attributes::stored(&header),
        flags,
        table_range,
        patient_id: header.patient_id(),
    })
}

#[cfg(test)]
mod tests;
