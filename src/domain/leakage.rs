//! What makes scores on a split better than they would be on new images, by the names under which it is acknowledged.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A way in which training images tell about those that are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeakageKind {
    /// A patient has images in more than one split.
    PatientOverlap,
    /// Images in different splits are the same picture, or nearly.
    DuplicateAcrossSplits,
}

/// Leakage that was found in a data set. A training run on it has to name it in `acknowledge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeakageFinding {
    /// Which.
    pub name: LeakageKind,
    /// How many patients, or groups of images.
    pub count: u64,
    /// What was found and what it means.
    pub detail: String,
}

impl LeakageKind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::PatientOverlap, Self::DuplicateAcrossSplits];

    /// The name by which it is acknowledged.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PatientOverlap => "patient-overlap",
            Self::DuplicateAcrossSplits => "duplicate-across-splits",
        }
    }

    /// What it means for `count` patients, or groups of images.
    pub fn finding(self, count: u64) -> LeakageFinding {
        let one = count == 1;
        let detail = match self {
            Self::PatientOverlap => format!(
                "{count} {} in more than one split: scores count images of people that training has seen",
                if one { "patient has images" } else { "patients have images" }
            ),
            Self::DuplicateAcrossSplits => format!(
                "{count} {} in more than one split: scores count pictures that training has seen",
                if one { "group of images that look the same is" } else { "groups of images that look the same are" }
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
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|leakage| leakage.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no finding that can be acknowledged; there are {}", known()))
    }
}
