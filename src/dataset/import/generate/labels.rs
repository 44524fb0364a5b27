//! Generation by published label files, whose file names differ slightly from those of the sources.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    dataset::{
        covidx,
        folder::read_bounded,
        import::{
            Candidate, Rejection,
            candidate::Content,
            entry::{EntryOrigin, ImportEntry},
            layout::names,
        },
        text::decode_labels,
    },
    domain::{ClassList, Split},
    store::RejectionKind,
};

use super::{
    Source, SourceFolders, clinical,
    image_index::{ImageIndex, by_letters, by_stem},
    rsna,
};

/// Maximum size of a label file in bytes; the published ones have 1.3 MB.
const MAX_BYTES: u64 = 64 << 20;

/// An entry per row of the label files, in order.
pub(super) fn entries(
    sources: &SourceFolders,
    files: &[(Split, PathBuf)],
    classes: &ClassList,
) -> Result<Vec<ImportEntry>, String> {
    let mut images = BTreeMap::new();
    for source in Source::ALL {
        if let Some(folder) = sources.folder(source) {
            let index = list(source, folder).map_err(|error| format!("{}: {error}", source.as_str()))?;
            images.insert(source, index);
        }
    }
    let mut entries = Vec::new();
    for (split, file) in files {
        entries.extend(file_entries(*split, file, &images, classes)?);
    }
    Ok(entries)
}

/// Indexes the images of a source.
fn list(source: Source, folder: &Path) -> Result<ImageIndex, String> {
    match source {
        Source::Radiography => {
            // One folder per class; from version 4 on, the images are in a subfolder.
            let folders: Vec<String> = names(folder)?.into_iter().filter(|name| folder.join(name).is_dir()).collect();
            let subfolders: Vec<String> = folders.iter().map(|name| format!("{name}/images")).collect();
            ImageIndex::list(folder, &[folders, subfolders].concat(), by_letters)
        }
        Source::Rsna => ImageIndex::list(folder, &[rsna::IMAGES.to_owned()], by_stem),
        _ => ImageIndex::list(folder, &[clinical::IMAGES.to_owned()], by_stem),
    }
}

/// The entries of a label file.
fn file_entries(
    split: Split,
    file: &Path,
    images: &BTreeMap<Source, ImageIndex>,
    classes: &ClassList,
) -> Result<Vec<ImportEntry>, String> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bytes = read_bounded(folder, &name, MAX_BYTES)?;
    let text = decode_labels(&bytes).map_err(|reason| format!("{name}: {reason}"))?;
    let (rows, problems) = covidx::parse(&text, classes);
    let origin = |line| EntryOrigin { file: name.clone(), line: Some(line) };
    let mut entries: Vec<ImportEntry> = rows
        .into_iter()
        .map(|row| ImportEntry {
            origin: origin(row.line),
            candidate: find(&row, images).map(|image| image.candidate(split, row)),
        })
        .collect();
    entries.extend(
        problems
            .into_iter()
            .map(|problem| ImportEntry { origin: origin(problem.line), candidate: Err(problem.reason.into()) }),
    );
    entries.sort_by_key(|entry| entry.origin.line);
    Ok(entries)
}

/// Image of a source.
struct SourceImage {
    source: Source,
    content: Content,
}

/// The image of a row: in the source named by the row, else in the only source with such a file.
fn find(row: &covidx::Row, images: &BTreeMap<Source, ImageIndex>) -> Result<SourceImage, Rejection> {
    let missing = |reason: String| Rejection { kind: RejectionKind::RowWithoutFile, reason };
    let image = |source: Source, path: &str| SourceImage { source, content: images[&source].content(path) };
    if let Some(name) = &row.source {
        let source = Source::ALL.into_iter().find(|source| source.as_str() == name);
        let listed = source.and_then(|source| Some((source, images.get(&source)?)));
        let (source, listed) =
            listed.ok_or_else(|| missing(format!("{}: the folder of source {name} is not given", row.file_name)))?;
        return listed.find(&row.file_name).map(|path| image(source, path));
    }
    let mut matches = Vec::new();
    for (source, listed) in images {
        match listed.find(&row.file_name) {
            Ok(path) => matches.push(image(*source, path)),
            Err(rejection) if rejection.kind == RejectionKind::RowWithoutFile => {}
            Err(ambiguous) => return Err(ambiguous),
        }
    }
    match matches.len() {
        0 => Err(missing(format!("{}: no given source has such a file", row.file_name))),
        1 => Ok(matches.remove(0)),
        _ => {
            let sources: Vec<&str> = matches.iter().map(|image| image.source.as_str()).collect();
            Err(format!(
                "{}: the row names no source, and several have such a file: {}",
                row.file_name,
                sources.join(", ")
            )
            .into())
        }
    }
}

impl SourceImage {
    fn candidate(self, split: Split, row: covidx::Row) -> Candidate {
        Candidate {
            path: format!("{}/{}", self.source.as_str(), row.file_name),
            label: row.class,
            split: Some(split),
            patient_id: row.patient_id,
            // Unchanged, so that an export reproduces the published label file.
            source: row.source,
            attributes: None,
            content: self.content,
        }
    }
}
