//! Folders of what can be made again, one for each data set: the images as training decoded and resized them.

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

/// How the name of a file ends that is still being made.
const UNFINISHED: &str = "partial";

/// What is computed from all of a data set and kept until something changes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The report on it.
    Report,
    /// What a run on it has to acknowledge.
    Leakage,
}

impl Kept {
    /// How the names of its files begin.
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

/// Folders below `<data_dir>/cache`. Nothing in them is missed: they may be removed whenever no run trains.
#[derive(Clone, Debug)]
pub struct Caches {
    root: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Caches {
    /// Makes nothing: a folder is made by whoever first writes into it.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("cache"), turn: Arc::default() }
    }

    /// The folder of a data set, for the trainer.
    pub fn folder(&self, dataset: DatasetId) -> PathBuf {
        self.root.join(dataset.to_string())
    }

    /// The turn to make something that takes all cores: one at a time in this process, however many ask.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// What was kept under `key`, if there is anything.
    pub async fn kept(&self, dataset: DatasetId, what: Kept, key: &Sha256) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.folder(dataset).join(what.file_name(key));
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path)(error)),
        }
    }

    /// Keeps something under `key`, in place of its like before. It is whole or not there: it is written by another name first.
    pub async fn keep(&self, dataset: DatasetId, what: Kept, key: &Sha256, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = self.folder(dataset);
        let kept = folder.join(what.file_name(key));
        let unfinished = kept.with_extension(UNFINISHED);
        let write = async {
            tokio::fs::create_dir_all(&folder).await?;
            tokio::fs::write(&unfinished, bytes).await?;
            tokio::fs::rename(&unfinished, &kept).await?;
            for other in entries(&folder).await? {
                let name = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if other != kept && name.starts_with(what.prefix()) && name.ends_with(".json") {
                    unless_missing(tokio::fs::remove_file(&other).await)?;
                }
            }
            Ok(())
        };
        write.await.map_err(failed(&folder))
    }

    /// Removes what is cached of a data set; nothing is fine.
    pub async fn remove(&self, dataset: DatasetId) -> Result<(), StoreError> {
        let path = self.folder(dataset);
        unless_missing(tokio::fs::remove_dir_all(&path).await).map_err(failed(&path))
    }

    /// Removes what killed processes left: files they had not finished, and folders of data sets that are no more. Not while anything
    /// trains.
    pub async fn sweep(&self, db: &Db) -> Result<(), StoreError> {
        for folder in entries(&self.root).await.map_err(failed(&self.root))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            // What has another name was not put there by this program.
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
    async fn removing_takes_one_data_sets_files_and_removing_nothing_is_fine() {
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
    async fn a_report_is_kept_under_its_key_in_place_of_those_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (caches, dataset) = (Caches::new(dir.path()), DatasetId::new());
        let [first, second] = [b"1", b"2"].map(|key| Sha256::of(key));
        assert_eq!(caches.kept(dataset, Kept::Report, &first).await.unwrap(), None);
        caches.keep(dataset, Kept::Report, &first, b"one").await.unwrap();
        write(&caches.folder(dataset).join("128-a.grey"));
        caches.keep(dataset, Kept::Report, &second, b"two").await.unwrap();
        assert_eq!(caches.kept(dataset, Kept::Report, &first).await.unwrap(), None);
        assert_eq!(caches.kept(dataset, Kept::Report, &second).await.unwrap(), Some(b"two".to_vec()));
        assert_eq!(entries(&caches.folder(dataset)).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_sweep_takes_unfinished_files_and_folders_of_data_sets_that_are_no_more() {
        let (dir, db) = fixtures::db().await;
        let caches = Caches::new(dir.path());
        caches.sweep(&db).await.unwrap();
        let kept = caches.folder(fixtures::stored_dataset(&db).await.id);
        let gone = caches.folder(DatasetId::new());
        let unknown = dir.path().join("cache/notes/of-somebody.partial");
        for path in [kept.join("128-a.grey"), kept.join(".tmpx.partial"), gone.join("128-a.grey"), unknown.clone()] {
            write(&path);
        }
        caches.sweep(&db).await.unwrap();
        assert_eq!(entries(&kept).await.unwrap(), [kept.join("128-a.grey")]);
        assert!(!gone.exists() && unknown.is_file());
    }
}
