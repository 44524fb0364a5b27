//! The data folder, open: database, blobs, the key of the patients, a place for uploads on their way, and the lock that keeps two servers apart.

use std::{
    fs::{File, TryLockError},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::TryRngCore;

use super::AppError;
use crate::{
    dataset::PatientIds,
    store::{self, Db, StoreError, Stores},
};

/// Name of the file with the generated key of the patients.
const PATIENT_KEY: &str = "patient.key";

/// An open data folder.
#[derive(Clone, Debug)]
pub struct DataFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Its storage.
    pub stores: Stores,
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
        Ok(Self { path: path.to_owned(), stores: Stores::open(path).await? })
    }

    /// Where it is kept to what a GPU's kernels were tuned; it may be removed while nothing runs.
    pub(super) fn tuning(&self) -> PathBuf {
        self.path.join("tuning")
    }

    /// How patient ids are stored: under the operator's key, or else under the folder's own, generated when there is none.
    ///
    /// # Errors
    /// When the folder's key cannot be read or written.
    pub fn patient_ids(&self, operators_key: Option<&str>) -> Result<PatientIds, AppError> {
        Ok(PatientIds::new(match operators_key {
            Some(key) => key.as_bytes().to_vec(),
            None => own_key(&self.path.join(PATIENT_KEY))?,
        }))
    }
}

/// Hashes patient ids that an earlier version kept as they came. It hashed only where the operator had set a key, so that without one
/// nothing can be a hash yet.
pub(super) async fn hash_earlier_patients(db: &Db, ids: &PatientIds, operators_key: bool) -> Result<(), StoreError> {
    let is_hash = |id: &str| operators_key && PatientIds::is_hash(id);
    let rows = store::radiographs::hash_patient_ids(db, |id| ids.stored(id), is_hash).await?;
    if rows > 0 {
        tracing::warn!(rows, "patient ids stored by an earlier version are keyed hashes now");
    }
    Ok(())
}

/// The key in the file. The first process to ask makes it, whole before it has its name, and readable by its owner alone.
fn own_key(path: &Path) -> Result<Vec<u8>, AppError> {
    let failed = |source| AppError::Folder { path: path.to_owned(), source };
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        key => return key.map_err(failed),
    }
    let draft = path.with_extension(format!("key.{}", std::process::id()));
    let mut key = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut key).map_err(|error| failed(std::io::Error::other(error)))?;
    let text = crate::domain::hex(&key);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link fails where another process was first; then its key holds.
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => std::fs::read(path),
        }
    };
    write().map_err(failed)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_folder_makes_its_own_patient_key_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).await.unwrap();
        let first = folder.patient_ids(None).unwrap().stored("Jane");
        assert_eq!(folder.patient_ids(None).unwrap().stored("Jane"), first);
        let mode = dir.path().join(PATIENT_KEY).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(folder.patient_ids(Some("the operator's")).unwrap().stored("Jane"), first);
        let other = tempfile::tempdir().unwrap();
        let other = DataFolder::open(other.path()).await.unwrap();
        assert_ne!(other.patient_ids(None).unwrap().stored("Jane"), first, "each folder has its own");
    }
}
