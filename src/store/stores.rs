//! The storage of one data folder.

use std::path::Path;

use super::{Blobs, Caches, CheckpointFiles, Db, StoreError};

/// The storage of a data folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Metadata.
    pub db: Db,
    /// Images, models and weights, named by their content.
    pub blobs: Blobs,
    /// Decoded images and reports by data set; all of it can be made again.
    pub caches: Caches,
    /// Checkpoints of training runs.
    pub checkpoints: CheckpointFiles,
}

impl Stores {
    /// Opens the storage below `folder`, which must exist, and migrates its database.
    ///
    /// # Errors
    /// When the database or a folder cannot be opened.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            db: Db::open(folder).await?,
            blobs: Blobs::open(folder)?,
            caches: Caches::new(folder),
            checkpoints: CheckpointFiles::new(folder),
        })
    }
}
