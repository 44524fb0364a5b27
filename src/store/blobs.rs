//! Files named by their content.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path as Key};

use super::{StoreError, files::sync_folder};
use crate::domain::Sha256;

/// Content-addressed files below the data folder, written by temporary name, fsync and rename.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    // With `with_fsync`, its put writes a staging file, syncs it, renames it and syncs the folder: all that is asked.
    files: std::sync::Arc<LocalFileSystem>,
}

impl Blobs {
    /// Creates `<data_dir>/blobs`.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let root = data_dir.join("blobs");
        let failed = |error: std::io::Error| StoreError::Blob(format!("{}: {error}", root.display()));
        create_folders(&root).map_err(failed)?;
        let files = LocalFileSystem::new_with_prefix(&root).map_err(|e| StoreError::Blob(e.to_string()))?;
        Ok(Self { files: std::sync::Arc::new(files.with_fsync(true)), root })
    }

    /// Stores the bytes under their hash; durable when it returns. Storing twice is fine.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Sha256, StoreError> {
        let (hash, bytes) = digest(bytes.into()).await?;
        self.put_hashed(&hash, bytes).await?;
        Ok(hash)
    }

    /// The same for bytes whose hash is known.
    pub async fn put_hashed(&self, hash: &Sha256, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        // Overwriting rather than asking first whether it is there mends a blob that has decayed.
        self.files.put(&key(hash), PutPayload::from(bytes.into())).await.map_err(|e| failed(hash, e))?;
        Ok(())
    }

    /// Reads and verifies the hash.
    pub async fn get(&self, hash: &Sha256) -> Result<Vec<u8>, StoreError> {
        let read = async { self.files.get(&key(hash)).await?.bytes().await };
        let (found, bytes) = digest(read.await.map_err(|e| failed(hash, e))?).await?;
        if found != *hash {
            return Err(failed(hash, format!("corrupt: its bytes have the hash {found}")));
        }
        Ok(bytes.into())
    }

    /// Removes; a missing blob is fine.
    pub async fn remove(&self, hash: &Sha256) -> Result<(), StoreError> {
        // Without fsync: a blob that comes back after a power failure is named by no row and does no harm.
        match self.files.delete(&key(hash)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(hash, error)),
        }
    }

    /// The file of a blob, for readers outside async (the trainer).
    pub fn path(&self, hash: &Sha256) -> PathBuf {
        let (folder, name) = hash.as_str().split_at(2);
        self.root.join(folder).join(name)
    }
}

/// All 256 folders at once and synced, so that no later put depends on a folder that another put has made but not yet
/// synced.
fn create_folders(root: &Path) -> std::io::Result<()> {
    for first in 0..=u8::MAX {
        std::fs::create_dir_all(root.join(format!("{first:02x}")))?;
    }
    sync_folder(root)?;
    root.parent().map_or(Ok(()), sync_folder)
}

fn key(hash: &Sha256) -> Key {
    let (folder, name) = hash.as_str().split_at(2);
    Key::from_iter([folder, name])
}

fn failed(hash: &Sha256, why: impl std::fmt::Display) -> StoreError {
    StoreError::Blob(format!("{hash}: {why}"))
}

/// Hashes on a thread that may block: a model of 100 MB takes tenths of a second.
async fn digest(bytes: Bytes) -> Result<(Sha256, Bytes), StoreError> {
    let hashed = tokio::task::spawn_blocking(move || (Sha256::of(&bytes), bytes)).await;
    hashed.map_err(|e| StoreError::Blob(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_comes_back_under_its_hash_also_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let hash = Blobs::open(dir.path()).unwrap().put(b"a radiograph".to_vec()).await.unwrap();
        assert_eq!(hash, Sha256::of(b"a radiograph"));
        let blobs = Blobs::open(dir.path()).unwrap();
        assert_eq!(blobs.get(&hash).await.unwrap(), b"a radiograph");
        assert_eq!(std::fs::read(blobs.path(&hash)).unwrap(), b"a radiograph");
        assert!(blobs.path(&hash).starts_with(dir.path().join("blobs").join(&hash.as_str()[..2])));
    }

    #[tokio::test]
    async fn putting_twice_keeps_one_file_and_no_staging_file() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let puts = futures_util::future::join_all((0..8).map(|_| blobs.put(vec![7; 100_000]))).await;
        let hash = Sha256::of(&[7; 100_000]);
        assert!(puts.into_iter().all(|put| put.unwrap() == hash));
        let folder = blobs.path(&hash).parent().unwrap().to_owned();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
        assert_eq!(blobs.get(&hash).await.unwrap(), vec![7; 100_000]);
    }

    #[tokio::test]
    async fn a_changed_byte_is_noticed_and_putting_again_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let hash = blobs.put(b"weights".to_vec()).await.unwrap();
        std::fs::write(blobs.path(&hash), b"weighty").unwrap();
        let error = blobs.get(&hash).await.unwrap_err().to_string();
        assert!(error.contains("corrupt") && error.contains(hash.as_str()), "{error}");
        blobs.put(b"weights".to_vec()).await.unwrap();
        assert_eq!(blobs.get(&hash).await.unwrap(), b"weights");
    }

    #[tokio::test]
    async fn a_removed_blob_is_gone_and_removing_it_again_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let hash = blobs.put(Vec::new()).await.unwrap();
        blobs.remove(&hash).await.unwrap();
        blobs.remove(&hash).await.unwrap();
        assert!(matches!(blobs.get(&hash).await, Err(StoreError::Blob(_))));
    }
}
