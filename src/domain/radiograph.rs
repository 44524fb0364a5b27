//! What a file says of a radiograph beside its pixels, and what looks wrong with it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is kept of a DICOM header: this and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DicomAttributes {
    /// View Position, such as `PA`.
    pub view: Option<String>,
    /// Age of the patient in whole years; 90 stands for 90 and above.
    pub age_years: Option<u8>,
    /// `M`, `F` or `O`.
    pub sex: Option<String>,
    /// Photometric Interpretation, as the file has it.
    pub photometric_interpretation: String,
    /// Distance of rows and of columns in mm.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    /// Manufacturer's Model Name.
    pub manufacturer_model: Option<String>,
}

/// What looks wrong with a radiograph. It is kept all the same: people decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QualityFlag {
    /// Lungs and surroundings are brighter than spine and heart: a negative, or a wrong Photometric Interpretation.
    PhotographicNegative,
    /// The header says that text is burned into the image; it may name the patient.
    BurnedInAnnotation,
    /// Near the border there are marks that look like text; they may name the patient.
    TextNearBorder,
    /// A view from the side, among frontal ones.
    LateralView,
    /// The header does not say that this is a radiograph: no modality, or `OT`.
    ModalityUnclear,
    /// The header names another part of the body than the chest.
    OtherBodyPart,
    /// More than 8 bits and no window: greys are scaled between percentiles, which may differ from what the maker meant.
    NoWindow,
}

impl QualityFlag {
    /// For people.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::PhotographicNegative => {
                "the lungs are brighter than spine and heart, as in a photographic negative: invert the image if it is one"
            }
            Self::BurnedInAnnotation => "its header says that text is burned in, which may name the patient",
            Self::TextNearBorder => "marks near the border look like text, which may name the patient",
            Self::LateralView => "a lateral view; models trained on frontal views do not know it",
            Self::ModalityUnclear => "its header does not say that it is a radiograph",
            Self::OtherBodyPart => "its header names another part of the body than the chest",
            Self::NoWindow => "its header has no window; greys are scaled between the 0.1 and 99.9 percentiles",
        }
    }
}

/// Whether a view, however it is written, is one from the side.
pub fn is_lateral(view: &str) -> bool {
    let view = view.trim().to_uppercase();
    matches!(view.as_str(), "L" | "LL" | "RL" | "LAT" | "LLD" | "RLD") || view.contains("LATERAL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_from_the_side_are_told_however_they_are_written() {
        assert!(["LL", "rl", "Lateral", "L", "Left lateral", "LAT"].into_iter().all(is_lateral));
        assert!(!["PA", "AP", "AP Supine", "AP Erect", "", "frontal"].into_iter().any(is_lateral));
    }

    #[test]
    fn flags_are_written_in_snake_case() {
        assert_eq!(serde_json::to_string(&QualityFlag::TextNearBorder).unwrap(), "\"text_near_border\"");
    }
}
