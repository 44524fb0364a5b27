//! Checkpoints of runs: a file each, and a row that is written once the file is complete.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sha2::Digest;
use sqlx::SqliteConnection;

use super::{
    Db, StoreError, columns,
    files::{entries, sync_folder, unless_missing},
    losses, runs,
};
use crate::domain::{Position, RunId, Sha256};

/// Checkpoints of a run that are retained: the last one, and the one before in case the last one is damaged.
const RETAINED: i64 = 2;

/// Files of checkpoints, in a folder for each run below `<data_dir>/runs`.
#[derive(Clone, Debug)]
pub struct CheckpointFiles {
    root: PathBuf,
}

/// A complete and durable file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Name in the folder of the run.
    pub name: String,
    /// Hash of its bytes.
    pub sha256: Sha256,
    /// Size in bytes.
    pub byte_length: u64,
}

/// A checkpoint of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCheckpoint {
    /// Number within the run, from 1.
    pub sequence: u32,
    /// The file.
    pub file: StoredFile,
    /// Next batch to train on.
    pub position: Position,
    /// Completed epochs of the run.
    pub epochs: u32,
    /// Trained batches of the run.
    pub steps: u64,
    /// Time of writing.
    pub created_at: Timestamp,
}

impl CheckpointFiles {
    /// Creates no folder: the first write does.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("runs") }
    }

    fn folder(&self, run: RunId) -> PathBuf {
        self.root.join(run.to_string())
    }

    /// Writes the file of a checkpoint with `write` under a temporary name, and renames it once it is durable. Blocks.
    ///
    /// # Errors
    /// When the disk is full or fails. No part of the file remains.
    pub fn write(
        &self,
        run: RunId,
        sequence: u32,
        write: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<StoredFile, StoreError> {
        let folder = self.folder(run);
        let name = format!("checkpoint-{sequence}.safetensors");
        let partial = folder.join(format!("{name}.partial"));
        let written = self.create(&folder).and_then(|()| write_durably(&partial, &folder.join(&name), write));
        if written.is_err() {
            // Frees the space for the next attempt, which overwrites the file if this fails.
            let _ = std::fs::remove_file(&partial);
        }
        let (sha256, byte_length) = written.map_err(|source| StoreError::File { path: folder.join(&name), source })?;
        Ok(StoredFile { name, sha256, byte_length })
    }

    fn create(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(folder)?;
        sync_folder(&self.root)?;
        self.root.parent().map_or(Ok(()), sync_folder)
    }

    /// Reads a file and verifies its hash. Blocks.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn read(&self, run: RunId, file: &StoredFile) -> Result<Vec<u8>, StoreError> {
        let path = self.folder(run).join(&file.name);
        let read = std::fs::read(&path).and_then(|bytes| {
            let found = Sha256::of(&bytes);
            if found == file.sha256 {
                Ok(bytes)
            } else {
                Err(io::Error::other(format!("its bytes have the hash {found}")))
            }
        });
        read.map_err(|source| StoreError::File { path, source })
    }

    /// Removes files of a run. Missing ones are ignored.
    pub async fn remove(&self, run: RunId, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            let path = self.folder(run).join(name);
            unless_missing(tokio::fs::remove_file(&path).await).map_err(|source| StoreError::File { path, source })?;
        }
        Ok(())
    }

    /// Removes all files of a run, if there are any.
    pub async fn remove_all(&self, run: RunId) -> Result<(), StoreError> {
        let path = self.folder(run);
        unless_missing(tokio::fs::remove_dir_all(&path).await).map_err(|source| StoreError::File { path, source })
    }

    /// Removes files that no row names and folders of deleted runs, which killed processes left. Not to be called during training.
    pub async fn sweep(&self, db: &Db) -> Result<(), StoreError> {
        for folder in listed(&self.root).await? {
            // Folders of other names were not created by this program.
            let Some(run) = folder.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            if runs::status(db, run).await?.is_none() {
                self.remove_all(run).await?;
                continue;
            }
            let named: Vec<String> =
                of_run(db, run).await?.into_iter().map(|checkpoint| checkpoint.file.name).collect();
            let names =
                listed(&folder).await?.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
            self.remove(run, &names.filter(|name| !named.contains(name)).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}

/// Writes and syncs the file, reads it back for its hash and size, and renames it.
fn write_durably(partial: &Path, path: &Path, write: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<(Sha256, u64)> {
    write(partial)?;
    File::open(partial)?.sync_all()?;
    let mut hasher = sha2::Sha256::new();
    let byte_length = io::copy(&mut File::open(partial)?, &mut hasher)?;
    std::fs::rename(partial, path)?;
    path.parent().map_or(Ok(()), sync_folder)?;
    Ok((Sha256::from_digest(&hasher.finalize()), byte_length))
}

async fn listed(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    entries(folder).await.map_err(|source| StoreError::File { path: folder.to_owned(), source })
}

/// Checkpoints of a run, newest first.
pub async fn of_run(db: &Db, run: RunId) -> Result<Vec<StoredCheckpoint>, StoreError> {
    of_run_in(&mut *db.read().acquire().await?, run).await
}

pub(super) async fn of_run_in(tx: &mut SqliteConnection, run: RunId) -> Result<Vec<StoredCheckpoint>, StoreError> {
    let run = run.to_string();
    let rows = sqlx::query_as!(
        Row,
        "select sequence, file, sha256, byte_length, stage, step, epoch, batch, epochs, steps, created_at
           from checkpoints where run_id = ? order by sequence desc",
        run
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Adds a checkpoint and deletes the rows of those that are no longer retained. Returns the names of their files.
pub(super) async fn add_in(
    tx: &mut SqliteConnection,
    run: RunId,
    checkpoint: &StoredCheckpoint,
) -> Result<Vec<String>, StoreError> {
    let run = run.to_string();
    let StoredCheckpoint { sequence, file, position, epochs, steps, created_at } = checkpoint;
    let steps: i64 = columns::number("checkpoints.steps", *steps)?;
    let (sha256, created_at) = (file.sha256.as_str(), columns::time(*created_at));
    let byte_length: i64 = columns::number("checkpoints.byte_length", file.byte_length)?;
    sqlx::query!(
        "insert into checkpoints (run_id, sequence, file, sha256, byte_length, stage, step, epoch, batch, epochs, steps,
             created_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        run,
        sequence,
        file.name,
        sha256,
        byte_length,
        position.stage,
        position.step,
        position.epoch,
        position.batch,
        epochs,
        steps,
        created_at,
    )
    .execute(&mut *tx)
    .await?;
    let oldest = i64::from(*sequence) - RETAINED;
    let removed =
        sqlx::query_scalar!("delete from checkpoints where run_id = ? and sequence <= ? returning file", run, oldest);
    Ok(removed.fetch_all(tx).await?)
}

/// Rewinds a run to a checkpoint, or to its start: deletes what was recorded after it, which training records again. A model that has an
/// alias is retained, but no longer belongs to the run.
pub async fn rewind(db: &Db, run: RunId, to: Option<&StoredCheckpoint>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    losses::truncate_in(&mut tx, run, to.map_or(0, |to| to.steps)).await?;
    let run = run.to_string();
    let (sequence, epochs, stage) = to.map_or((0, 0, 1), |to| (to.sequence, to.epochs, to.position.stage));
    sqlx::query!("delete from checkpoints where run_id = ? and sequence > ?", run, sequence).execute(&mut *tx).await?;
    sqlx::query!("delete from epochs where run_id = ? and sequence > ?", run, epochs).execute(&mut *tx).await?;
    sqlx::query!(
        "update models set run_id = null
           where run_id = ? and stage >= ? and id in (select model_id from aliases)",
        run,
        stage
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("delete from evaluations where run_id = ? and stage >= ?", run, stage).execute(&mut *tx).await?;
    sqlx::query!("delete from models where run_id = ? and stage >= ?", run, stage).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

struct Row {
    sequence: i64,
    file: String,
    sha256: String,
    byte_length: i64,
    stage: i64,
    step: i64,
    epoch: i64,
    batch: i64,
    epochs: i64,
    steps: i64,
    created_at: String,
}

impl Row {
    fn read(self) -> Result<StoredCheckpoint, StoreError> {
        let file = StoredFile {
            name: self.file,
            sha256: columns::hash("checkpoints.sha256", self.sha256)?,
            byte_length: columns::number("checkpoints.byte_length", self.byte_length)?,
        };
        let position = Position {
            stage: columns::number("checkpoints.stage", self.stage)?,
            step: columns::number("checkpoints.step", self.step)?,
            epoch: columns::number("checkpoints.epoch", self.epoch)?,
            batch: columns::number("checkpoints.batch", self.batch)?,
        };
        Ok(StoredCheckpoint {
            sequence: columns::number("checkpoints.sequence", self.sequence)?,
            file,
            position,
            epochs: columns::number("checkpoints.epochs", self.epochs)?,
            steps: columns::number("checkpoints.steps", self.steps)?,
            created_at: columns::parse("checkpoints.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests;
