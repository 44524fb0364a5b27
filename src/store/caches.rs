//! Folders of what can be made again, one for each data set: the images as training decoded and resized them.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Db, StoreError, datasets,
    files::{entries, unless_missing},
};
use crate::domain::DatasetId;

/// How the name of a file ends that is still being made.
const UNFINISHED: &str = "partial";

/// Folders below `<data_dir>/cache`. Nothing in them is missed: they may be removed whenever no run trains.
#[derive(Clone, Debug)]
pub struct Caches {
    root: PathBuf,
}

impl Caches {
    /// Makes nothing: a folder is made by whoever first writes into it.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("cache") }
    }

    /// The folder of a data set, for the trainer.
    pub fn folder(&self, dataset: DatasetId) -> PathBuf {
        self.root.join(dataset.to_string())
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
