//! What blobs, caches and checkpoints ask of the file system alike.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// Puts the folder's entries on the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// What is in a folder; nothing when it is missing.
pub(super) async fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut reader = match tokio::fs::read_dir(folder).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        reader => reader?,
    };
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().await? {
        found.push(entry.path());
    }
    Ok(found)
}

/// A thing that is gone already has been removed.
pub(super) fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
