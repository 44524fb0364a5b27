//! Data sets: upload, import, generation from the sources of COVIDx, patient-grouped splits, duplicate detection and export.

mod archive;
mod arrays;
pub mod covidx;
mod distribution;
mod duplicates;
mod export;
mod file_name;
mod fingerprints;
mod folder;
mod import;
mod leakage;
mod npy;
mod patient;
mod split;
mod text;
mod upload;

pub use archive::{ArchiveError, ArchiveFile, count_archive, read_archive};
pub use arrays::{ARRAY_SIDES, ArraySpec, ArrayStream, Dtype, image_array, label_array};
pub use distribution::{CountedImage, DistributionTable, distribution};
pub use duplicates::{DuplicateGroup, Duplicates, duplicates};
pub use export::{ExportError, label_file};
pub use file_name::{is_private, neutral_name};
pub use fingerprints::complete_fingerprints;
pub use folder::{PathError, resolve_below};
pub use import::{
    ClassMapping, ClinicalRules, Generation, GenerationMethod, ImageArray, ImportRequest, ImportSource, LabelledFolder,
    RadiographyRules, RsnaRules, Rules, RulesError, SourceFolders, TestRules, array_labels, import, unknown_target,
};
pub use leakage::{leakage, leakage_findings};
pub use patient::PatientIds;
pub use split::{Fractions, assign, split, split_off_validation};
pub use text::decode_labels;
pub use upload::{AddError, AddOutcome, NewRadiograph, add};

use crate::{domain::ClassList, store::StoreError};

/// The class called `name`: an exact match, else the only class that differs by case, else the only one that differs by case, spaces,
/// hyphens and underscores (`Viral_Pneumonia`, `COVID19`).
pub fn match_class<'a>(classes: &'a ClassList, name: &str) -> Option<&'a str> {
    match_name(classes.names(), name)
}

/// [`match_class`] among any names.
fn match_name<'a>(names: &'a [String], name: &str) -> Option<&'a str> {
    match_case(names, name).or_else(|| {
        match_by(names, name, |name| name.chars().filter(|c| !" -_".contains(*c)).collect::<String>().to_lowercase())
    })
}

/// The exact match, else the only name that differs by case.
fn match_case<'a>(names: &'a [String], name: &str) -> Option<&'a str> {
    let exact = names.iter().find(|known| *known == name);
    exact.map(String::as_str).or_else(|| match_by(names, name, str::to_lowercase))
}

/// The only name with the same key, unless the key is empty.
fn match_by<'a>(names: &'a [String], name: &str, key: impl Fn(&str) -> String) -> Option<&'a str> {
    let expected = key(name);
    let mut alike = names.iter().filter(|known| !expected.is_empty() && key(known) == expected);
    alike.next().filter(|_| alike.next().is_none()).map(String::as_str)
}

/// Runs a computation on the blocking thread pool.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Task(format!("a background computation failed: {error}")))
}
