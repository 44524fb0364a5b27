//! Caches, a folder for each data set: decoded and resized images of training, and reports.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    Db, StoreError, datasets,
    files::{entries, unless_missing},
};
use crate::domain::{DatasetId, Sha256};

/// Extension of a file that is not complete yet.
const UNFINISHED: &str = "partial";

/// A document that is computed from a whole data set and cached until the data set changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedDocument {
    /// Audit report.
    Report,
    /// Leakage that a run has to acknowledge.
    Leakage,
}

impl CachedDocument {
    /// Prefix of the names of its files.
    fn prefix(self) -> &'static str {
        match self {
            Self::Report => "report-",
            Self::Leakage => "leakage-",
        }
    }

    fn file_name(self, key: &Sha256) -> String {
        format!("{}{key}.json", self.prefix())
    }
}

/// The folders below `<data_dir>/cache`. They can be deleted whenever no run trains.
#[derive(Clone, Debug)]
pub struct Caches {
    root: PathBuf,
    compute_lock: Arc<Mutex<()>>,
}

impl Caches {
    /// Creates no folder: the first write does.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("cache"), compute_lock: Arc::default() }
    }

    /// Folder of a data set, for the trainer.
    pub fn folder(&self, dataset: DatasetId) -> PathBuf {
        self.root.join(dataset.to_string())
    }

    /// Lock for a computation that uses all cores: one at a time in this process.
    pub async fn lock_compute(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.compute_lock).lock_owned().await
    }

    /// The document that was stored under `key`, if any.
    pub async fn get(
        &self,
        dataset: DatasetId,
        document: CachedDocument,
        key: &Sha256,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.folder(dataset).join(document.file_name(key));
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path)(error)),
        }
    }

    /// Stores a document under `key` in place of the previous one. A reader sees all of it or nothing.
    pub async fn put(
        &self,
        dataset: DatasetId,
        document: CachedDocument,
        key: &Sha256,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let folder = self.folder(dataset);
        let path = folder.join(document.file_name(key));
        let unfinished = path.with_extension(UNFINISHED);
        let write = async {
            tokio::fs::create_dir_all(&folder).await?;
            tokio::fs::write(&unfinished, bytes).await?;
            tokio::fs::rename(&unfinished, &path).await?;
            for other in entries(&folder).await? {
                let name = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if other != path && name.starts_with(document.prefix()) && name.ends_with(".json") {
                    unless_missing(tokio::fs::remove_file(&other).await)?;
                }
            }
            Ok(())
        };
        write.await.map_err(failed(&folder))
    }

    /// Removes the cache of a data set, if there is one.
    pub async fn remove(&self, dataset: DatasetId) -> Result<(), StoreError> {
        let path = self.folder(dataset);
        unless_missing(tokio::fs::remove_dir_all(&path).await).map_err(failed(&path))
    }

    /// Removes incomplete files and folders of deleted data sets, which killed processes left. Not to be called during training.
    pub async fn sweep(&self, db: &Db) -> Result<(), StoreError> {
        for folder in entries(&self.root).await.map_err(failed(&self.root))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            // Folders of other names were not created by this program.
            let Ok(dataset) = name.parse() else { continue };
            match datasets::get(db, dataset).await? {
                Some(_) => remove_unfinished(&folder).await.map_err(failed(&folder))?,
                None => self.remove(dataset).await?,
            }
        }
        Ok(())
    }
}

async fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for path in entries(folder).await? {
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            tokio::fs::remove_file(path).await?;
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Cache { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures;

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "something").unwrap();
    }

    #[tokio::test]
    async fn removes_the_cache_of_one_data_set_whether_or_not_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path());
        let (one, other) = (DatasetId::new(), DatasetId::new());
        caches.remove(one).await.unwrap();
        write(&caches.folder(one).join("128-a.grey"));
        write(&caches.folder(other).join("128-a.grey"));
        caches.remove(one).await.unwrap();
        assert!(!caches.folder(one).exists());
        assert!(caches.folder(other).join("128-a.grey").is_file());
    }

    #[tokio::test]
    async fn a_document_replaces_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        let (caches, dataset) = (Caches::new(dir.path()), DatasetId::new());
        let [first, second] = [b"1", b"2"].map(|key| Sha256::of(key));
        assert_eq!(caches.get(dataset, CachedDocument::Report, &first).await.unwrap(), None);
        caches.put(dataset, CachedDocument::Report, &first, b"one").await.unwrap();
        write(&caches.folder(dataset).join("128-a.grey"));
        caches.put(dataset, CachedDocument::Report, &second, b"two").await.unwrap();
        assert_eq!(caches.get(dataset, CachedDocument::Report, &first).await.unwrap(), None);
        assert_eq!(caches.get(dataset, CachedDocument::Report, &second).await.unwrap(), Some(b"two".to_vec()));
        assert_eq!(entries(&caches.folder(dataset)).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_sweep_removes_incomplete_files_and_folders_of_deleted_data_sets() {
        let (dir, db) = fixtures::db().await;
        let caches = Caches::new(dir.path());
        caches.sweep(&db).await.unwrap();
        let existing = caches.folder(fixtures::stored_dataset(&db).await.id);
        let deleted = caches.folder(DatasetId::new());
        let foreign = dir.path().join("cache/notes/of-somebody.partial");
        for path in
            [existing.join("128-a.grey"), existing.join(".tmpx.partial"), deleted.join("128-a.grey"), foreign.clone()]
        {
            write(&path);
        }
        caches.sweep(&db).await.unwrap();
        assert_eq!(entries(&existing).await.unwrap(), [existing.join("128-a.grey")]);
        assert!(!deleted.exists() && foreign.is_file());
    }
}
