//! Leakage between the splits of a data set, which inflates scores, and the names by which a user acknowledges it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kind of leakage between splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeakageKind {
    /// Patients with images in more than one split.
    PatientOverlap,
    /// Duplicate or near-duplicate images in different splits.
    DuplicateAcrossSplits,
}

/// Leakage found in a data set. Training on the data set requires its name in `acknowledge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeakageFinding {
    /// Kind of leakage.
    pub name: LeakageKind,
    /// Number of patients (`patient-overlap`) or groups of images (`duplicate-across-splits`).
    pub count: u64,
    /// Description of the finding and its effect on scores.
    pub detail: String,
}

impl LeakageKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::PatientOverlap, Self::DuplicateAcrossSplits];

    /// The name in `acknowledge`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PatientOverlap => "patient-overlap",
            Self::DuplicateAcrossSplits => "duplicate-across-splits",
        }
    }

    /// The finding for `count` patients or groups of images.
    pub fn finding(self, count: u64) -> LeakageFinding {
        let one = count == 1;
        let detail = match self {
            Self::PatientOverlap => format!(
                "{count} {} in more than one split: scores are inflated by patients whose images were used in training",
                if one { "patient has images" } else { "patients have images" }
            ),
            Self::DuplicateAcrossSplits => format!(
                "{count} {} in more than one split: scores are inflated by images that were used in training",
                if one { "group of duplicate images occurs" } else { "groups of duplicate images occur" }
            ),
        };
        LeakageFinding { name: self, count, detail }
    }
}

impl fmt::Display for LeakageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LeakageKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|leakage| leakage.as_str() == text)
            .ok_or_else(|| format!("unknown leakage finding {text:?}: expected one of {}", kinds()))
    }
}
