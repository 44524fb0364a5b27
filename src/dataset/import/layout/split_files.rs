//! The COVIDx layout: images in `train/` and `test/`, and a split file for each.

use crate::{
    dataset::{covidx, folder::read_bounded, import::Candidate, import::ImportRequest},
    domain::Split,
};

use super::{Entry, Origin};

pub(super) const TRAIN: &str = "train_split.txt";
pub(super) const TEST: &str = "test_split.txt";

/// Largest accepted split file; the published ones have 1.3 MB.
const MAX_BYTES: u64 = 64 << 20;

/// The rows of the split files that the request names or the folder holds; `None` if there are none.
pub(super) fn entries(request: &ImportRequest) -> Result<Option<Vec<Entry>>, String> {
    let files = [(Split::Train, &request.train_split, TRAIN), (Split::Test, &request.test_split, TEST)];
    let mut entries = None;
    for (split, named, usual) in files {
        let name = match named {
            Some(name) => name.as_str(),
            None if request.root.join(usual).exists() => usual,
            None => continue,
        };
        entries.get_or_insert_with(Vec::new).extend(rows(request, split, name)?);
    }
    Ok(entries)
}

fn rows(request: &ImportRequest, split: Split, name: &str) -> Result<Vec<Entry>, String> {
    let bytes = read_bounded(&request.root, name, MAX_BYTES)?;
    let (rows, problems) = covidx::parse(&String::from_utf8_lossy(&bytes), &request.dataset.classes);
    let origin = |line| Origin { file: name.to_owned(), line: Some(line) };
    let good = rows.into_iter().map(|row| Entry {
        origin: origin(row.line),
        found: Ok(Candidate {
            path: format!("{split}/{}", row.file_name),
            label: row.class,
            split: Some(split),
            patient_id: Some(row.patient_id),
            source: row.source,
        }),
    });
    let bad = problems.into_iter().map(|problem| Entry { origin: origin(problem.line), found: Err(problem.reason) });
    let mut entries: Vec<Entry> = good.chain(bad).collect();
    entries.sort_by_key(|entry| entry.origin.line);
    Ok(entries)
}
