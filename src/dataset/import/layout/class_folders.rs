//! One folder per class, `<class>/…`, or per split and class, `<split>/<class>/…`. Patients are unknown.

use crate::{
    dataset::{
        import::{Candidate, candidate::Content},
        match_class,
    },
    domain::Split,
};

use super::{Entry, Origin, Search, names, split_called};

/// Deepest folder below a class that is looked into.
const MAX_DEPTH: usize = 8;

/// All files of the class folders, ordered by path; an entry for each folder that is neither class nor split.
pub(super) fn entries(search: Search<'_>) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for name in names(&search.folder.root)? {
        if !search.folder.root.join(&name).is_dir() {
            continue;
        }
        match split_called(&name) {
            // A class of that name wins, so that a data set of the classes `train` and `tram` can be imported.
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

fn class_folder(search: Search<'_>, path: &str, name: &str, split: Option<Split>, entries: &mut Vec<Entry>) {
    let classes = search.classes;
    match match_class(classes, name) {
        Some(label) => files(search, path, label, split, MAX_DEPTH, entries),
        None => {
            let known = classes.names().join(", ");
            entries.push(refused(path, format!("{name:?} is not a class of this data set; those are {known}")));
        }
    }
}

fn files(search: Search<'_>, folder: &str, label: &str, split: Option<Split>, depth: usize, entries: &mut Vec<Entry>) {
    let names = match names(&search.folder.root.join(folder)) {
        Ok(names) => names,
        Err(why) => return entries.push(refused(folder, why)),
    };
    for name in names {
        let path = format!("{folder}/{name}");
        // Links to files are followed when they are read, if they stay in the folder; links to folders may be loops.
        let kind = search.folder.root.join(&path).symlink_metadata().map(|metadata| metadata.file_type());
        match kind {
            Err(error) => entries.push(refused(&path, error.to_string())),
            Ok(kind) if !kind.is_dir() => entries.push(Entry {
                origin: Origin { file: path.clone(), line: None },
                found: Ok(Candidate {
                    path: path.clone(),
                    label: label.to_owned(),
                    split,
                    patient_id: None,
                    source: None,
                    attributes: None,
                    content: Content::File { root: search.folder.root.as_path().into(), path },
                }),
            }),
            Ok(_) if depth == 0 => entries.push(refused(&path, "too many folders within folders".to_owned())),
            Ok(_) => files(search, &path, label, split, depth - 1, entries),
        }
    }
}

fn refused(path: &str, reason: String) -> Entry {
    Entry { origin: Origin { file: path.to_owned(), line: None }, found: Err(reason.into()) }
}
