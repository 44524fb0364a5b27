//! `sources.csv` of an import folder: metadata of the images besides class and patient (RFC 4180, with a header line).
//!
//! `filename` identifies the image, together with `split` if a name occurs in several splits. The other columns are `view`, `age`, `sex`,
//! `original_width`, `original_height`, `original_mode`, `original_format`, `source` (where it was published) and `license`. All columns
//! except `filename` are optional.

use std::collections::HashMap;

use crate::{
    dataset::{folder::read_bounded, text::decode_table},
    domain::MAX_TEXT_LENGTH,
    store::Attributes,
};

use super::{
    Candidate, LabelledFolder,
    entry::{EntryOrigin, ImportEntry},
    split_names::split_by_name,
};

/// Name of the file in the import folder.
const FILE: &str = "sources.csv";

/// Maximum size of the file in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Maximum reported age in years; higher ages could identify a person.
const MAX_AGE: u32 = 90;

/// Parsed `sources.csv`: attributes by image path, and the invalid lines.
#[derive(Debug, Default)]
pub(super) struct SourcesFile {
    by_path: HashMap<String, Attributes>,
    /// True if the folder has the file.
    exists: bool,
    /// Line number, if known, and reason.
    problems: Vec<(Option<u32>, String)>,
}

impl SourcesFile {
    /// Reads the file of a folder; empty if the folder has none.
    pub(super) fn read(folder: &LabelledFolder) -> Self {
        if !folder.root.join(FILE).exists() {
            return Self::default();
        }
        let text = read_bounded(&folder.root, FILE, MAX_BYTES).and_then(|bytes| decode_table(&bytes));
        let parsed = match text {
            Ok(text) => Self::parse(text.as_bytes()),
            Err(reason) => Self { problems: vec![(None, reason)], ..Self::default() },
        };
        Self { exists: true, ..parsed }
    }

    /// The name of the file if the folder has it.
    pub(super) fn file(&self) -> Option<&'static str> {
        self.exists.then_some(FILE)
    }

    /// Sets the attributes of the candidates. Invalid lines become rejected entries before all others.
    pub(super) fn annotate(self, entries: &mut Vec<ImportEntry>) {
        for candidate in entries.iter_mut().filter_map(|entry| entry.candidate.as_mut().ok()) {
            candidate.attributes = self.attributes(candidate).cloned();
        }
        let problem = |(line, reason): (Option<u32>, String)| ImportEntry {
            origin: EntryOrigin { file: FILE.to_owned(), line },
            candidate: Err(reason.into()),
        };
        entries.splice(0..0, self.problems.into_iter().map(problem));
    }

    /// The attributes of an image: by path or split and name, else by name.
    fn attributes(&self, Candidate { path, split, .. }: &Candidate) -> Option<&Attributes> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let by_split = || self.by_path.get(&format!("{}/{name}", (*split)?));
        self.by_path.get(path).or_else(by_split).or_else(|| self.by_path.get(name))
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut sources = Self::default();
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
        let headers = match reader.byte_headers() {
            Ok(headers) => {
                headers.iter().map(|header| String::from_utf8_lossy(header).to_lowercase()).collect::<Vec<_>>()
            }
            Err(error) => return Self { problems: vec![(Some(1), error.to_string())], ..Self::default() },
        };
        if !headers.iter().any(|header| header == "filename") {
            return Self { problems: vec![(Some(1), "column `filename` is missing".into())], ..Self::default() };
        }
        for record in reader.byte_records() {
            match record {
                Ok(record) => sources.add(&Row { headers: &headers, record: &record }),
                Err(error) => {
                    let line = error.position().and_then(|position| u32::try_from(position.line()).ok());
                    sources.problems.push((line, error.to_string()));
                }
            }
        }
        sources
    }

    fn add(&mut self, row: &Row<'_>) {
        let line = row.record.position().and_then(|position| u32::try_from(position.line()).ok());
        let Some(name) = row.text("filename") else {
            return self.problems.push((line, "filename is empty".into()));
        };
        if row.record.len() != row.headers.len() {
            let (actual, expected) = (row.record.len(), row.headers.len());
            return self.problems.push((line, format!("{name}: the line has {actual} columns instead of {expected}")));
        }
        let folder = |split: String| split_by_name(&split).map_or(split.to_lowercase(), |split| split.to_string());
        let path = row.text("split").map_or_else(|| name.clone(), |split| format!("{}/{name}", folder(split)));
        self.by_path.insert(path, row.attributes());
    }
}

/// Line of the file.
struct Row<'a> {
    headers: &'a [String],
    record: &'a csv::ByteRecord,
}

impl Row<'_> {
    /// The text of a column without control characters; none if empty.
    fn text(&self, column: &str) -> Option<String> {
        let at = self.headers.iter().position(|header| header == column)?;
        let text = String::from_utf8_lossy(self.record.get(at)?);
        let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_LENGTH).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn attributes(&self) -> Attributes {
        let side = |column| self.text(column).and_then(|text| text.parse().ok()).filter(|side| *side > 0);
        Attributes {
            collection: self.text("source"),
            view: self.text("view"),
            age_years: self.text("age").as_deref().and_then(age),
            sex: self.text("sex").as_deref().and_then(sex),
            original_width: side("original_width"),
            original_height: side("original_height"),
            original_mode: self.text("original_mode"),
            original_format: self.text("original_format").map(|format| format.to_uppercase()),
            licence: self.text("license").or_else(|| self.text("licence")),
        }
    }
}

/// Whole years of an age such as `57`, `57.0` or `057Y`; 90 for all ages above.
pub(super) fn age(text: &str) -> Option<u32> {
    let years: f64 = text.trim_end_matches(['Y', 'y']).parse().ok()?;
    (0.0..=150.0).contains(&years).then(|| (years as u32).min(MAX_AGE))
}

/// Normalises to `female` or `male`.
pub(super) fn sex(text: &str) -> Option<String> {
    match text.to_lowercase().as_str() {
        "f" | "female" | "w" => Some("female".into()),
        "m" | "male" => Some("male".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::candidate::Content, *};
    use crate::domain::Split;

    fn image(path: &str, split: Option<Split>) -> Candidate {
        let content = Content::File { root: Path::new("/").into(), path: path.to_owned() };
        let (label, path) = ("normal".to_owned(), path.to_owned());
        Candidate { path, label, split, patient_id: None, source: None, attributes: None, content }
    }

    #[test]
    fn rows_are_found_by_split_and_name_with_normalised_values() {
        let text = "split,filename,view,age,sex,original_width,original_format,source,license,unheard-of\n\
                    train,a.png,AP Supine,93.0,M,1024,png,\"one, of two\",CC0,x\n\
                    test,a.png,,,female,,,,,\n";
        let sources = SourcesFile::parse(text.as_bytes());
        assert_eq!(sources.problems, []);
        let first = sources.attributes(&image("train/a.png", Some(Split::Train))).unwrap();
        let expected = Attributes {
            collection: Some("one, of two".into()),
            view: Some("AP Supine".into()),
            age_years: Some(90),
            sex: Some("male".into()),
            original_width: Some(1024),
            original_format: Some("PNG".into()),
            licence: Some("CC0".into()),
            ..Attributes::default()
        };
        assert_eq!(*first, expected);
        let second = Attributes { sex: Some("female".into()), ..Attributes::default() };
        assert_eq!(sources.attributes(&image("Testing/normal/a.png", Some(Split::Test))), Some(&second));
        assert_eq!(sources.attributes(&image("train/b.png", Some(Split::Train))), None);
    }

    #[test]
    fn rows_without_split_are_found_by_name() {
        let sources = SourcesFile::parse(b"filename,age\na.png,057Y\n");
        assert_eq!(sources.attributes(&image("normal/a.png", None)).unwrap().age_years, Some(57));
    }

    #[test]
    fn invalid_lines_are_reported_by_number() {
        let sources = SourcesFile::parse(b"filename,age\na.png,5,7\n,3\nb.png,soon\n");
        let lines: Vec<_> = sources.problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(2), Some(3)]);
        assert_eq!(sources.attributes(&image("b.png", None)).unwrap().age_years, None);
        assert_eq!(
            SourcesFile::parse(b"name\na.png\n").problems,
            [(Some(1), "column `filename` is missing".to_owned())]
        );
    }
}
