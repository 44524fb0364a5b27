//! NumPy arrays: `x_<split>_<side>.npy` or `x_<split>.npy` with images, and `y_<split>.npy` with their labels.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dataset::import::{
        Candidate, Rejection,
        candidate::Content,
        entry::{EntryOrigin, ImportEntry},
        image_array::{self, ImageArray},
        split_names::split_by_name,
    },
    domain::Split,
};

use super::{Listing, Search, names};

/// An entry per array row; none if the folder has no array of images.
pub(super) fn entries(search: Search<'_>) -> Result<Option<Listing>, String> {
    let mut arrays: BTreeMap<(Split, String), Vec<String>> = BTreeMap::new();
    for name in names(&search.folder.root)? {
        if let Some(key) = split_of_array(&name) {
            arrays.entry(key).or_default().push(name);
        }
    }
    if arrays.is_empty() {
        return Ok(None);
    }
    let mut listing = Listing::default();
    for ((split, label), names) in arrays {
        let labels = format!("y_{label}.npy");
        listing.read.extend(names.iter().cloned());
        listing.read.push(labels.clone());
        largest_array(search, split, &labels, names, &mut listing.entries);
    }
    Ok(Some(listing))
}

/// The split of an array of images, and the name of the split in its file name.
fn split_of_array(name: &str) -> Option<(Split, String)> {
    let name = name.strip_prefix("x_")?.strip_suffix(".npy")?;
    let label = match name.rsplit_once('_') {
        Some((label, side)) if !side.is_empty() && side.bytes().all(|byte| byte.is_ascii_digit()) => label,
        _ => name,
    };
    Some((split_by_name(label)?, label.to_owned()))
}

/// Reads the largest of several arrays of the same images in different sizes; the others are rejected.
fn largest_array(search: Search<'_>, split: Split, labels: &str, names: Vec<String>, entries: &mut Vec<ImportEntry>) {
    let mut open = Vec::new();
    for name in names {
        match ImageArray::open(&search.folder.root, &name, search.limits) {
            Ok(array) => open.push((name, array)),
            Err(reason) => entries.push(rejected(name, reason)),
        }
    }
    open.sort_by_key(|(_, array)| array.pixels());
    if let Some((name, array)) = open.pop() {
        let skipped = |(smaller, _)| rejected(smaller, format!("skipped in favour of {name}, which is larger"));
        entries.extend(open.into_iter().map(skipped));
        rows(search, split, labels, &name, array, entries);
    }
}

/// Adds an entry per row of an array.
fn rows(search: Search<'_>, split: Split, labels: &str, name: &str, array: ImageArray, entries: &mut Vec<ImportEntry>) {
    let labels_of_rows = match image_array::labels(&search.folder.root, labels, search.classes) {
        Ok(labels) if labels.len() as u64 == array.rows() => labels,
        Ok(found) => {
            let reason = format!("{} images, but {} labels in {labels}", array.rows(), found.len());
            return entries.push(rejected(name.to_owned(), reason));
        }
        Err(reason) => return entries.push(rejected(name.to_owned(), reason)),
    };
    let array = Arc::new(array);
    let stem = name.trim_end_matches(".npy");
    for (row, label) in (0..).zip(labels_of_rows) {
        let candidate = |label| Candidate {
            path: format!("{stem}_{row:06}.png"),
            label,
            split: Some(split),
            patient_id: None,
            source: None,
            attributes: None,
            content: Content::Row { array: Arc::clone(&array), row },
        };
        let origin = EntryOrigin { file: format!("{name}[{row}]"), line: None };
        entries.push(ImportEntry { origin, candidate: label.map(candidate).map_err(Rejection::from) });
    }
}

fn rejected(file: String, reason: String) -> ImportEntry {
    ImportEntry { origin: EntryOrigin { file, line: None }, candidate: Err(reason.into()) }
}
