//! Regular work of a server on its data folder: erases deleted content, moves the folder's time forward, sweeps temporary files and watches the
//! free space.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    StorageFault, Stores,
    data_folder::{self, Clock},
    files::entries,
};

/// Time between two rounds. A round that has nothing to do takes a millisecond.
const INTERVAL: Duration = Duration::from_secs(60);

/// Time between a deletion and the round that erases its content: several deletions share one.
const ERASE_DELAY: Duration = Duration::from_secs(1);

/// Time between two updates of the folder's time, and between two sweeps of temporary files.
const HOUR: Duration = Duration::from_secs(3600);

/// Age from which a temporary file is removed. Files that are being written are younger.
const STALE: Duration = Duration::from_secs(24 * 3600);

impl Stores {
    /// Prepares the folder at the start of a server: moves its time forward, fills the reserve on the disk, removes stale temporary files, and
    /// rewrites a database of an earlier version. Failures are logged: none of it is needed to serve.
    pub async fn prepare(&self) {
        if let Some(warning) = self.coverage.warning() {
            tracing::warn!("{warning}");
        }
        if let Some(warning) = self.disk.warning() {
            tracing::warn!("{warning}");
        }
        log("the reserved space cannot be filled", self.disk.fill_reserve());
        if self.db.damage().is_some() {
            return;
        }
        self.advance(Duration::ZERO).await;
        self.sweep_stale(STALE).await;
        match self.db.enable_erasure().await {
            Ok(false) => {}
            Ok(true) => tracing::info!("the database was rewritten without deleted content"),
            Err(error) => {
                tracing::warn!(%error, "the database cannot be rewritten without deleted content; the next start tries again")
            }
        }
    }

    /// Moves the folder's time forward, and warns if the clock is far ahead of it.
    pub async fn advance(&self, elapsed: Duration) {
        match data_folder::advance(&self.db, &self.folder, &self.coverage, elapsed).await {
            Ok(Clock::Plausible) => {}
            Ok(Clock::Ahead) => tracing::warn!(
                "the clock is more than a week ahead of the last time at which a server ran on this data folder: set it, if it is \
                 wrong. Predictions are deleted as of that time, which now follows the clock at twice its speed"
            ),
            Err(error) => tracing::warn!(%error, "the time of the data folder cannot be written"),
        }
    }

    /// Removes temporary files that killed processes left: those of caches, checkpoints, keys and marks. (Those of blobs are removed with the
    /// blobs that no row names.)
    pub async fn sweep_stale(&self, age: Duration) {
        match remove_all_stale(&self.folder, age).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "temporary files of earlier processes removed"),
            Err(error) => tracing::warn!(%error, "temporary files of earlier processes cannot be removed"),
        }
    }
}

/// Maintains the folder until `stop`.
pub async fn maintain(stores: Stores, stop: CancellationToken) {
    let (mut hour, mut was_low) = (Instant::now(), stores.disk.warning().is_some());
    let mut complete = true;
    while !stop.is_cancelled() {
        let wait = async {
            if timeout(INTERVAL, stores.db.wait_for_deletion()).await.is_ok() {
                sleep(ERASE_DELAY).await;
            }
        };
        tokio::select! {
            () = wait => {}
            () = stop.cancelled() => return,
        }
        let warning = stores.disk.warning();
        if let Some(warning) = warning.as_ref().filter(|_| !was_low) {
            tracing::warn!("{warning}");
        }
        was_low = warning.is_some();
        stores.db.note_replacement();
        if stores.db.damage().is_some() {
            continue;
        }
        complete = erase(&stores, complete).await;
        if hour.elapsed() >= HOUR {
            stores.advance(hour.elapsed()).await;
            stores.sweep_stale(STALE).await;
            log("the reserved space cannot be filled", stores.disk.fill_reserve());
            hour = Instant::now();
        }
    }
}

/// Erases deleted content; logs only what is new. Returns whether all is erased.
async fn erase(stores: &Stores, was_complete: bool) -> bool {
    match stores.db.erase_deleted().await {
        Ok(complete) => complete,
        // The next round tries again.
        Err(error) if matches!(error.fault(), Some(StorageFault::Locked | StorageFault::Full)) => {
            if was_complete {
                tracing::warn!(%error, "deleted content stays in the database's files until it can be erased");
            }
            false
        }
        Err(error) => {
            stores.db.note_damage(&error);
            tracing::error!(%error, "deleted content cannot be erased from the database's files");
            false
        }
    }
}

async fn remove_all_stale(root: &Path, age: Duration) -> io::Result<u64> {
    let mut removed = remove_stale(root, age).await?;
    for below in [root.join("cache"), root.join("runs")] {
        for folder in entries(&below).await? {
            if folder.is_dir() {
                removed += remove_stale(&folder, age).await?;
            }
        }
    }
    Ok(removed)
}

/// Removes temporary files of a folder that were written longer than `age` ago.
async fn remove_stale(folder: &Path, age: Duration) -> io::Result<u64> {
    let mut removed = 0;
    for path in entries(folder).await? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_temporary = name.ends_with(".partial") || name.starts_with("patient.key.");
        let Ok(file) = path.metadata() else { continue };
        let is_old = SystemTime::now().duration_since(file.modified()?).is_ok_and(|found| found >= age);
        if is_temporary && file.is_file() && is_old {
            tokio::fs::remove_file(&path).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn log(what: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "{what}");
    }
}
