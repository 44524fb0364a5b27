//! Attributes by which evaluated images are grouped.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Attribute by which the images of an evaluation are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupAttribute {
    /// Source of the radiograph.
    Source,
    /// Projection, such as `PA`.
    View,
    /// Sex of the patient.
    Sex,
    /// Age of the patient: `0 to 17`, `18 to 39`, `40 to 59`, `60 to 79`, `80 and more`.
    AgeBand,
    /// Longer side of the stored image in pixels, in bands by powers of two.
    Size,
    /// Format of the stored file.
    Format,
    /// Model of the scanner (DICOM).
    ScannerModel,
}
