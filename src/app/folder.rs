//! The data folder, open: database, blobs, a place for uploads on their way, and the lock that keeps two servers apart.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::AppError;
use crate::store::{Blobs, Caches, CheckpointFiles, Db};

/// An open data folder.
#[derive(Clone, Debug)]
pub struct DataFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Its database.
    pub db: Db,
    /// Its files.
    pub blobs: Blobs,
    /// What was made of them and can be made again.
    pub caches: Caches,
    /// What training runs go on from.
    pub checkpoints: CheckpointFiles,
}

/// Held by the one server of a folder; the system frees it however the process ends.
#[derive(Debug)]
pub(super) struct ServerLock(#[allow(dead_code, reason = "held, not used")] File);

impl DataFolder {
    /// Opens the folder at `path`, made when missing, and migrates its database.
    ///
    /// # Errors
    /// When the folder cannot be made or the database not be opened.
    pub async fn open(path: &Path) -> Result<Self, AppError> {
        make(path)?;
        let (db, blobs) = (Db::open(path).await?, Blobs::open(path)?);
        let (caches, checkpoints) = (Caches::new(path), CheckpointFiles::new(path));
        Ok(Self { path: path.to_owned(), db, blobs, caches, checkpoints })
    }

    /// Where it is kept to what a GPU's kernels were tuned; it may be removed while nothing runs.
    pub(super) fn tuning(&self) -> PathBuf {
        self.path.join("tuning")
    }
}

/// Takes the folder for this server.
pub(super) fn lock(folder: &Path) -> Result<ServerLock, AppError> {
    make(folder)?;
    let failed = |source| AppError::Folder { path: folder.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("server.lock"));
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(ServerLock(file)),
        Err(TryLockError::WouldBlock) => Err(AppError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// An empty place for uploads on their way; what a killed server left there goes.
pub(super) fn incoming(folder: &Path) -> Result<Arc<Path>, AppError> {
    let path = folder.join("incoming");
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(AppError::Folder { path, source }),
        _ => make(&path)?,
    }
    Ok(path.into())
}

fn make(path: &Path) -> Result<(), AppError> {
    std::fs::create_dir_all(path).map_err(|source| AppError::Folder { path: path.to_owned(), source })
}
