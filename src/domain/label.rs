//! Classes, splits, and the notice that accompanies every prediction.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, Object, RefOr, Schema, Type},
};

/// The research-only notice in every response with predictions.
pub const NOTICE: &str = "For research only. This is not a medical device and must not be used for diagnosis.";

/// Maximum length of a text field of a radiograph (file name, patient id, source, view, ...), in characters.
pub const MAX_TEXT_LENGTH: usize = 255;

/// Invalid list of classes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidClasses(String);

/// Unknown name of a split.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("split must be train, validation or test (got {0:?})")]
pub struct InvalidSplit(String);

/// The classes of a data set in the order of the network outputs: 2 to 16 distinct names of 1 to 64 letters, digits, `-`,
/// `_`, `.` or single spaces between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ClassList(Vec<String>);

/// Maximum length of a class name, in characters.
const MAX_NAME_LENGTH: usize = 64;

impl PartialSchema for ClassList {
    fn schema() -> RefOr<Schema> {
        let name = Object::builder()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX_NAME_LENGTH))
            .pattern(Some(r"^\S+( \S+)*$"));
        let classes = Array::builder().items(name).min_items(Some(2)).max_items(Some(16)).unique_items(true);
        let description = "The classes of a data set in the order of the network outputs: 2 to 16 distinct names of 1 to 64 letters, \
                           digits, `-`, `_`, `.` or single spaces between them.";
        classes
            .description(Some(description))
            .examples([serde_json::json!(["normal", "pneumonia", "COVID-19"])])
            .build()
            .into()
    }
}

impl ToSchema for ClassList {}

impl ClassList {
    /// Validates the names.
    ///
    /// # Errors
    /// The number of classes or a name is invalid, or a name occurs twice.
    pub fn new(names: Vec<String>) -> Result<Self, InvalidClasses> {
        let invalid = |why: String| Err(InvalidClasses(why));
        if !(2..=16).contains(&names.len()) {
            return invalid(format!("a data set must have between 2 and 16 classes (got {})", names.len()));
        }
        for (i, name) in names.iter().enumerate() {
            // Single spaces only, so that a label file, whose columns are separated by spaces, can represent the name.
            let valid = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
            if name.chars().count() > MAX_NAME_LENGTH || !name.split(' ').all(valid) {
                return invalid(format!(
                    "a class name must be 1 to 64 letters, digits, '-', '_', '.' or single spaces (got {name:?})"
                ));
            }
            if names[..i].contains(name) {
                return invalid(format!("class name {name:?} occurs twice"));
            }
        }
        Ok(Self(names))
    }

    /// The index of the class `name` in the network outputs.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|class| class == name)
    }

    /// The names in output order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The number of classes, at least 2.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Default for ClassList {
    /// The classes of COVIDx: `normal`, `pneumonia`, `COVID-19`.
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

/// Split (subset) of a data set: `train`, `validation` or `test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training split, on which weights are fitted.
    Train,
    /// Validation split, on which the best epoch is selected.
    Validation,
    /// Test split, on which the reported scores are computed.
    Test,
}

impl Split {
    /// All splits in reporting order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name in the database and in the HTTP API.
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
    type Err = InvalidSplit;

    fn from_str(text: &str) -> Result<Self, InvalidSplit> {
        Self::ALL.into_iter().find(|split| split.as_str() == text).ok_or_else(|| InvalidSplit(text.to_owned()))
    }
}
