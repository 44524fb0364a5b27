//! DICOM radiographs: what the header says, the stored values out of their codec, and their way to grey (PS3.3, C.7.6.3 and C.11).
//!
//! The elements are read with dicom-rs's lazy reader, which takes no memory for a value before it is asked to: the lengths in a file are
//! its sender's. Whatever this needs is held to the limits first.

mod attributes;
mod frame;
mod grey;
mod header;
mod jpeg_ls;
mod kind;
mod rle;
mod syntax;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) use attributes::names_someone;
pub(super) use syntax::is_dicom;

use super::{GreyImage, ImageError, Limits, check_size, grey::to_eight_bits, undecodable};
use crate::domain::{DicomAttributes, QualityFlag};
use header::Header;
pub use header::{Reference, reference};

/// A decoded radiograph. Of the header only what is in here outlives it.
#[derive(Clone, Debug)]
pub struct DicomRadiograph {
    /// Columns.
    pub(super) width: u32,
    /// Rows.
    pub(super) height: u32,
    /// Row by row, 0 black to 65535 white.
    pub(super) plane: Vec<u16>,
    /// What may be kept.
    pub attributes: DicomAttributes,
    /// What the header gives away.
    pub(super) flags: Vec<QualityFlag>,
    /// Patient ID, to be hashed.
    pub patient_id: Option<String>,
    /// What in the header names the patient or the examination: must not be stored, not even within a file's name.
    pub identifiers: Vec<String>,
}

impl DicomRadiograph {
    /// In eight bits, rounded as those of a PNG of sixteen are: what is stored decodes to the very same pixels.
    pub(super) fn grey(&self) -> GreyImage {
        let pixels = self.plane.iter().map(|value| to_eight_bits(*value)).collect();
        GreyImage { width: self.width, height: self.height, pixels }
    }
}

/// Reads a DICOM file, with or without preamble and meta information.
///
/// # Errors
/// Over the pixel limit; not one frame of a radiograph; a codec that is not read; damaged.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<DicomRadiograph, ImageError> {
    // The reader and the codecs of others are not proof against every file; one that trips them is the file's fault.
    catch_unwind(AssertUnwindSafe(|| read_trusting(bytes, limits)))
        .unwrap_or_else(|_| Err(undecodable("the DICOM decoder gave up")))
}

fn read_trusting(bytes: &[u8], limits: &Limits) -> Result<DicomRadiograph, ImageError> {
    let (syntax, data_set) = syntax::open(bytes, limits)?;
    let header = Header::read(&data_set, &syntax)?;
    kind::refuse_others(&header)?;
    let (width, height) = (header.columns.into(), header.rows.into());
    check_size(width, height, limits)?;
    let values = frame::values(&header, &syntax)?;
    let (plane, has_window) = grey::plane(&header, values)?;
    let mut flags = kind::flags(&header);
    if !has_window {
        flags.push(QualityFlag::NoWindow);
    }
    Ok(DicomRadiograph {
        width,
        height,
        plane,
        attributes: attributes::kept(&header),
        flags,
        patient_id: header.patient_id(),
        identifiers: attributes::identifiers(&header),
    })
}

#[cfg(test)]
mod tests;
