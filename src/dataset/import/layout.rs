//! Import layouts: finds the images of a folder by label files, arrays, or class folders, and accounts for every other file.

mod arrays;
mod class_folders;
mod known_tables;
mod split_files;
#[cfg(test)]
mod tests;
mod unused;

use std::{borrow::Cow, collections::HashMap, fs, path::Path};

use crate::{domain::ClassList, imaging::Limits, store::ExcludedRows};

use super::{LabelledFolder, class_names::ClassNames, entry::ImportEntry, sources::SourcesFile};

/// Folder and classes of a search for images.
#[derive(Clone, Copy)]
struct Search<'a> {
    folder: &'a LabelledFolder,
    classes: &'a ClassList,
    names: &'a ClassNames,
    limits: &'a Limits,
}

/// Files and rows that a layout finds in a folder.
#[derive(Debug, Default)]
struct Listing {
    entries: Vec<ImportEntry>,
    /// Label files and arrays that were read, relative to the folder.
    read: Vec<String>,
    /// Files and folders that are left out, and why.
    left_out: HashMap<String, String>,
    /// Numbers of rows that are left out.
    excluded: Vec<ExcludedRows>,
}

/// All entries of a folder in a stable order, with the attributes of its `sources.csv`, and the numbers of the files and rows that are not
/// used, by folder and reason.
///
/// # Errors
/// The folder does not exist or has none of the layouts, or a label file is not readable as text.
pub(super) fn entries(
    folder: &LabelledFolder,
    classes: &ClassList,
    limits: &Limits,
) -> Result<(Vec<ImportEntry>, Vec<ExcludedRows>), String> {
    if !folder.root.is_dir() {
        return Err(format!("{}: no such folder", folder_name(&folder.root)));
    }
    let names = ClassNames::new(classes, &folder.class_mapping)?;
    let mut listing = find_entries(Search { folder, classes, names: &names, limits })?;
    let sources = SourcesFile::read(folder);
    listing.read.extend(sources.file().map(str::to_owned));
    let unused = unused::count(&folder.root, &listing)?;
    sources.annotate(&mut listing.entries);
    Ok((listing.entries, [listing.excluded, unused].concat()))
}

/// The entries of the first matching layout.
fn find_entries(search: Search<'_>) -> Result<Listing, String> {
    if let Some(listing) = split_files::entries(search)? {
        return Ok(listing);
    }
    if let Some(listing) = arrays::entries(search)? {
        return Ok(listing);
    }
    known_tables::check(&search.folder.root)?;
    let listing = class_folders::entries(search)?;
    if listing.entries.iter().any(|entry| entry.candidate.is_ok()) {
        return Ok(listing);
    }
    Err(format!(
        "the folder has neither label files such as {} and {}, nor x_train.npy and y_train.npy, nor folders named like the classes \
         ({}) with images",
        split_files::TRAIN,
        split_files::TEST,
        search.names.list()
    ))
}

/// Reason for a link that leads nowhere, such as to a disk that is not mounted.
const DANGLING: &str = "symbolic link whose target does not exist";

/// True for a symbolic link whose target does not exist.
fn is_dangling(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

/// True for hidden files and folders, and the metadata folders of macOS.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "__MACOSX"
}

/// True for the name of a file or folder of segmentation masks, such as `masks`, `lung masks`, `ManualMask` or `a_mask.png`.
fn is_mask(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // Words end at punctuation and spaces, and before capitals (`leftMask`).
    let mut words = String::new();
    let mut previous = ' ';
    for c in stem.chars() {
        if c.is_uppercase() && previous.is_lowercase() || !c.is_alphanumeric() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
        previous = c;
    }
    words.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "mask" | "masks"))
}

/// The sorted names in a folder, without hidden files.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, String> {
    let mut names = all_names(folder)?;
    names.retain(|name| !is_hidden(name));
    Ok(names)
}

/// The last part of a folder's path. Errors of imports reach clients, which must not learn where the folder is.
pub(super) fn folder_name(folder: &Path) -> Cow<'_, str> {
    folder.file_name().map_or(Cow::Borrowed("."), |name| name.to_string_lossy())
}

/// The sorted names in a folder.
fn all_names(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder_name(folder));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
