//! Data sets: split files, imports, generation from the sources of COVIDx, uploads, patient-grouped splits, exports, and synthetic phantoms for the demo.

mod archive;
mod arrays;
pub mod covidx;
mod distribution;
mod duplicates;
mod export;
mod folder;
mod import;
mod leakage;
mod looks;
mod npy;
mod patient;
pub mod phantom;
mod split;
mod upload;

pub use archive::{ArchiveError, ArchiveFile, count_archive, read_archive};
pub use arrays::{ArraySpec, ArrayStream, Dtype, SIDES, image_array, label_array};
pub use distribution::{Counted, DistributionTable, distribution};
pub use duplicates::{DuplicateGroup, Duplicates, duplicates};
pub use export::{ExportError, label_file};
pub use folder::{PathError, resolve_below};
pub use import::{
    ClinicalRules, GenerateBy, Generation, ImageArray, ImportFrom, ImportRequest, LabelledFolder, RadiographyRules,
    RsnaRules, Rules, RulesError, SourceFolders, TestRules, array_labels, import,
};
pub use leakage::{leakage, leakage_of};
pub use looks::complete_looks;
pub use patient::PatientIds;
pub use split::{Fractions, assign, carve_validation, split};
pub use upload::{AddError, Added, NewRadiograph, add};

use crate::{domain::ClassList, store::StoreError};

/// The class that `name` means: written exactly so, or alone in differing only by case.
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

/// Computes off the async threads.
async fn off_async<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Blob(format!("a computation gave up: {error}")))
}
