//! Removes blobs that no row names. The protocol is described in the parent module.

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sqlx::SqliteConnection;
use tokio_util::sync::CancellationToken;

use super::{Blobs, FOLDERS, folder_name};
use crate::{
    domain::Sha256,
    store::{
        Db, StoreError,
        files::{entries, sync_folder, unless_missing},
    },
};

/// Age from which a sweep of the server removes a blob that no row names.
pub const BLOB_GRACE: Duration = Duration::from_secs(10 * 60);

/// Time between two sweeps of the server.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Maximum number of files that are removed under one lock. Writers to the folder and to the database wait meanwhile.
const MAX_BATCH: usize = 100;

/// Number of attempts of a sweep to lock a folder that a writer has locked, and the pause between two of them.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Files that were removed.
    pub removed: u64,
    /// Folders with files to remove that were passed over because a writer had locked them.
    pub busy: u64,
}

/// A file that may have to be removed.
#[derive(Clone)]
struct Candidate {
    /// `None` for a temporary file.
    sha256: Option<Sha256>,
    path: PathBuf,
}

impl Blobs {
    /// Removes blobs that no row names, and temporary files that a killed process left, if they were written longer than `grace` ago.
    ///
    /// Safe at any time, whatever other processes do, also with a `grace` of zero. With [`SweepReport::busy`] above zero another sweep has to
    /// follow; the server sweeps every five minutes.
    ///
    /// # Errors
    /// When a folder cannot be read, a file cannot be removed, or the database fails.
    pub async fn sweep(&self, db: &Db, grace: Duration) -> Result<SweepReport, StoreError> {
        let mut swept = SweepReport::default();
        for folder in 0..FOLDERS {
            self.sweep_folder(db, folder, grace, &mut swept).await?;
        }
        Ok(swept)
    }

    /// True if there is any blob.
    pub(in crate::store) async fn has_files(&self) -> Result<bool, StoreError> {
        for folder in 0..FOLDERS {
            let path = self.root.join(folder_name(folder));
            let found = candidates(&path).await.map_err(failed(&path))?;
            if found.iter().any(|candidate| candidate.sha256.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if the database names any of the blobs.
    pub(in crate::store) async fn has_named(&self, db: &mut SqliteConnection) -> Result<bool, StoreError> {
        for folder in 0..FOLDERS {
            let path = self.root.join(folder_name(folder));
            let found: Vec<_> = candidates(&path).await.map_err(failed(&path))?;
            let found: Vec<_> = found.into_iter().filter(|candidate| candidate.sha256.is_some()).collect();
            let count = found.len();
            if without_row(&mut *db, found).await?.len() < count {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Blobs that no row names and that are older than the grace period: their number and size in bytes.
    pub(in crate::store) async fn unnamed(&self, db: &mut SqliteConnection) -> Result<(u64, u64), StoreError> {
        let (mut count, mut bytes) = (0, 0);
        for folder in 0..FOLDERS {
            let path = self.root.join(folder_name(folder));
            let found = candidates(&path).await.map_err(failed(&path))?;
            for candidate in without_row(&mut *db, found).await? {
                if is_older(&candidate.path, BLOB_GRACE) {
                    count += 1;
                    bytes += candidate.path.metadata().map_or(0, |file| file.len());
                }
            }
        }
        Ok((count, bytes))
    }

    async fn sweep_folder(
        &self,
        db: &Db,
        folder: usize,
        grace: Duration,
        swept: &mut SweepReport,
    ) -> Result<(), StoreError> {
        let path = self.root.join(folder_name(folder));
        // First without a lock: almost always there is nothing to remove.
        let found = candidates(&path).await.map_err(failed(&path))?;
        let unnamed = without_row(&mut *db.read().acquire().await?, found).await?;
        let old: Vec<_> = unnamed.into_iter().filter(|candidate| is_older(&candidate.path, grace)).collect();
        for batch in old.chunks(MAX_BATCH) {
            let Some(lock) = lock_exclusive(&path).await.map_err(failed(&path))? else {
                swept.busy += 1;
                return Ok(());
            };
            swept.removed += remove(db, &path, batch.to_vec(), grace, lock).await?;
        }
        Ok(())
    }
}

/// Sweeps at once and then every five minutes until `stop`.
pub async fn sweep_periodically(blobs: Blobs, db: Db, stop: CancellationToken) {
    loop {
        match blobs.sweep(&db, BLOB_GRACE).await {
            Ok(SweepReport { removed: 0, .. }) => {}
            Ok(SweepReport { removed, .. }) => tracing::info!(removed, "blobs that no row names removed"),
            Err(error) => tracing::error!(%error, "blobs that no row names cannot be removed"),
        }
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The blobs and temporary files of a folder. Files of other names were not put there by this program.
async fn candidates(folder: &Path) -> io::Result<Vec<Candidate>> {
    let prefix = folder.file_name().unwrap_or_default().to_string_lossy();
    let candidate = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        // `object_store` appends `#` and a number to the name of a file that it has not finished.
        let (stem, is_temporary) = name.split_once('#').map_or((name, false), |(stem, _)| (stem, true));
        let sha256 = Sha256::try_from(format!("{prefix}{stem}")).ok()?;
        Some(Candidate { sha256: (!is_temporary).then_some(sha256), path })
    };
    Ok(entries(folder).await?.into_iter().filter_map(candidate).collect())
}

/// The candidates that no row names.
async fn without_row(db: &mut SqliteConnection, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, StoreError> {
    let hashes: Vec<_> = candidates.iter().filter_map(|candidate| candidate.sha256.as_ref()).collect();
    let hashes = serde_json::json!(hashes).to_string();
    let unnamed = sqlx::query_scalar!(
        r#"select cast(value as text) as "sha256!: String" from json_each(?)
             where not exists (select 1 from blob_names where sha256 = value)"#,
        hashes
    )
    .fetch_all(db)
    .await?;
    let unnamed: HashSet<_> = unnamed.iter().map(String::as_str).collect();
    let has_row = |hash: &Sha256| !unnamed.contains(hash.as_str());
    Ok(candidates.into_iter().filter(|candidate| !candidate.sha256.as_ref().is_some_and(has_row)).collect())
}

/// Locks a folder against all writers; `None` if one of them is busy there.
async fn lock_exclusive(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// Removes those of the candidates that still have no row and are still old, under the lock; their number.
async fn remove(
    db: &Db,
    folder: &Path,
    candidates: Vec<Candidate>,
    grace: Duration,
    lock: File,
) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let candidates = without_row(&mut tx, candidates).await?;
    let path = folder.to_owned();
    let remove = move || {
        let mut removed = 0;
        for Candidate { path, .. } in candidates {
            if is_older(&path, grace) {
                unless_missing(std::fs::remove_file(path))?;
                removed += 1;
            }
        }
        sync_folder(&path)?;
        // Both are held to the end even if the caller is dropped. The transaction has written nothing.
        drop((tx, lock));
        Ok(removed)
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    removed.map_err(|error| StoreError::Task(error.to_string()))?.map_err(failed(folder))
}

/// True if the file exists and was written longer than `age` ago.
fn is_older(path: &Path, age: Duration) -> bool {
    let modified = path.metadata().and_then(|file| file.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).unwrap_or_default() >= age)
}

fn failed(folder: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let folder = folder.to_owned();
    move |source| StoreError::File { path: folder, source }
}
