//! Format detection from the first bytes.

use super::{Format, dicom, png};

const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// Detects the format from the first bytes; none if it is not supported.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(png::SIGNATURE) {
        Some(Format::Png)
    } else if bytes.starts_with(JPEG_SIGNATURE) {
        Some(Format::Jpeg)
    } else if dicom::is_dicom(bytes) {
        Some(Format::Dicom)
    } else {
        None
    }
}
