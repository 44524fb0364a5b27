//! Data sets: upload, import, generation from the sources of COVIDx, patient-grouped splits, duplicate detection, export, and synthetic
//! phantoms for demos and tests.

mod archive;
mod arrays;
pub mod covidx;
mod distribution;
mod duplicates;
mod export;
mod fingerprints;
mod folder;
mod import;
mod leakage;
mod npy;
mod patient;
pub mod phantom;
mod split;
mod upload;

pub use archive::{ArchiveError, ArchiveFile, count_archive, read_archive};
pub use arrays::{ARRAY_SIDES, ArraySpec, ArrayStream, Dtype, image_array, label_array};
pub use distribution::{CountedImage, DistributionTable, distribution};
pub use duplicates::{DuplicateGroup, Duplicates, duplicates};
pub use export::{ExportError, label_file};
pub use fingerprints::complete_fingerprints;
pub use folder::{PathError, resolve_below};
pub use import::{
    ClinicalRules, Generation, GenerationMethod, ImageArray, ImportRequest, ImportSource, LabelledFolder,
    RadiographyRules, RsnaRules, Rules, RulesError, SourceFolders, TestRules, array_labels, import,
};
pub use leakage::{leakage, leakage_findings};
pub use patient::PatientIds;
pub use split::{Fractions, assign, split, split_off_validation};
pub use upload::{AddError, AddOutcome, NewRadiograph, add};

use crate::{domain::ClassList, store::StoreError};

/// The class called `name`: an exact match, or the only class that differs by case.
pub fn match_class<'a>(classes: &'a ClassList, name: &str) -> Option<&'a str> {
    if let Some(index) = classes.index_of(name) {
        return Some(&classes.names()[index]);
    }
    let mut alike = classes.names().iter().filter(|class| class.to_lowercase() == name.to_lowercase());
    match (alike.next(), alike.next()) {
        (Some(class), None) => Some(class),
        _ => None,
    }
}

/// Runs a computation on the blocking thread pool.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StoreError::Blob(format!("a background computation failed: {error}")))
}
