//! Import layouts: finds the images of a folder by label files, arrays, or class folders.

mod arrays;
mod class_folders;
mod split_files;

use std::{fs, path::Path};

use crate::{
    domain::{ClassList, Split},
    imaging::Limits,
};

use super::{LabelledFolder, entry::ImportEntry, sources::SourcesFile};

/// Folder and classes of a search for images.
#[derive(Clone, Copy)]
struct Search<'a> {
    folder: &'a LabelledFolder,
    classes: &'a ClassList,
    limits: &'a Limits,
}

/// All entries of a folder in a stable order, with the attributes of its `sources.csv`.
///
/// # Errors
/// The folder does not exist or has none of the layouts.
pub(super) fn entries(
    folder: &LabelledFolder,
    classes: &ClassList,
    limits: &Limits,
) -> Result<Vec<ImportEntry>, String> {
    if !folder.root.is_dir() {
        return Err(format!("{}: no such folder", folder.root.display()));
    }
    let mut entries = find_entries(Search { folder, classes, limits })?;
    SourcesFile::read(folder).annotate(&mut entries);
    Ok(entries)
}

/// The entries of the first matching layout.
fn find_entries(search: Search<'_>) -> Result<Vec<ImportEntry>, String> {
    if let Some(entries) = split_files::entries(search)? {
        return Ok(entries);
    }
    if let Some(entries) = arrays::entries(search)? {
        return Ok(entries);
    }
    let entries = class_folders::entries(search)?;
    if entries.iter().any(|entry| entry.candidate.is_ok()) {
        return Ok(entries);
    }
    Err(format!(
        "the folder has neither {} and {}, nor x_train.npy and y_train.npy, nor folders named like the classes ({}) with images",
        split_files::TRAIN,
        split_files::TEST,
        search.classes.names().join(", ")
    ))
}

/// The split that the name of a folder or array denotes.
fn split_by_name(name: &str) -> Option<Split> {
    match name.to_lowercase().as_str() {
        "train" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Validation),
        "test" => Some(Split::Test),
        _ => None,
    }
}

/// The sorted names in a folder, without hidden files.
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
