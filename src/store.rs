//! The database, the blobs and the folders of caches: one file a table, free async functions that take and return the field's words.
//! Times are RFC 3339 UTC.

mod blobs;
mod caches;
mod columns;
mod db;
mod files;
mod prediction_log;

pub mod attributes;
pub mod checkpoints;
pub mod datasets;
pub mod evaluations;
pub mod events;
pub mod imports;
pub mod live;
pub mod looks;
pub mod losses;
pub mod models;
pub mod outcomes;
pub mod prediction_jobs;
pub mod predictions;
pub mod provenance;
pub mod radiographs;
pub mod runs;
pub mod shadows;
pub mod weights;

#[cfg(test)]
pub(crate) mod fixtures;

pub use attributes::Attributes;
pub use blobs::{BLOB_GRACE, Blobs, StoredBlob, Swept, sweep_periodically};
pub use caches::{Caches, Kept};
pub use checkpoints::{CheckpointFiles, StoredCheckpoint, StoredFile};
pub use datasets::{Dataset, Distribution};
pub use db::Db;
pub use evaluations::Evaluation;
pub use events::StoredEvent;
pub use imports::{Import, ImportRejection, PassedOver, RejectionKind};
pub use looks::HashedRadiograph;
pub use models::{AliasMove, Model};
pub use outcomes::Evaluated;
pub use prediction_jobs::{JobResult, PredictionJob};
pub use prediction_log::{NotRecorded, PredictionLog};
pub use predictions::{AnswerPair, Observed, Prediction};
pub use provenance::{Origin, Provenance, RunImage};
pub use radiographs::{Beside, Radiograph, RadiographFilter, RadiographPatch};
pub use runs::Run;
pub use shadows::Shadow;
pub use weights::Weights;

use crate::domain::InvalidTransition;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or is gone; `RowNotFound` when the row to change is not there.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A file could not be written or read.
    #[error("blob: {0}")]
    Blob(String),
    /// A folder of what can be made again could not be read or removed.
    #[error("cache {path}: {source}")]
    Cache {
        /// Which.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of a run could not be written or read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A row that this version cannot read, or a value that it could not read back.
    #[error("row: {0}")]
    Row(String),
    /// A unique name is taken.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// Something still refers to it.
    #[error("{0}")]
    InUse(&'static str),
    /// The run's state does not allow the move.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
}

impl StoreError {
    /// The disk is full or fails: what was to be written may be written later.
    pub fn is_of_the_disk(&self) -> bool {
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

    /// Names the thing whose unique name is taken; other errors pass through.
    fn from_insert(error: sqlx::Error, what: &'static str) -> Self {
        let taken = error.as_database_error().is_some_and(|e| e.is_unique_violation());
        if taken { Self::Exists(what) } else { error.into() }
    }
}

/// A page of a list: items after a cursor.
#[derive(Clone, Debug)]
pub struct Page {
    /// 1 to 200.
    pub limit: u32,
    /// The id of the last item seen.
    pub after: Option<String>,
}

impl Page {
    /// What `id > ?` compares with: the empty text sorts before every identifier.
    fn after(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }
}
