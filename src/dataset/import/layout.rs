//! Finds the images of a folder in one of the three layouts.

mod arrays;
mod class_folders;
mod split_files;

use std::{fs, path::Path};

use crate::{
    domain::{ClassList, Split},
    imaging::Limits,
};

use super::{Candidate, LabelledFolder, Refused, sources::Sources};

/// A folder in which images of these classes are looked for.
#[derive(Clone, Copy)]
struct Search<'a> {
    folder: &'a LabelledFolder,
    classes: &'a ClassList,
    limits: &'a Limits,
}

/// Where an entry comes from, as its rejection would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The split file or image, relative to the folder.
    pub(super) file: String,
    /// Line of the split file, from 1.
    pub(super) line: Option<u32>,
}

/// One row or file: an image to read, or why there is none.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) found: Result<Candidate, Refused>,
}

/// All rows or files of the folder in a stable order, with what its `sources.csv` says; an error means that it has none of the layouts.
pub(super) fn entries(folder: &LabelledFolder, classes: &ClassList, limits: &Limits) -> Result<Vec<Entry>, String> {
    if !folder.root.is_dir() {
        return Err(format!("{}: no such folder", folder.root.display()));
    }
    let mut entries = laid_out(Search { folder, classes, limits })?;
    Sources::read(folder).tell(&mut entries);
    Ok(entries)
}

fn laid_out(search: Search<'_>) -> Result<Vec<Entry>, String> {
    if let Some(entries) = split_files::entries(search)? {
        return Ok(entries);
    }
    if let Some(entries) = arrays::entries(search)? {
        return Ok(entries);
    }
    let entries = class_folders::entries(search)?;
    if entries.iter().any(|entry| entry.found.is_ok()) {
        return Ok(entries);
    }
    Err(format!(
        "neither {} and {} nor x_train.npy and y_train.npy nor folders named as the classes ({}) with images in them",
        split_files::TRAIN,
        split_files::TEST,
        search.classes.names().join(", ")
    ))
}

/// The split that a folder or array of that name holds.
fn split_called(name: &str) -> Option<Split> {
    match name.to_lowercase().as_str() {
        "train" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Validation),
        "test" => Some(Split::Test),
        _ => None,
    }
}

/// The names in a folder in order; hidden ones, which systems leave behind, are passed over.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}
