//! Class folders: `<class>/…`, or `<split>/<class>/…`. Patients are unknown.

use crate::{
    dataset::import::{
        Candidate,
        candidate::Content,
        class_names::NamedClass,
        entry::{EntryOrigin, ImportEntry},
        split_names::split_by_name,
    },
    domain::Split,
};

use super::{DANGLING, Listing, Search, is_dangling, is_mask, names};

/// Maximum depth of folders below a class folder.
const MAX_DEPTH: usize = 8;

/// An entry per file in the class folders, ordered by path, and a rejected entry per folder that is neither class nor split. Folders and
/// files of masks are left out.
pub(super) fn entries(search: Search<'_>) -> Result<Listing, String> {
    let mut listing = Listing::default();
    for name in names(&search.folder.root)? {
        if !search.folder.root.join(&name).is_dir() {
            let is_expected = split_by_name(&name).is_some() || search.names.find(&name).is_some();
            if is_expected && is_dangling(&search.folder.root.join(&name)) {
                listing.entries.push(rejected(&name, DANGLING.into()));
            }
            continue;
        }
        match split_by_name(&name) {
            // A class of the same name takes precedence over a split, so that a class called `train` can be imported.
            Some(split) if search.names.find(&name).is_none() => {
                for class in names(&search.folder.root.join(&name))? {
                    let path = format!("{name}/{class}");
                    if search.folder.root.join(&path).is_dir() {
                        class_folder(search, &path, &class, Some(split), &mut listing);
                    } else if is_dangling(&search.folder.root.join(&path)) {
                        listing.entries.push(rejected(&path, DANGLING.into()));
                    }
                }
            }
            _ => class_folder(search, &name, &name, None, &mut listing),
        }
    }
    Ok(listing)
}

/// Adds the files of a class folder.
fn class_folder(search: Search<'_>, path: &str, name: &str, split: Option<Split>, listing: &mut Listing) {
    match search.names.find(name) {
        Some(NamedClass::Class(label)) => files(search, path, &label, split, MAX_DEPTH, listing),
        Some(NamedClass::LeftOut) => {
            listing.left_out.insert(path.to_owned(), format!("the class mapping leaves {name:?} out"));
        }
        None if is_mask(name) => {}
        None => {
            let known = search.names.list();
            listing
                .entries
                .push(rejected(path, format!("{name:?} is not a class of this data set (expected one of {known})")));
        }
    }
}

/// Adds the files of a folder, recursively.
fn files(search: Search<'_>, folder: &str, label: &str, split: Option<Split>, depth: usize, listing: &mut Listing) {
    let names = match names(&search.folder.root.join(folder)) {
        Ok(names) => names,
        Err(reason) => return listing.entries.push(rejected(folder, reason)),
    };
    for name in names.into_iter().filter(|name| !is_mask(name)) {
        let path = format!("{folder}/{name}");
        // Links to files are followed when read, if they stay below the root. Links to folders are not, because they may form loops.
        let kind = search.folder.root.join(&path).symlink_metadata().map(|metadata| metadata.file_type());
        match kind {
            Err(error) => listing.entries.push(rejected(&path, error.to_string())),
            Ok(kind) if !kind.is_dir() => listing.entries.push(ImportEntry {
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
                listing.entries.push(rejected(&path, format!("folders are nested more than {MAX_DEPTH} deep")));
            }
            Ok(_) => files(search, &path, label, split, depth - 1, listing),
        }
    }
}

fn rejected(path: &str, reason: String) -> ImportEntry {
    ImportEntry { origin: EntryOrigin { file: path.to_owned(), line: None }, candidate: Err(reason.into()) }
}
