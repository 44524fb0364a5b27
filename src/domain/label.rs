//! Classes, splits and the notice that goes with every answer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What every prediction says about itself.
pub const NOTICE: &str = "For research only. This is not a medical device and must not be used for diagnosis.";

/// The class names are unusable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidClasses(String);

/// The classes of a data set in the order of the network's outputs: two to sixteen, distinct, without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schema(value_type = Vec<String>, example = json!(["normal", "pneumonia", "COVID-19"]))]
pub struct ClassList(Vec<String>);

impl ClassList {
    /// Checks and keeps the names.
    pub fn new(names: Vec<String>) -> Result<Self, InvalidClasses> {
        let refuse = |why: String| Err(InvalidClasses(why));
        if !(2..=16).contains(&names.len()) {
            return refuse(format!("a data set has 2 to 16 classes, not {}", names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            let printable = name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
            if name.is_empty() || name.len() > 64 || !printable {
                return refuse(format!("class name {name:?}: 1 to 64 letters, digits, '-', '_' or '.'"));
            }
            if names[..i].contains(name) {
                return refuse(format!("class name {name:?} occurs twice"));
            }
        }
        Ok(Self(names))
    }

    /// The position of `name` in the network's outputs.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|class| class == name)
    }

    /// The names in output order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// How many classes there are; never fewer than two.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Default for ClassList {
    /// COVIDx: `normal`, `pneumonia`, `COVID-19`.
    fn default() -> Self {
        Self(["normal", "pneumonia", "COVID-19"].map(String::from).to_vec())
    }
}

impl TryFrom<Vec<String>> for ClassList {
    type Error = InvalidClasses;

    fn try_from(names: Vec<String>) -> Result<Self, InvalidClasses> {
        Self::new(names)
    }
}

impl From<ClassList> for Vec<String> {
    fn from(classes: ClassList) -> Self {
        classes.0
    }
}

/// Which part of a data set a radiograph belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Weights are fitted on it.
    Train,
    /// The best epoch is chosen on it.
    Validation,
    /// The reported scores come from it.
    Test,
}

impl Split {
    /// All splits, in the order they are reported.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Split {
    type Err = InvalidClasses;

    fn from_str(text: &str) -> Result<Self, InvalidClasses> {
        let known = Self::ALL.into_iter().find(|split| split.as_str() == text);
        known.ok_or_else(|| InvalidClasses(format!("split {text:?} is not train, validation or test")))
    }
}
