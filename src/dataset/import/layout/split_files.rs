//! COVIDx layout: a folder of images and a label file for each split. V7A has `train_split.txt`, CXR-3 and CXR-4 `train.txt`, `val.txt` and
//! `test.txt`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use unicode_normalization::UnicodeNormalization;

use crate::{
    dataset::{
        covidx::{self, Problem},
        folder::read_bounded,
        import::{
            Candidate, Rejection,
            candidate::Content,
            class_names::NamedClass,
            entry::{EntryOrigin, ImportEntry},
            split_names::split_by_name,
        },
        text::decode_labels,
    },
    domain::Split,
    store::{ExcludedRows, RejectionKind},
};

use super::{Listing, Search, is_hidden, is_mask, names};

pub(super) const TRAIN: &str = "train_split.txt";
pub(super) const TEST: &str = "test_split.txt";

/// Maximum size of a label file in bytes; the published ones have up to 5 MB.
const MAX_BYTES: u64 = 64 << 20;

/// An entry per row of the label files, and per image file without a row; none if the folder has no label files.
pub(super) fn entries(search: Search<'_>) -> Result<Option<Listing>, String> {
    let files = [
        (Split::Train, &search.folder.train_split),
        (Split::Validation, &search.folder.validation_split),
        (Split::Test, &search.folder.test_split),
    ];
    let names = names(&search.folder.root)?;
    let mut found = None;
    let (mut rows, mut problems) = (0, Vec::new());
    for (split, requested) in files {
        let name = match requested {
            Some(name) => name.clone(),
            None => match default_file(&search.folder.root, &names, split)? {
                Some(name) => name,
                None => continue,
            },
        };
        let folder = image_folder(&search.folder.root, &names, split);
        let listing = found.get_or_insert_with(Listing::default);
        let file = LabelFile { search, split, name, folder };
        rows += file.read(listing, &mut problems)?;
    }
    if rows == 0 {
        check_classes(search, &problems)?;
    }
    Ok(found)
}

/// The label file of a split: `<split>_split.txt`, else the only one of the names in use, such as `val.txt` or `val_COVIDx9A.txt`.
///
/// # Errors
/// Several files have such names.
fn default_file(root: &Path, names: &[String], split: Split) -> Result<Option<String>, String> {
    let published = format!("{split}_split.txt");
    if root.join(&published).exists() {
        return Ok(Some(published));
    }
    let named: Vec<&String> = names.iter().filter(|name| split_of_file(name) == Some(split)).collect();
    let is_label_file =
        |name: &&&String| first_line(root, name).is_some_and(|line| line.split_whitespace().count() >= 3);
    match named.iter().filter(is_label_file).collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        [name] => Ok(Some((**name).clone())),
        several => {
            let list = several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            Err(format!("the folder has several label files for {split} ({list}): choose one with {split}_split"))
        }
    }
}

/// The split of a label file by its name: `<split>.txt`, `<split>_split.txt`, or `<split>_COVIDx….txt` as in COVID-Net's repository.
fn split_of_file(name: &str) -> Option<Split> {
    let stem = name.to_lowercase();
    let stem = stem.strip_suffix(".txt")?;
    let (split, rest) = stem.split_once(['_', '-', ' ']).unwrap_or((stem, ""));
    (rest.is_empty() || rest == "split" || rest == "labels" || rest.starts_with("covidx"))
        .then(|| split_by_name(split))?
}

/// The first line with text; none if the file has none or is not readable.
fn first_line(root: &Path, name: &str) -> Option<String> {
    let text = decode_labels(&read_bounded(root, name, MAX_BYTES).ok()?);
    // An undecodable file is reported when it is read.
    let text = text.unwrap_or_else(|_| "not readable text".to_owned());
    text.lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

/// The image folder of a split: the one with its name, else the only folder with a name for it, such as `val`.
fn image_folder(root: &Path, names: &[String], split: Split) -> String {
    let mut named = names.iter().filter(|name| split_by_name(name) == Some(split) && root.join(name).is_dir());
    match named.next() {
        Some(name) if !names.iter().any(|name| name == split.as_str()) => name.clone(),
        _ => split.to_string(),
    }
}

/// Label file of a split, and the folder of its images.
struct LabelFile<'a> {
    search: Search<'a>,
    split: Split,
    name: String,
    folder: String,
}

impl LabelFile<'_> {
    /// Adds an entry for each row of the file and for each image without a row. Returns the number of valid rows.
    fn read(&self, listing: &mut Listing, problems: &mut Vec<Problem>) -> Result<usize, String> {
        let bytes = read_bounded(&self.search.folder.root, &self.name, MAX_BYTES)?;
        let text = decode_labels(&bytes).map_err(|reason| format!("{}: {reason}", self.name))?;
        let (rows, invalid) = self.search.names.parse(&text);
        let valid = rows.len();
        let files = self.files()?;
        let paths = ActualPaths::new(&files);
        let (mut entries, mut left_out) = (Vec::new(), BTreeMap::<String, u64>::new());
        let mut referenced: HashSet<String> = HashSet::new();
        for row in rows {
            let path = paths.find(format!("{}/{}", self.folder, row.file_name));
            referenced.insert(path.clone());
            match self.search.names.target(&row.class) {
                NamedClass::Class(label) => entries.push(self.entry(row, path, label)),
                NamedClass::LeftOut => {
                    *left_out.entry(row.class).or_default() += 1;
                    listing.read.push(path);
                }
            }
        }
        let rejected = |problem: &Problem| ImportEntry {
            origin: self.origin(problem.line),
            candidate: Err(problem.reason.clone().into()),
        };
        entries.extend(invalid.iter().map(rejected));
        entries.sort_by_key(|entry| entry.origin.line);
        listing.entries.append(&mut entries);
        listing.entries.extend(self.files_without_row(&files, &referenced));
        listing.excluded.extend(left_out.into_iter().map(|(class, rows)| ExcludedRows {
            source: self.name.clone(),
            reason: format!("the class mapping leaves {class:?} out"),
            rows,
        }));
        listing.read.push(self.name.clone());
        problems.extend(invalid);
        Ok(valid)
    }

    fn origin(&self, line: u32) -> EntryOrigin {
        EntryOrigin { file: self.name.clone(), line: Some(line) }
    }

    fn entry(&self, row: covidx::Row, path: String, label: String) -> ImportEntry {
        let root: Arc<Path> = self.search.folder.root.as_path().into();
        let candidate = Candidate {
            path: path.clone(),
            label,
            split: Some(self.split),
            patient_id: row.patient_id,
            source: row.source,
            attributes: None,
            content: Content::File { root, path },
        };
        ImportEntry { origin: self.origin(row.line), candidate: Ok(candidate) }
    }

    /// The files in the image folder, sorted, without hidden files and masks, which are counted elsewhere.
    fn files(&self) -> Result<Vec<String>, String> {
        let root = &self.search.folder.root;
        let mut folders = vec![self.folder.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            if !root.join(&folder).is_dir() {
                continue;
            }
            for name in names(&root.join(&folder))? {
                let path = format!("{folder}/{name}");
                let is_folder = root.join(&path).symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
                if is_mask(&name) || is_hidden(&name) {
                    continue;
                } else if is_folder {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// A rejected entry per file that no row refers to.
    fn files_without_row(&self, files: &[String], referenced: &HashSet<String>) -> Vec<ImportEntry> {
        let strays = files.iter().filter(|file| !referenced.contains(*file));
        let entry = |file: &String| {
            let reason = format!("no row of {} refers to the file, so that its class is unknown", self.name);
            let candidate = Err(Rejection { kind: RejectionKind::FileWithoutRow, reason });
            ImportEntry { origin: EntryOrigin { file: file.clone(), line: None }, candidate }
        };
        strays.map(entry).collect()
    }
}

/// Paths of files by their composed Unicode form (NFC): a label file may have `ü` as one character and the file system as two, or the
/// other way round.
struct ActualPaths<'a>(HashMap<String, &'a str>);

impl<'a> ActualPaths<'a> {
    fn new(files: &'a [String]) -> Self {
        let of_another_form = files.iter().filter(|file| !file.is_ascii());
        Self(of_another_form.map(|file| (file.nfc().collect(), file.as_str())).collect())
    }

    /// The path of the file that `path` denotes, or `path` if there is none.
    fn find(&self, path: String) -> String {
        if path.is_ascii() {
            return path;
        }
        let composed: String = path.nfc().collect();
        self.0.get(&composed).map_or(path, |actual| (*actual).to_owned())
    }
}

/// Refuses label files with the classes of COVIDx CXR-2, CXR-3 and CXR-4 for a data set with other classes, instead of rejecting each row.
fn check_classes(search: Search<'_>, problems: &[Problem]) -> Result<(), String> {
    let is_binary = |problem: &Problem| {
        let mut words = problem.line_text.split_whitespace();
        words.any(|word| matches!(word.to_lowercase().as_str(), "positive" | "negative"))
    };
    if problems.is_empty() || !problems.iter().all(is_binary) {
        return Ok(());
    }
    Err(format!(
        "the label files have the classes positive and negative (COVIDx CXR-2 to CXR-4: positive is COVID-19, negative every other \
         image), but the data set has {}: import into a data set with the classes negative,positive, or say which class each one is \
         in class_mapping (--map-class positive=COVID-19 --map-class negative=normal; an empty class leaves the images out)",
        search.classes.names().join(", ")
    ))
}
