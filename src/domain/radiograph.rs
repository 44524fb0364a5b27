//! DICOM attributes and quality flags of radiographs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Attributes of a DICOM header that are stored. Nothing else of the header is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DicomAttributes {
    /// View Position (0018,5101), such as `PA`.
    pub view: Option<String>,
    /// Patient's age in whole years; 90 means 90 or older.
    pub age_years: Option<u8>,
    /// Patient's sex: `M`, `F` or `O`.
    pub sex: Option<String>,
    /// Photometric Interpretation (0028,0004) of the file.
    pub photometric_interpretation: String,
    /// Pixel spacing in mm: distance between rows, distance between columns.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// Manufacturer's Model Name (0008,1090).
    pub manufacturer_model: Option<String>,
}

/// Quality flag of a radiograph: a likely problem. Flagged images are stored unless the data set refuses the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QualityFlag {
    /// Lungs and background are brighter than spine and heart: a photographic negative, or a wrong Photometric Interpretation.
    PhotographicNegative,
    /// The header declares burned-in annotation, which may identify the patient.
    BurnedInAnnotation,
    /// Text-like marks were detected near the border; they may identify the patient.
    TextNearBorder,
    /// Lateral view; models are usually trained on frontal views.
    LateralView,
    /// The header does not identify a radiograph: the modality is missing or `OT`.
    ModalityUnclear,
    /// The header names a body part other than the chest.
    OtherBodyPart,
    /// More than 8 bits and no window: grey levels are scaled between percentiles, which may differ from the intended rendering.
    NoWindow,
    /// The pixels use less than a quarter of the grey levels, such as 12-bit values in a 16-bit file; or a DICOM lookup table does, and its
    /// values are scaled by their maximum.
    NarrowRange,
    /// The DICOM header contradicts the encoded image: transfer syntax, bits stored or colour space. The image was read as it is encoded.
    HeaderMismatch,
}

/// Field of a radiograph that two files of the same image may give differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RadiographField {
    /// Class.
    Label,
    /// Split.
    Split,
    /// Patient.
    PatientId,
    /// Projection.
    View,
}

impl std::fmt::Display for RadiographField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Label => "label",
            Self::Split => "split",
            Self::PatientId => "patient",
            Self::View => "view",
        })
    }
}

/// Darkest and brightest grey level of an image, 0 (black) to 255 (white); of the file, before a lookup table that uses little of its range
/// is scaled by its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GreyRange {
    /// Darkest grey level.
    pub low: u8,
    /// Brightest grey level.
    pub high: u8,
}

impl QualityFlag {
    /// Human-readable explanation for an image with this range of grey levels.
    pub fn explanation(self, range: GreyRange) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::PhotographicNegative => {
                "the lungs are brighter than spine and heart: the image may be a photographic negative and need inverting"
            }
            Self::BurnedInAnnotation => "the header declares burned-in annotation, which may identify the patient",
            Self::TextNearBorder => "text-like marks near the border may identify the patient",
            Self::LateralView => "lateral view: models trained on frontal views are not valid for it",
            Self::ModalityUnclear => "the header does not identify a radiograph (modality missing or OT)",
            Self::OtherBodyPart => "the header names a body part other than the chest",
            Self::NoWindow => "the header has no window: grey levels are scaled between the 0.1 and 99.9 percentiles",
            Self::NarrowRange => {
                let GreyRange { low, high } = range;
                return Cow::Owned(format!(
                    "the image uses only grey levels {low} to {high} of 0 to 255: it may hold fewer bits than its file format declares"
                ));
            }
            Self::HeaderMismatch => {
                "the DICOM header contradicts the encoded image (transfer syntax, bits or colour space), which was read as it is encoded"
            }
        })
    }
}

/// True if `view` denotes a lateral view, in any common spelling.
pub fn is_lateral(view: &str) -> bool {
    let view = view.trim().to_uppercase();
    matches!(view.as_str(), "L" | "LL" | "RL" | "LAT" | "LLD" | "RLD") || view.contains("LATERAL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateral_views_are_recognised_in_any_spelling() {
        assert!(["LL", "rl", "Lateral", "L", "Left lateral", "LAT"].into_iter().all(is_lateral));
        assert!(!["PA", "AP", "AP Supine", "AP Erect", "", "frontal"].into_iter().any(is_lateral));
    }

    #[test]
    fn flags_serialize_in_snake_case() {
        assert_eq!(serde_json::to_string(&QualityFlag::TextNearBorder).unwrap(), "\"text_near_border\"");
    }
}
