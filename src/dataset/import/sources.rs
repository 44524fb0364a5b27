//! `sources.csv` of a folder: what is known of its images beside class and patient (RFC 4180, a line of names first).
//!
//! `filename` names the image, with `split` where names occur in both. The other columns are `view`, `age`, `sex`, `original_width`,
//! `original_height`, `original_mode`, `original_format`, `source` (where it was published) and `license`. Any but the first may be
//! missing or empty.

use std::collections::HashMap;

use crate::{dataset::folder::read_bounded, store::Attributes};

use super::{
    LabelledFolder,
    layout::{Entry, Origin},
};

/// Its name in the folder.
const FILE: &str = "sources.csv";

/// Largest that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Longest text that is kept, in characters.
const LONGEST_TEXT: usize = 255;

/// Years from which on an age could name a person.
const OLDEST: u32 = 90;

/// What the file says, by the image's place in the folder, and the lines that could not be read.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_path: HashMap<String, Attributes>,
    /// Line and reason.
    problems: Vec<(Option<u32>, String)>,
}

impl Sources {
    /// Of the folder, if it has such a file.
    pub(super) fn read(folder: &LabelledFolder) -> Self {
        if !folder.root.join(FILE).exists() {
            return Self::default();
        }
        match read_bounded(&folder.root, FILE, MAX_BYTES) {
            Ok(bytes) => Self::parse(&bytes),
            Err(reason) => Self { problems: vec![(None, reason)], ..Self::default() },
        }
    }

    /// Tells each image what the file says of it; lines that could not be read become entries before all others.
    pub(super) fn tell(self, entries: &mut Vec<Entry>) {
        for candidate in entries.iter_mut().filter_map(|entry| entry.found.as_mut().ok()) {
            candidate.attributes = self.of(&candidate.path).cloned();
        }
        let problem = |(line, reason): (Option<u32>, String)| Entry {
            origin: Origin { file: FILE.to_owned(), line },
            found: Err(reason.into()),
        };
        entries.splice(0..0, self.problems.into_iter().map(problem));
    }

    fn of(&self, path: &str) -> Option<&Attributes> {
        let name = path.rsplit('/').next().unwrap_or_default();
        self.by_path.get(path).or_else(|| self.by_path.get(name))
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut sources = Self::default();
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
        let heads = match reader.byte_headers() {
            Ok(heads) => heads.iter().map(|head| String::from_utf8_lossy(head).to_lowercase()).collect::<Vec<_>>(),
            Err(error) => return Self { problems: vec![(Some(1), error.to_string())], ..Self::default() },
        };
        if !heads.iter().any(|head| head == "filename") {
            return Self { problems: vec![(Some(1), "has no column `filename`".into())], ..Self::default() };
        }
        for record in reader.byte_records() {
            match record {
                Ok(record) => sources.take(&Row { heads: &heads, record: &record }),
                Err(error) => {
                    let line = error.position().and_then(|position| u32::try_from(position.line()).ok());
                    sources.problems.push((line, error.to_string()));
                }
            }
        }
        sources
    }

    fn take(&mut self, row: &Row<'_>) {
        let line = row.record.position().and_then(|position| u32::try_from(position.line()).ok());
        let Some(name) = row.text("filename") else {
            return self.problems.push((line, "names no file".into()));
        };
        if row.record.len() != row.heads.len() {
            let (has, wants) = (row.record.len(), row.heads.len());
            return self.problems.push((line, format!("{name}: {has} columns where the first line names {wants}")));
        }
        let path = row.text("split").map_or_else(|| name.clone(), |split| format!("{}/{name}", split.to_lowercase()));
        self.by_path.insert(path, row.attributes());
    }
}

struct Row<'a> {
    heads: &'a [String],
    record: &'a csv::ByteRecord,
}

impl Row<'_> {
    /// Without what a terminal would obey; None where it is empty.
    fn text(&self, head: &str) -> Option<String> {
        let at = self.heads.iter().position(|name| name == head)?;
        let text = String::from_utf8_lossy(self.record.get(at)?);
        let text: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn attributes(&self) -> Attributes {
        let side = |head| self.text(head).and_then(|text| text.parse().ok()).filter(|side| *side > 0);
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

/// Whole years, 90 for all above; collections write `57`, `57.0` and `057Y`.
pub(super) fn age(text: &str) -> Option<u32> {
    let years: f64 = text.trim_end_matches(['Y', 'y']).parse().ok()?;
    (0.0..=150.0).contains(&years).then(|| (years as u32).min(OLDEST))
}

/// `female` or `male`.
pub(super) fn sex(text: &str) -> Option<String> {
    match text.to_lowercase().as_str() {
        "f" | "female" | "w" => Some("female".into()),
        "m" | "male" => Some("male".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_split_and_name_and_its_values_are_made_alike() {
        let text = "split,filename,view,age,sex,original_width,original_format,source,license,unheard-of\n\
                    train,a.png,AP Supine,93.0,M,1024,png,\"one, of two\",CC0,x\n\
                    test,a.png,,,female,,,,,\n";
        let sources = Sources::parse(text.as_bytes());
        assert_eq!(sources.problems, []);
        let first = sources.of("train/a.png").unwrap();
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
        assert_eq!(sources.of("test/a.png"), Some(&second));
        assert_eq!(sources.of("train/b.png"), None);
    }

    #[test]
    fn without_a_split_the_name_alone_counts() {
        let sources = Sources::parse(b"filename,age\na.png,057Y\n");
        assert_eq!(sources.of("normal/a.png").unwrap().age_years, Some(57));
    }

    #[test]
    fn what_cannot_be_read_is_named_by_line() {
        let sources = Sources::parse(b"filename,age\na.png,5,7\n,3\nb.png,soon\n");
        let lines: Vec<_> = sources.problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(2), Some(3)]);
        assert_eq!(sources.of("b.png").unwrap().age_years, None);
        assert_eq!(Sources::parse(b"name\na.png\n").problems, [(Some(1), "has no column `filename`".to_owned())]);
    }
}
