//! Published label files applied to the sources' images, which are called almost as the rows say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    dataset::{
        covidx,
        folder::read_bounded,
        import::{
            Candidate, Refused,
            candidate::Content,
            layout::{Entry, Origin, names},
        },
    },
    domain::{ClassList, Split},
    store::RejectionKind,
};

use super::{
    Source, SourceFolders, clinical,
    pictures::{Pictures, by_letters, by_stem},
    rsna,
};

/// Largest accepted label file; the published ones have 1.3 MB.
const MAX_BYTES: u64 = 64 << 20;

/// A row of each file, in their order.
pub(super) fn entries(
    sources: &SourceFolders,
    files: &[(Split, PathBuf)],
    classes: &ClassList,
) -> Result<Vec<Entry>, String> {
    let mut pictures = BTreeMap::new();
    for source in Source::ALL {
        if let Some(folder) = sources.folder(source) {
            let listed = list(source, folder).map_err(|why| format!("{}: {why}", source.as_str()))?;
            pictures.insert(source, listed);
        }
    }
    let mut entries = Vec::new();
    for (split, file) in files {
        entries.extend(of_file(*split, file, &pictures, classes)?);
    }
    Ok(entries)
}

fn list(source: Source, folder: &Path) -> Result<Pictures, String> {
    match source {
        Source::Radiography => {
            // A folder a class, and from version 4 on one of images within it.
            let folders: Vec<String> = names(folder)?.into_iter().filter(|name| folder.join(name).is_dir()).collect();
            let deeper: Vec<String> = folders.iter().map(|name| format!("{name}/images")).collect();
            Pictures::list(folder, &[folders, deeper].concat(), by_letters)
        }
        Source::Rsna => Pictures::list(folder, &[rsna::IMAGES.to_owned()], by_stem),
        _ => Pictures::list(folder, &[clinical::IMAGES.to_owned()], by_stem),
    }
}

fn of_file(
    split: Split,
    file: &Path,
    pictures: &BTreeMap<Source, Pictures>,
    classes: &ClassList,
) -> Result<Vec<Entry>, String> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bytes = read_bounded(folder, &name, MAX_BYTES)?;
    let (rows, problems) = covidx::parse(&String::from_utf8_lossy(&bytes), classes);
    let origin = |line| Origin { file: name.clone(), line: Some(line) };
    let mut entries: Vec<Entry> = rows
        .into_iter()
        .map(|row| Entry {
            origin: origin(row.line),
            found: find(&row, pictures).map(|found| found.candidate(split, row)),
        })
        .collect();
    entries.extend(
        problems.into_iter().map(|problem| Entry { origin: origin(problem.line), found: Err(problem.reason.into()) }),
    );
    entries.sort_by_key(|entry| entry.origin.line);
    Ok(entries)
}

struct Found {
    source: Source,
    content: Content,
}

/// In the source that the row names, or else in the only one that has such a file.
fn find(row: &covidx::Row, pictures: &BTreeMap<Source, Pictures>) -> Result<Found, Refused> {
    let missing = |reason: String| Refused { kind: RejectionKind::RowWithoutFile, reason };
    let found = |source: Source, path: &str| Found { source, content: pictures[&source].content(path) };
    if let Some(named) = &row.source {
        let source = Source::ALL.into_iter().find(|source| source.as_str() == named);
        let listed = source.and_then(|source| Some((source, pictures.get(&source)?)));
        let (source, listed) =
            listed.ok_or_else(|| missing(format!("{}: no folder of {named} was given", row.file_name)))?;
        return listed.find(&row.file_name).map(|path| found(source, path));
    }
    let mut everywhere = Vec::new();
    for (source, listed) in pictures {
        match listed.find(&row.file_name) {
            Ok(path) => everywhere.push(found(*source, path)),
            Err(refused) if refused.kind == RejectionKind::RowWithoutFile => {}
            Err(several) => return Err(several),
        }
    }
    match everywhere.len() {
        0 => Err(missing(format!("{}: no source that was given has such a file", row.file_name))),
        1 => Ok(everywhere.remove(0)),
        _ => {
            let sources: Vec<&str> = everywhere.iter().map(|found| found.source.as_str()).collect();
            Err(format!("{}: the row names no source, and {} have such a file", row.file_name, sources.join(" and "))
                .into())
        }
    }
}

impl Found {
    fn candidate(self, split: Split, row: covidx::Row) -> Candidate {
        Candidate {
            path: format!("{}/{}", self.source.as_str(), row.file_name),
            label: row.class,
            split: Some(split),
            patient_id: row.patient_id,
            // As the file has it: what is exported again is what was published.
            source: row.source,
            attributes: None,
            content: self.content,
        }
    }
}
