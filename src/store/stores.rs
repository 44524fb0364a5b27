//! The storage of one data folder.

use std::{path::Path, sync::Arc};

use super::{
    Blobs, Caches, CheckpointFiles, Coverage, Db, Disk, StoreError,
    data_folder::{self, identify},
};

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
    /// The disk that all of them share.
    pub disk: Disk,
    /// True if files that the database does not name may be removed.
    pub coverage: Coverage,
    pub(super) folder: Arc<Path>,
}

impl Stores {
    /// Opens the storage below `folder` and migrates its database.
    ///
    /// # Errors
    /// When the database or a folder cannot be opened.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::with(folder, Db::open(folder).await?).await
    }

    /// Opens the storage for a server: checks the structure of the database first ([`Db::open_checked`]).
    ///
    /// # Errors
    /// When the database or a folder cannot be opened.
    pub async fn open_checked(folder: &Path) -> Result<Self, StoreError> {
        Self::with(folder, Db::open_checked(folder).await?).await
    }

    async fn with(folder: &Path, db: Db) -> Result<Self, StoreError> {
        let blobs = Blobs::open(folder)?;
        let coverage = match db.damage() {
            Some(_) => Coverage::Unknown("the database is damaged".into()),
            // Nothing else depends on it: a full disk must not keep a server from starting.
            None => identify(&db, folder, &blobs)
                .await
                .unwrap_or_else(|error| Coverage::Unknown(format!("the folder cannot be marked: {error}"))),
        };
        Ok(Self {
            db,
            blobs,
            caches: Caches::new(folder),
            checkpoints: CheckpointFiles::new(folder),
            disk: Disk::of(folder),
            coverage,
            folder: folder.into(),
        })
    }

    /// Makes the database that of the folder, whatever they were before: files that it does not name may then be removed.
    ///
    /// # Errors
    /// When the database or the folder cannot be written.
    pub async fn adopt(&self) -> Result<(), StoreError> {
        data_folder::adopt(&self.db, &self.folder).await
    }
}
