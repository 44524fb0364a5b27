//! The data folder: database, blobs, caches, the patient key, temporary uploads, and the lock that admits one server at a time.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::TryRngCore;

use super::AppError;
use crate::{
    dataset::PatientIds,
    store::{self, Db, PATIENT_KEY_FILE, StorageFault, StoreError, Stores},
};

/// An open data folder.
#[derive(Clone, Debug)]
pub struct DataFolder {
    /// Path of the folder.
    pub path: PathBuf,
    /// Database, blobs, caches and checkpoints.
    pub stores: Stores,
}

/// Exclusive lock of a server on its data folder. The operating system releases it when the process ends, in any way.
#[derive(Debug)]
pub(super) struct ServerLock(#[allow(dead_code, reason = "an open file holds the lock")] File);

impl DataFolder {
    /// Opens the folder at `path`, creates it if missing, and migrates the database.
    ///
    /// # Errors
    /// If the folder cannot be created or the database cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, AppError> {
        create(path)?;
        refuse_without_database(path)?;
        let stores = Stores::open(path).await.map_err(|source| unusable(path, source))?;
        Ok(Self { path: path.to_owned(), stores })
    }

    /// Opens the folder for a server: a damaged database is detected, and then only read.
    ///
    /// # Errors
    /// If the folder cannot be created, the database cannot be opened, or it is missing from a folder that needs one.
    pub(super) async fn open_for_server(path: &Path) -> Result<Self, AppError> {
        create(path)?;
        refuse_without_database(path)?;
        if let Some(warning) = store::open_permissions(path) {
            tracing::warn!("{warning}");
        }
        let stores = Stores::open_checked(path).await.map_err(|source| unusable(path, source))?;
        Ok(Self { path: path.to_owned(), stores })
    }

    /// Directory of the GPU autotune cache; safe to delete while no process uses the folder.
    pub(super) fn autotune_cache(&self) -> PathBuf {
        self.path.join("tuning")
    }

    /// Hashing of patient ids with the operator's key or, without one, with the key in the folder, generated on first use.
    ///
    /// # Errors
    /// If the key in the folder cannot be read or written, or is missing although the database has hashes that were made with it.
    pub async fn patient_ids(&self, operators_key: Option<&str>) -> Result<PatientIds, AppError> {
        let path = self.path.join(PATIENT_KEY_FILE);
        if let Some(key) = operators_key {
            return Ok(PatientIds::new(key.as_bytes().to_vec()));
        }
        if !path.exists() {
            match store::radiographs::has_hashed_patients(&self.stores.db).await {
                Ok(false) => {}
                Ok(true) => return Err(AppError::PatientKeyMissing(self.path.clone())),
                // Nothing is written to a damaged database, so that nothing is hashed: the missing key stays missing.
                Err(error) if self.stores.db.damage().is_some() => {
                    tracing::warn!(%error, "{PATIENT_KEY_FILE} is missing");
                    return Ok(PatientIds::new(random_key(&path)?.into_bytes()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(PatientIds::new(folder_key(&path)?))
    }

    /// Accepts the folder as it is: makes its database that of the folder, and makes a new patient key if there is none.
    ///
    /// # Errors
    /// When the database or the folder cannot be written.
    pub async fn adopt(&self, operators_key: Option<&str>) -> Result<(), AppError> {
        self.stores.adopt().await?;
        if operators_key.is_none() {
            folder_key(&self.path.join(PATIENT_KEY_FILE))?;
        }
        Ok(())
    }
}

/// Refuses a folder with files of a database that is missing. A new, empty database would hide them, and its sweeps would remove them.
fn refuse_without_database(folder: &Path) -> Result<(), AppError> {
    if Db::exists(folder) {
        return Ok(());
    }
    let has_files = |name: &str| has_files_below(&folder.join(name));
    let mut found: Vec<&str> = ["blobs", "runs", "jobs"].into_iter().filter(|name| has_files(name)).collect();
    if folder.join("thorax.sqlite-wal").metadata().is_ok_and(|file| file.len() > 0) {
        found.push("thorax.sqlite-wal");
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(AppError::DatabaseMissing { folder: folder.to_owned(), found: found.join(", ") })
}

/// True if there is a file in the folder or in a folder in it.
fn has_files_below(folder: &Path) -> bool {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(folder).any(|path| path.is_file() || entries(&path).any(|path| path.is_file()))
}

/// The error for storage that cannot be opened, with what to do.
fn unusable(folder: &Path, source: StoreError) -> AppError {
    let folder = folder.to_owned();
    match source.fault() {
        Some(StorageFault::Damaged) => AppError::DatabaseDamaged { folder, source },
        Some(StorageFault::Full) => AppError::DiskFull { folder, source },
        Some(fault) => AppError::Storage { folder, fault, source },
        None => source.into(),
    }
}

/// Hashes patient ids that an earlier version stored in plain text. That version hashed ids only under an operator's key, so
/// without one no stored id can be a hash yet.
pub(super) async fn hash_earlier_patients(db: &Db, ids: &PatientIds, operators_key: bool) -> Result<(), StoreError> {
    let is_hash = |id: &str| operators_key && PatientIds::is_hash(id);
    let rows = store::radiographs::hash_patient_ids(db, |id| ids.stored(id), is_hash).await?;
    if rows > 0 {
        tracing::warn!(rows, "hashed patient ids that an earlier version stored in plain text");
    }
    Ok(())
}

/// Reads the key from the file, or generates it, readable only by its owner. Concurrent processes get the same key: a new key is
/// written to a temporary file, then linked to `path`.
fn folder_key(path: &Path) -> Result<Vec<u8>, AppError> {
    let failed = |source| AppError::Folder { path: path.to_owned(), source };
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        key => return key.map_err(failed),
    }
    let temporary = path.with_extension(format!("key.{}", std::process::id()));
    let key = random_key(path)?;
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(key.as_bytes())?;
        file.sync_all()?;
        // Linking fails if another process was first. Then its key is used.
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => std::fs::read(path),
        }
    };
    write().map_err(failed)
}

/// A new key, in hexadecimal digits. `path` is for the error.
fn random_key(path: &Path) -> Result<String, AppError> {
    let mut key = [0; 32];
    let failed = |error| AppError::Folder { path: path.to_owned(), source: std::io::Error::other(error) };
    rand::rngs::OsRng.try_fill_bytes(&mut key).map_err(failed)?;
    Ok(hex::encode(key))
}

/// Locks the folder for this server.
pub(super) fn lock(folder: &Path) -> Result<ServerLock, AppError> {
    create(folder)?;
    let failed = |source| AppError::Folder { path: folder.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("server.lock"));
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(ServerLock(file)),
        Err(TryLockError::WouldBlock) => Err(AppError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Creates a directory for uploads in progress, and deletes what a killed server left in it.
pub(super) fn incoming(folder: &Path) -> Result<Arc<Path>, AppError> {
    let path = folder.join("incoming");
    create(&path)?;
    let empty = || {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            if is_folder { std::fs::remove_dir_all(entry.path())? } else { std::fs::remove_file(entry.path())? }
        }
        Ok(())
    };
    empty().map_err(|source| AppError::Folder { path: path.clone(), source })?;
    Ok(path.into())
}

/// Creates a folder for its owner only.
fn create(path: &Path) -> Result<(), AppError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| AppError::Folder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn generates_one_patient_key_per_folder_readable_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).await.unwrap();
        let first = folder.patient_ids(None).await.unwrap().stored("Jane");
        assert_eq!(folder.patient_ids(None).await.unwrap().stored("Jane"), first);
        let mode = dir.path().join(PATIENT_KEY_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(folder.patient_ids(Some("the operator's")).await.unwrap().stored("Jane"), first);
        let other = tempfile::tempdir().unwrap();
        let other = DataFolder::open(other.path()).await.unwrap();
        assert_ne!(other.patient_ids(None).await.unwrap().stored("Jane"), first, "another folder has another key");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused_with_what_to_do() {
        const READ_ONLY: i32 = 30;
        let source = std::io::Error::from_raw_os_error(READ_ONLY);
        let message = AppError::Folder { path: "ro".into(), source }.to_string();
        assert!(message.starts_with("cannot use ro for the data folder: Read-only file system"), "{message}");
        assert!(message.contains("--data-dir"), "{message}");
    }
}
