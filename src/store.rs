//! SQLite database, blobs, caches and checkpoint files. One file a table, with free async functions that take and return domain types.
//! Times are RFC 3339 UTC.

mod blobs;
mod caches;
mod columns;
mod db;
mod files;
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
pub use datasets::{Dataset, Distribution};
pub use db::Db;
pub use evaluations::Evaluation;
pub use events::StoredEvent;
pub use fingerprints::HashedRadiograph;
pub use imports::{ExcludedRows, Import, ImportConflict, ImportFindings, ImportRejection, RejectionKind};
pub use models::{AliasChange, Model};
pub use outcomes::EvaluationRecord;
pub use prediction_jobs::{JobResult, PredictionJob};
pub use prediction_log::{PredictionLog, QueueFull};
pub use predictions::{ObservedPrediction, Prediction, PredictionPair};
pub use provenance::{Provenance, RunEnvironment, RunImage};
pub use radiographs::{Radiograph, RadiographExtras, RadiographFilter, RadiographPatch};
pub use runs::Run;
pub use shadows::Shadow;
pub use stores::Stores;
pub use weights::Weights;

use crate::domain::InvalidTransition;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed; `RowNotFound` when the row to change does not exist.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A blob could not be written or read.
    #[error("blob: {0}")]
    Blob(String),
    /// A cache could not be read, written or removed.
    #[error("cache {path}: {source}")]
    Cache {
        /// Path of the file or folder.
        path: std::path::PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file could not be read, written or removed.
    #[error("{path}: {source}")]
    File {
        /// Path of the file or folder.
        path: std::path::PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A row that this version cannot read, or a value that cannot be stored in a way in which it can be read back.
    #[error("row: {0}")]
    Row(String),
    /// A unique name is in use.
    #[error("{0} already exists")]
    Exists(&'static str),
    /// Something refers to the row that was to be deleted.
    #[error("{0}")]
    InUse(&'static str),
    /// A change of status that is not legal.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
}

impl StoreError {
    /// True if the disk is full or fails, so that the same write may succeed later.
    pub fn is_disk_error(&self) -> bool {
        let code = |error: &dyn sqlx::error::DatabaseError| error.code().and_then(|code| code.parse::<u32>().ok());
        match self {
            Self::File { .. } | Self::Blob(_) | Self::Database(sqlx::Error::Io(_)) => true,
            // SQLite's primary result codes: I/O error, full, cannot open, read-only.
            Self::Database(sqlx::Error::Database(error)) => {
                code(error.as_ref()).is_some_and(|code| matches!(code & 0xff, 8 | 10 | 13 | 14))
            }
            _ => false,
        }
    }

    /// True where the state of the data does not allow the change: a retry cannot succeed. The error message gives the reason.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::InUse(_) | Self::InvalidTransition(_))
    }

    /// Turns the violation of a unique constraint into `Exists`; other errors pass through.
    fn from_insert(error: sqlx::Error, what: &'static str) -> Self {
        let exists = error.as_database_error().is_some_and(|e| e.is_unique_violation());
        if exists { Self::Exists(what) } else { error.into() }
    }
}

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
