//! Arrays of NumPy: `x_<split>_<side>.npy` or `x_<split>.npy` with the images, `y_<split>.npy` with their labels.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    dataset::import::{
        Candidate, Refused,
        candidate::Content,
        image_array::{self, ImageArray},
    },
    domain::Split,
};

use super::{Entry, Origin, Search, names, split_called};

/// A row of each array; `None` if the folder has no array of images.
pub(super) fn entries(search: Search<'_>) -> Result<Option<Vec<Entry>>, String> {
    let mut arrays: BTreeMap<(Split, String), Vec<String>> = BTreeMap::new();
    for name in names(&search.folder.root)? {
        if let Some(key) = images_of(&name) {
            arrays.entry(key).or_default().push(name);
        }
    }
    if arrays.is_empty() {
        return Ok(None);
    }
    let mut entries = Vec::new();
    for ((split, called), names) in arrays {
        largest(search, split, &format!("y_{called}.npy"), names, &mut entries);
    }
    Ok(Some(entries))
}

/// The split of an array of images, and what its name calls it.
fn images_of(name: &str) -> Option<(Split, String)> {
    let name = name.strip_prefix("x_")?.strip_suffix(".npy")?;
    let called = match name.rsplit_once('_') {
        Some((called, side)) if !side.is_empty() && side.bytes().all(|byte| byte.is_ascii_digit()) => called,
        _ => name,
    };
    Some((split_called(called)?, called.to_owned()))
}

/// Of several arrays of the same images in several sizes the largest is read.
fn largest(search: Search<'_>, split: Split, labels: &str, names: Vec<String>, entries: &mut Vec<Entry>) {
    let mut open = Vec::new();
    for name in names {
        match ImageArray::open(&search.folder.root, &name, search.limits) {
            Ok(array) => open.push((name, array)),
            Err(reason) => entries.push(refused(name, reason)),
        }
    }
    open.sort_by_key(|(_, array)| array.pixels());
    if let Some((name, array)) = open.pop() {
        let passed_over = |(smaller, _)| refused(smaller, format!("passed over for {name}, which is larger"));
        entries.extend(open.into_iter().map(passed_over));
        rows(search, split, labels, &name, array, entries);
    }
}

fn rows(search: Search<'_>, split: Split, labels: &str, name: &str, array: ImageArray, entries: &mut Vec<Entry>) {
    let found = match image_array::labels(&search.folder.root, labels, search.classes) {
        Ok(found) if found.len() as u64 == array.rows() => found,
        Ok(found) => {
            let reason = format!("{} images and {} labels in {labels}", array.rows(), found.len());
            return entries.push(refused(name.to_owned(), reason));
        }
        Err(reason) => return entries.push(refused(name.to_owned(), reason)),
    };
    let array = Arc::new(array);
    let stem = name.trim_end_matches(".npy");
    for (row, label) in (0..).zip(found) {
        let candidate = |label| Candidate {
            path: format!("{stem}_{row:06}.png"),
            label,
            split: Some(split),
            patient_id: None,
            source: None,
            attributes: None,
            content: Content::Row { array: Arc::clone(&array), row },
        };
        let origin = Origin { file: format!("{name}[{row}]"), line: None };
        entries.push(Entry { origin, found: label.map(candidate).map_err(Refused::from) });
    }
}

fn refused(file: String, reason: String) -> Entry {
    Entry { origin: Origin { file, line: None }, found: Err(reason.into()) }
}
