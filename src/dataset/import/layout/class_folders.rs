//! One folder per class, `<class>/…`, or per split and class, `<split>/<class>/…`. Patients are unknown.

use std::{fs, path::Path};

use crate::{
    dataset::{import::Candidate, import::ImportRequest, match_class},
    domain::Split,
};

use super::{Entry, Origin};

/// Deepest folder below a class that is looked into.
const MAX_DEPTH: usize = 8;

/// All files of the class folders, ordered by path; an entry for each folder that is neither class nor split.
pub(super) fn entries(request: &ImportRequest) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for name in names(&request.root)? {
        if !request.root.join(&name).is_dir() {
            continue;
        }
        match split_called(&name) {
            // A class of that name wins, so that a data set of the classes `train` and `tram` can be imported.
            Some(split) if match_class(&request.dataset.classes, &name).is_none() => {
                for class in names(&request.root.join(&name))? {
                    class_folder(request, &format!("{name}/{class}"), &class, Some(split), &mut entries);
                }
            }
            _ => class_folder(request, &name, &name, None, &mut entries),
        }
    }
    Ok(entries)
}

fn class_folder(request: &ImportRequest, path: &str, name: &str, split: Option<Split>, entries: &mut Vec<Entry>) {
    let classes = &request.dataset.classes;
    match match_class(classes, name) {
        Some(label) => files(request, path, label, split, MAX_DEPTH, entries),
        None => {
            let known = classes.names().join(", ");
            entries.push(refused(path, format!("{name:?} is not a class of this data set; those are {known}")));
        }
    }
}

fn files(
    request: &ImportRequest,
    folder: &str,
    label: &str,
    split: Option<Split>,
    depth: usize,
    entries: &mut Vec<Entry>,
) {
    let names = match names(&request.root.join(folder)) {
        Ok(names) => names,
        Err(why) => return entries.push(refused(folder, why)),
    };
    for name in names {
        let path = format!("{folder}/{name}");
        // Links to files are followed when they are read, if they stay in the folder; links to folders may be loops.
        let kind = request.root.join(&path).symlink_metadata().map(|metadata| metadata.file_type());
        match kind {
            Err(error) => entries.push(refused(&path, error.to_string())),
            Ok(kind) if !kind.is_dir() => entries.push(Entry {
                origin: Origin { file: path.clone(), line: None },
                found: Ok(Candidate { path, label: label.to_owned(), split, patient_id: None, source: None }),
            }),
            Ok(_) if depth == 0 => entries.push(refused(&path, "too many folders within folders".to_owned())),
            Ok(_) => files(request, &path, label, split, depth - 1, entries),
        }
    }
}

/// The names in a folder in order; hidden ones, which systems leave behind, are passed over.
fn names(folder: &Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

fn split_called(name: &str) -> Option<Split> {
    match name.to_lowercase().as_str() {
        "train" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Validation),
        "test" => Some(Split::Test),
        _ => None,
    }
}

fn refused(path: &str, reason: String) -> Entry {
    Entry { origin: Origin { file: path.to_owned(), line: None }, found: Err(reason.into()) }
}
