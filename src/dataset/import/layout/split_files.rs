//! COVIDx layout: images in `train/`, `test/` and optionally `validation/`, with a label file for each split.

use std::{collections::HashSet, path::Path, sync::Arc};

use crate::{
    dataset::{
        covidx,
        folder::read_bounded,
        import::{
            Candidate, Rejection,
            candidate::Content,
            entry::{EntryOrigin, ImportEntry},
        },
    },
    domain::Split,
    store::RejectionKind,
};

use super::Search;

pub(super) const TRAIN: &str = "train_split.txt";
pub(super) const TEST: &str = "test_split.txt";
const VALIDATION: &str = "validation_split.txt";

/// Maximum size of a label file in bytes; the published ones have 1.3 MB.
const MAX_BYTES: u64 = 64 << 20;

/// An entry per row of the label files, and per image file without a row; none if the folder has no label files.
pub(super) fn entries(search: Search<'_>) -> Result<Option<Vec<ImportEntry>>, String> {
    let files = [
        (Split::Train, &search.folder.train_split, TRAIN),
        (Split::Validation, &None, VALIDATION),
        (Split::Test, &search.folder.test_split, TEST),
    ];
    let mut entries = None;
    for (split, requested, default) in files {
        let name = match requested {
            Some(name) => name.as_str(),
            None if search.folder.root.join(default).exists() => default,
            None => continue,
        };
        let rows = rows(search, split, name)?;
        let strays = files_without_row(search, split, name, &rows)?;
        entries.get_or_insert_with(Vec::new).extend(rows.into_iter().chain(strays));
    }
    Ok(entries)
}

/// The entries of a label file.
fn rows(search: Search<'_>, split: Split, name: &str) -> Result<Vec<ImportEntry>, String> {
    let bytes = read_bounded(&search.folder.root, name, MAX_BYTES)?;
    let (rows, problems) = covidx::parse(&String::from_utf8_lossy(&bytes), search.classes);
    let origin = |line| EntryOrigin { file: name.to_owned(), line: Some(line) };
    let root: Arc<Path> = search.folder.root.as_path().into();
    let candidates = rows.into_iter().map(|row| {
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
        ImportEntry { origin: origin(row.line), candidate: Ok(candidate) }
    });
    let rejected = problems
        .into_iter()
        .map(|problem| ImportEntry { origin: origin(problem.line), candidate: Err(problem.reason.into()) });
    let mut entries: Vec<ImportEntry> = candidates.chain(rejected).collect();
    entries.sort_by_key(|entry| entry.origin.line);
    Ok(entries)
}

/// A rejected entry per file in the image folder of a split that no row of the label file `name` refers to. Hidden files are ignored.
fn files_without_row(
    search: Search<'_>,
    split: Split,
    name: &str,
    rows: &[ImportEntry],
) -> Result<Vec<ImportEntry>, String> {
    let folder = search.folder.root.join(split.as_str());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let referenced: HashSet<&Path> =
        rows.iter().filter_map(|row| row.candidate.as_ref().ok()).map(|candidate| Path::new(&candidate.path)).collect();
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut strays = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = format!("{split}/{}", entry.file_name().to_string_lossy());
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && !entry.path().is_dir() && !referenced.contains(Path::new(&file)) {
            strays.push(file);
        }
    }
    strays.sort();
    let entry = |file: String| {
        let reason = format!("no row of {name} refers to the file, so that its class is unknown");
        let candidate = Err(Rejection { kind: RejectionKind::FileWithoutRow, reason });
        ImportEntry { origin: EntryOrigin { file, line: None }, candidate }
    };
    Ok(strays.into_iter().map(entry).collect())
}
