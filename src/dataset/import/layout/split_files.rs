//! The COVIDx layout: images in `train/`, `test/` and, where it has one, `validation/`, and a split file for each.

use std::{collections::HashSet, path::Path, sync::Arc};

use crate::{
    dataset::{
        covidx,
        folder::read_bounded,
        import::{Candidate, Refused, candidate::Content},
    },
    domain::Split,
    store::RejectionKind,
};

use super::{Entry, Origin, Search};

pub(super) const TRAIN: &str = "train_split.txt";
pub(super) const TEST: &str = "test_split.txt";
const VALIDATION: &str = "validation_split.txt";

/// Largest accepted split file; the published ones have 1.3 MB.
const MAX_BYTES: u64 = 64 << 20;

/// The rows of the split files that the search names or the folder holds; `None` if there are none.
pub(super) fn entries(search: Search<'_>) -> Result<Option<Vec<Entry>>, String> {
    let files = [
        (Split::Train, &search.folder.train_split, TRAIN),
        (Split::Validation, &None, VALIDATION),
        (Split::Test, &search.folder.test_split, TEST),
    ];
    let mut entries = None;
    for (split, named, usual) in files {
        let name = match named {
            Some(name) => name.as_str(),
            None if search.folder.root.join(usual).exists() => usual,
            None => continue,
        };
        let rows = rows(search, split, name)?;
        let strays = files_without_row(search, split, name, &rows)?;
        entries.get_or_insert_with(Vec::new).extend(rows.into_iter().chain(strays));
    }
    Ok(entries)
}

fn rows(search: Search<'_>, split: Split, name: &str) -> Result<Vec<Entry>, String> {
    let bytes = read_bounded(&search.folder.root, name, MAX_BYTES)?;
    let (rows, problems) = covidx::parse(&String::from_utf8_lossy(&bytes), search.classes);
    let origin = |line| Origin { file: name.to_owned(), line: Some(line) };
    let root: Arc<Path> = search.folder.root.as_path().into();
    let good = rows.into_iter().map(|row| {
        let path = format!("{split}/{}", row.file_name);
        let candidate = Candidate {
            path: path.clone(),
            label: row.class,
            split: Some(split),
            patient_id: row.patient_id,
            source: row.source,
            attributes: None,
            content: Content::File { root: Arc::clone(&root), path },
        };
        Entry { origin: origin(row.line), found: Ok(candidate) }
    });
    let bad =
        problems.into_iter().map(|problem| Entry { origin: origin(problem.line), found: Err(problem.reason.into()) });
    let mut entries: Vec<Entry> = good.chain(bad).collect();
    entries.sort_by_key(|entry| entry.origin.line);
    Ok(entries)
}

/// The files in the folder of a split's images that none of `rows`, which are of the split file `name`, means; hidden ones, which systems
/// leave behind, are passed over.
fn files_without_row(search: Search<'_>, split: Split, name: &str, rows: &[Entry]) -> Result<Vec<Entry>, String> {
    let folder = search.folder.root.join(split.as_str());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let named: HashSet<&Path> =
        rows.iter().filter_map(|row| row.found.as_ref().ok()).map(|found| Path::new(&found.path)).collect();
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut strays = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = format!("{split}/{}", entry.file_name().to_string_lossy());
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && !entry.path().is_dir() && !named.contains(Path::new(&file)) {
            strays.push(file);
        }
    }
    strays.sort();
    let entry = |file: String| {
        let reason = format!("no row of {name} names it, so that its class is unknown");
        let found = Err(Refused { kind: RejectionKind::FileWithoutRow, reason });
        Entry { origin: Origin { file, line: None }, found }
    };
    Ok(strays.into_iter().map(entry).collect())
}
