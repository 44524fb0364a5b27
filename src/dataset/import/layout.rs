//! Finds the images of a folder in one of the two layouts.

mod class_folders;
mod split_files;

use super::{Candidate, ImportRequest, Refused};

/// Where an entry comes from, as its rejection would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The split file or image, relative to the folder.
    pub(super) file: String,
    /// Line of the split file, from 1.
    pub(super) line: Option<u32>,
}

/// One row or file: an image to read, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) found: Result<Candidate, Refused>,
}

/// All rows or files of the folder in a stable order; an error means that it has neither layout.
pub(super) fn entries(request: &ImportRequest) -> Result<Vec<Entry>, String> {
    if !request.root.is_dir() {
        return Err(format!("{}: no such folder", request.root.display()));
    }
    if let Some(entries) = split_files::entries(request)? {
        return Ok(entries);
    }
    let entries = class_folders::entries(request)?;
    if entries.iter().any(|entry| entry.found.is_ok()) {
        return Ok(entries);
    }
    Err(format!(
        "neither {} and {} nor folders named as the classes ({}) with images in them",
        split_files::TRAIN,
        split_files::TEST,
        request.dataset.classes.names().join(", ")
    ))
}
