//! Class folders: `<class>/…`, or `<split>/<class>/…`. Patients are unknown.

use crate::{
    dataset::{
        import::{
            Candidate,
            candidate::Content,
            entry::{EntryOrigin, ImportEntry},
        },
        match_class,
    },
    domain::Split,
};

use super::{Search, names, split_by_name};

/// Maximum depth of folders below a class folder.
const MAX_DEPTH: usize = 8;

/// An entry per file in the class folders, ordered by path, and a rejected entry per folder that is neither class nor split.
pub(super) fn entries(search: Search<'_>) -> Result<Vec<ImportEntry>, String> {
    let mut entries = Vec::new();
    for name in names(&search.folder.root)? {
        if !search.folder.root.join(&name).is_dir() {
            continue;
        }
        match split_by_name(&name) {
            // A class of the same name takes precedence over a split, so that a class called `train` can be imported.
            Some(split) if match_class(search.classes, &name).is_none() => {
                for class in names(&search.folder.root.join(&name))? {
                    class_folder(search, &format!("{name}/{class}"), &class, Some(split), &mut entries);
                }
            }
            _ => class_folder(search, &name, &name, None, &mut entries),
        }
    }
    Ok(entries)
}

/// Adds the files of a class folder.
fn class_folder(search: Search<'_>, path: &str, name: &str, split: Option<Split>, entries: &mut Vec<ImportEntry>) {
    let classes = search.classes;
    match match_class(classes, name) {
        Some(label) => files(search, path, label, split, MAX_DEPTH, entries),
        None => {
            let known = classes.names().join(", ");
            entries.push(rejected(path, format!("{name:?} is not a class of this data set (expected one of {known})")));
        }
    }
}

/// Adds the files of a folder, recursively.
fn files(
    search: Search<'_>,
    folder: &str,
    label: &str,
    split: Option<Split>,
    depth: usize,
    entries: &mut Vec<ImportEntry>,
) {
    let names = match names(&search.folder.root.join(folder)) {
        Ok(names) => names,
        Err(reason) => return entries.push(rejected(folder, reason)),
    };
    for name in names {
        let path = format!("{folder}/{name}");
        // Links to files are followed when read, if they stay below the root. Links to folders are not, because they may form loops.
        let kind = search.folder.root.join(&path).symlink_metadata().map(|metadata| metadata.file_type());
        match kind {
            Err(error) => entries.push(rejected(&path, error.to_string())),
            Ok(kind) if !kind.is_dir() => entries.push(ImportEntry {
                origin: EntryOrigin { file: path.clone(), line: None },
                candidate: Ok(Candidate {
                    path: path.clone(),
                    label: label.to_owned(),
                    split,
                    patient_id: None,
                    source: None,
                    attributes: None,
                    content: Content::File { root: search.folder.root.as_path().into(), path },
                }),
            }),
            Ok(_) if depth == 0 => {
                entries.push(rejected(&path, format!("folders are nested more than {MAX_DEPTH} deep")))
            }
            Ok(_) => files(search, &path, label, split, depth - 1, entries),
        }
    }
}

fn rejected(path: &str, reason: String) -> ImportEntry {
    ImportEntry { origin: EntryOrigin { file: path.to_owned(), line: None }, candidate: Err(reason.into()) }
}
