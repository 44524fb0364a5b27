//! File operations that blobs, caches and checkpoints share.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Paths of the entries of a folder; none if it is missing.
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

/// Treats the removal of a missing file as success.
pub(super) fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
