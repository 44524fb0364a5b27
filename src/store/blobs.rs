//! Content-addressed files ("blobs"): radiographs, models and imported weights, each named by its SHA-256.
//!
//! # Invariant
//!
//! A committed row never names a missing blob, whatever runs at the same time, in this process or in another (`thorax import`).
//!
//! # Protocol
//!
//! The same bytes may belong to several data sets, so an upload can store a blob at the very moment at which the last other row that names it
//! is deleted. Therefore:
//!
//! 1. **Deleting a row removes no file.** Only [`Blobs::sweep`] does, later.
//! 2. **A writer locks the blob's folder** (`blobs/ab` for a hash that begins with `ab`) with a shared `flock` before it writes the file, and
//!    keeps the lock until the row that names the blob is committed. [`Blobs::put`] returns the lock as part of a [`StoredBlob`]. The writer
//!    writes the file even if it exists: this repairs a damaged blob, and renews its modification time.
//! 3. **A sweep removes files under the exclusive lock** of their folder. No writer is then between its file and its row. Under that lock and
//!    within a write transaction it checks again that no row names the blob, and that the blob is older than the grace period. The write
//!    transaction makes the sweep wait for a commit whose client has disconnected: such a writer has released its lock already.
//!
//! A sweep never waits for a lock: it passes over a folder in which a writer is busy, and the next sweep visits it again. With 256 folders a
//! long import delays a sweep by little, and no two sides can wait for each other. The lock is the kernel's, so that it ends with its process.
//!
//! The grace period is a second line of defence for writers that take no lock (an import by an earlier version). Without it the protocol holds
//! as well; erasing data at once is a sweep whose grace period is zero.
//!
//! The same sweep removes what a killed process left: blobs whose row was never written, and temporary files.

mod sweep;

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path as Key};
use parking_lot::Mutex;
use sha2::{Digest, Sha256 as Sha256Hasher};

use super::{StoreError, error::io_cause, files::sync_folder};
use crate::domain::Sha256;

pub use sweep::{BLOB_GRACE, SweepReport, sweep_periodically};

/// Maximum size of the blobs that [`Blobs::damaged`] reads, in bytes: it takes a fraction of a second.
const MAX_CHECKED_BYTES: u64 = 64 << 20;

/// Number of folders, one for each first byte of a hash.
const FOLDERS: usize = 256;

/// The blobs below `<data_dir>/blobs`. Clones share their locks.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    // `with_fsync`: a put writes a temporary file, syncs it, renames it and syncs the folder.
    files: Arc<LocalFileSystem>,
    /// The shared lock of each folder while any writer of this process holds it: one open file a folder, however many writers there are.
    locks: Arc<[Mutex<Weak<File>>]>,
}

/// A blob that was just stored, with the lock that protects it from sweeps. Hold it until the row that names the blob is committed.
#[derive(Debug)]
#[must_use = "hold it until the row that names the blob is committed"]
pub struct StoredBlob {
    sha256: Sha256,
    #[allow(dead_code, reason = "held, not used")]
    lock: Arc<File>,
}

impl StoredBlob {
    /// The hash that names the blob.
    pub fn sha256(&self) -> &Sha256 {
        &self.sha256
    }
}

impl Blobs {
    /// Creates `<data_dir>/blobs`.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let root = data_dir.join("blobs");
        let failed = |source| StoreError::File { path: root.clone(), source };
        create_folders(&root).map_err(failed)?;
        let files = LocalFileSystem::new_with_prefix(&root).map_err(|error| failed(io_cause(&error)))?;
        let locks = (0..FOLDERS).map(|_| Mutex::new(Weak::new())).collect();
        Ok(Self { files: Arc::new(files.with_fsync(true)), locks, root })
    }

    /// Stores the bytes under their hash. They are durable when this returns. Storing the same bytes again is allowed.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<StoredBlob, StoreError> {
        let (sha256, bytes) = digest(bytes.into()).await?;
        self.put_hashed(sha256, bytes).await
    }

    /// Stores bytes whose hash is known.
    pub async fn put_hashed(&self, sha256: Sha256, bytes: impl Into<Bytes>) -> Result<StoredBlob, StoreError> {
        let lock = self.lock_shared(&sha256).await?;
        // Even if the file exists: see the protocol above.
        self.files
            .put(&key(&sha256), PutPayload::from(bytes.into()))
            .await
            .map_err(|e| failed(&sha256, io_cause(&e)))?;
        Ok(StoredBlob { sha256, lock })
    }

    /// Reads a blob and verifies its hash.
    pub async fn get(&self, hash: &Sha256) -> Result<Vec<u8>, StoreError> {
        let read = async { self.files.get(&key(hash)).await?.bytes().await };
        let (found, bytes) = digest(read.await.map_err(|e| failed(hash, io_cause(&e)))?).await?;
        if found != *hash {
            return Err(failed(hash, io::Error::other(format!("corrupt: its bytes have the hash {found}"))));
        }
        Ok(bytes.into())
    }

    /// Length of a blob's file in bytes; `None` if the file is missing.
    pub async fn length(&self, hash: &Sha256) -> Result<Option<u64>, StoreError> {
        match tokio::fs::metadata(self.path(hash)).await {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(hash, error)),
        }
    }

    /// True if the file of a blob exists and has this length, and its bytes have the hash.
    pub async fn is_intact(&self, hash: &Sha256, length: u64) -> Result<bool, StoreError> {
        let (store, expected) = (self.clone(), hash.clone());
        let check = move || store.is_damaged(&expected, length, true);
        let damaged = tokio::task::spawn_blocking(check).await.map_err(|e| StoreError::Task(e.to_string()))?;
        Ok(!damaged.map_err(|e| failed(hash, e))?)
    }

    /// True if the file of a blob is missing or has another length, or if `check_bytes` is true and its bytes have another hash.
    fn is_damaged(&self, hash: &Sha256, length: u64, check_bytes: bool) -> io::Result<bool> {
        let mut file = match File::open(self.path(hash)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        let differs = file.metadata()?.len() != length;
        Ok(differs || check_bytes && hash_of(&mut file)?.0 != *hash)
    }

    /// Opens a blob whose bytes have its hash, for reading it piece by piece; also returns its length. A sweep does not disturb the reader.
    pub async fn open_verified(&self, hash: &Sha256) -> Result<(File, u64), StoreError> {
        let (path, expected) = (self.path(hash), hash.clone());
        let open = move || -> io::Result<(File, u64)> {
            let mut file = File::open(path)?;
            let (found, length) = hash_of(&mut file)?;
            if found != expected {
                return Err(io::Error::other(format!("corrupt: its bytes have the hash {found}")));
            }
            file.seek(io::SeekFrom::Start(0))?;
            Ok((file, length))
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(|e| failed(hash, io::Error::other(e)))?;
        opened.map_err(|e| failed(hash, e))
    }

    /// The positions of those blobs that are missing or have another length than given. Where all of them are small, their bytes are checked
    /// as well; else only those who read them find damaged bytes.
    pub async fn damaged(&self, blobs: Vec<(Sha256, u64)>) -> Result<Vec<usize>, StoreError> {
        let store = self.clone();
        let check_bytes = blobs.iter().map(|(_, length)| *length).sum::<u64>() <= MAX_CHECKED_BYTES;
        let check = move || -> Result<Vec<usize>, StoreError> {
            let mut damaged = Vec::new();
            for (at, (hash, length)) in blobs.iter().enumerate() {
                if store.is_damaged(hash, *length, check_bytes).map_err(|error| failed(hash, error))? {
                    damaged.push(at);
                }
            }
            Ok(damaged)
        };
        tokio::task::spawn_blocking(check).await.map_err(|error| StoreError::Task(error.to_string()))?
    }

    /// The file of a blob, for readers outside async code (the trainer).
    pub fn path(&self, hash: &Sha256) -> PathBuf {
        let (folder, name) = hash.as_str().split_at(2);
        self.root.join(folder).join(name)
    }

    /// The lock of a writer. Waits while a sweep removes files of the folder, which takes milliseconds.
    async fn lock_shared(&self, hash: &Sha256) -> Result<Arc<File>, StoreError> {
        let (path, folder) = (self.path(hash), folder_of(hash));
        let locks = Arc::clone(&self.locks);
        let lock = move || {
            let mut held = locks[folder].lock();
            if let Some(file) = held.upgrade() {
                return Ok(file);
            }
            let file = File::open(path.parent().unwrap_or(&path))?;
            file.lock_shared()?;
            let file = Arc::new(file);
            *held = Arc::downgrade(&file);
            Ok(file)
        };
        let locked: io::Result<_> =
            tokio::task::spawn_blocking(lock).await.map_err(|e| StoreError::Task(e.to_string()))?;
        locked.map_err(|e| failed(hash, e))
    }
}

/// The place of a blob's folder among all of them: the first byte of the hash.
fn folder_of(hash: &Sha256) -> usize {
    usize::from_str_radix(&hash.as_str()[..2], 16).unwrap_or_default()
}

fn folder_name(folder: usize) -> String {
    format!("{folder:02x}")
}

/// Creates and syncs all folders at once, so that no later put depends on a folder that another put has created but not yet synced.
fn create_folders(root: &Path) -> io::Result<()> {
    for folder in 0..FOLDERS {
        std::fs::create_dir_all(root.join(folder_name(folder)))?;
    }
    sync_folder(root)?;
    root.parent().map_or(Ok(()), sync_folder)
}

fn key(hash: &Sha256) -> Key {
    let (folder, name) = hash.as_str().split_at(2);
    Key::from_iter([folder, name])
}

/// The hash and the length of a file, read piece by piece.
fn hash_of(file: &mut File) -> io::Result<(Sha256, u64)> {
    let (mut hasher, mut length, mut buffer) = (Sha256Hasher::new(), 0, vec![0; 256 << 10]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((Sha256::from_digest(&hasher.finalize()), length));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
}

fn failed(hash: &Sha256, source: io::Error) -> StoreError {
    StoreError::Blob { sha256: hash.clone(), source }
}

/// Hashes on a blocking thread: a model of 100 MB takes tenths of a second.
async fn digest(bytes: Bytes) -> Result<(Sha256, Bytes), StoreError> {
    let hashed = tokio::task::spawn_blocking(move || (Sha256::of(&bytes), bytes)).await;
    hashed.map_err(|e| StoreError::Task(e.to_string()))
}

#[cfg(test)]
mod tests;
