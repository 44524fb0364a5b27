//! SQLite database, blobs, caches and checkpoint files. One file a table, with free async functions that take and return domain types.
//! Times are RFC 3339 UTC.

mod blobs;
mod caches;
mod columns;
mod data_folder;
mod db;
mod disk;
mod doctor;
mod error;
mod files;
mod maintenance;
mod prediction_log;
mod stores;

pub mod attributes;
pub mod checkpoints;
pub mod datasets;
pub mod evaluations;
pub mod events;
pub mod fingerprints;
pub mod idempotency;
pub mod imports;
pub mod losses;
pub mod models;
pub mod outcomes;
pub mod prediction_jobs;
pub mod prediction_stats;
pub mod predictions;
pub mod provenance;
pub mod radiographs;
pub mod runs;
pub mod shadows;
pub mod weights;

#[cfg(test)]
pub(crate) mod fixtures;

pub use attributes::Attributes;
pub use blobs::{BLOB_GRACE, Blobs, StoredBlob, SweepReport, sweep_periodically};
pub use caches::{CachedDocument, Caches};
pub use checkpoints::{CheckpointFiles, StoredCheckpoint, StoredFile};
pub use data_folder::{Coverage, FOLDER_FILE, PATIENT_KEY_FILE};
pub use datasets::{Dataset, Distribution};
pub use db::{Damage, Db};
pub use disk::{DEFAULT_LOW_BYTES, Disk, DiskSpace};
pub use doctor::{Diagnosis, Examination, Finding, Severity, diagnose, is_data_folder, open_permissions};
pub use error::{StorageFault, StoreError};
pub use evaluations::Evaluation;
pub use events::StoredEvent;
pub use fingerprints::HashedRadiograph;
pub use imports::{ExcludedRows, Import, ImportConflict, ImportFindings, ImportRejection, RejectionKind};
pub use maintenance::maintain;
pub use models::{AliasChange, Model};
pub use outcomes::EvaluationRecord;
pub use prediction_jobs::{JobResult, PredictionJob, RequestedEvaluation};
pub use prediction_log::{NotRecorded, PredictionLog};
pub use predictions::{ObservedPrediction, Prediction, PredictionPair};
pub use provenance::{Provenance, RunEnvironment, RunImage};
pub use radiographs::{Radiograph, RadiographExtras, RadiographFilter, RadiographPatch};
pub use runs::Run;
pub use shadows::Shadow;
pub use stores::Stores;
pub use weights::Weights;

/// A page of a list: the items after a cursor.
#[derive(Clone, Debug)]
pub struct Page {
    /// Maximum number of items.
    pub limit: u32,
    /// Identifier of the last item of the previous page.
    pub after: Option<String>,
}

impl Page {
    /// Cursor for `id > ?`. The empty text sorts before every identifier.
    fn after(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }
}
