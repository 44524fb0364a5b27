//! Index of the image files of a source, with tolerant matching of file names.

use std::{collections::HashMap, path::Path, sync::Arc};

use unicode_normalization::UnicodeNormalization;

use crate::{
    dataset::import::{
        Rejection,
        candidate::Content,
        layout::{folder_name, names},
    },
    store::RejectionKind,
};

/// Index of the files in some folders of a source.
#[derive(Debug)]
pub(super) struct ImageIndex {
    root: Arc<Path>,
    /// Names of the folders, for error messages.
    folders: String,
    /// Paths by exact name, by lower-case name, and by the key of the name.
    exact: Names,
    lower: Names,
    loose: Names,
    key: fn(&str) -> String,
}

type Names = HashMap<String, Vec<String>>;

impl ImageIndex {
    /// Indexes the files in `folders` below `root`. At least one of the folders must exist.
    pub(super) fn list(root: &Path, folders: &[String], key: fn(&str) -> String) -> Result<Self, String> {
        let folder_names = folders.join(" or ");
        let (mut exact, mut lower, mut loose) = (Names::new(), Names::new(), Names::new());
        let existing: Vec<&String> = folders.iter().filter(|folder| root.join(folder).is_dir()).collect();
        if existing.is_empty() {
            return Err(format!("{}: folder {folder_names} is missing", folder_name(root)));
        }
        for folder in existing {
            for name in names(&root.join(folder))? {
                let path = format!("{folder}/{name}");
                if root.join(&path).is_dir() {
                    continue;
                }
                lower.entry(name.to_lowercase()).or_default().push(path.clone());
                loose.entry(key(&name)).or_default().push(path.clone());
                exact.entry(name).or_default().push(path);
            }
        }
        Ok(Self { root: root.into(), folders: folder_names, exact, lower, loose, key })
    }

    /// The path of the only file with exactly this name.
    pub(super) fn find_exactly(&self, name: &str) -> Option<&str> {
        match self.exact.get(name).map(Vec::as_slice) {
            Some([path]) => Some(path),
            _ => None,
        }
    }

    /// The path of the file that `name` denotes: an exact match, else the only match ignoring case, else the only match by key.
    pub(super) fn find(&self, name: &str) -> Result<&str, Rejection> {
        let loose = (self.key)(name);
        let matches = [self.exact.get(name), self.lower.get(&name.to_lowercase()), self.loose.get(&loose)];
        match matches.into_iter().flatten().next().map(Vec::as_slice) {
            Some([path]) => Ok(path),
            Some(several) => Err(format!("{name}: ambiguous name, may be {}", several.join(" or ")).into()),
            None => Err(Rejection {
                kind: RejectionKind::RowWithoutFile,
                reason: format!("{name}: no such file in {}", self.folders),
            }),
        }
    }

    /// The content of the image at `path`.
    pub(super) fn content(&self, path: &str) -> Content {
        let (root, path) = (Arc::clone(&self.root), path.to_owned());
        // DICOM is converted to PNG: stored as DICOM, the file would lose its name, which is the patient id in its header.
        if path.to_lowercase().ends_with(".dcm") {
            Content::FileAsPng { root, path }
        } else {
            Content::File { root, path }
        }
    }
}

/// Key: the lower-case name in composed Unicode form (NFC) without its extension.
pub(super) fn by_stem(name: &str) -> String {
    let lower = name.nfc().collect::<String>().to_lowercase();
    let stem = [".png", ".jpg", ".jpeg", ".dcm"].iter().find_map(|extension| lower.strip_suffix(extension));
    stem.unwrap_or(&lower).to_owned()
}

/// Key: only the letters and digits of the lower-case name without its extension, so that `COVID (1).png`, `COVID(1).png`, `COVID-1.png`
/// and `COVID 1` match.
pub(super) fn by_letters(name: &str) -> String {
    by_stem(name).chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_matches_take_precedence_over_tolerant_ones() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("images")).unwrap();
        for name in ["a.jpg", "a.png", "B.JPG", "C d.png", "E(1).png", "e-1.png"] {
            std::fs::write(root.path().join("images").join(name), name).unwrap();
        }
        let folders = ["images".to_owned(), "missing".to_owned()];
        let by_stem = ImageIndex::list(root.path(), &folders, by_stem).unwrap();
        assert_eq!(by_stem.find("a.png").ok(), Some("images/a.png"));
        assert_eq!(by_stem.find("b.jpg").ok(), Some("images/B.JPG"));
        assert_eq!(by_stem.find("b.jpeg").ok(), Some("images/B.JPG"));
        assert!(by_stem.find("a.jpeg").unwrap_err().reason.contains("images/a.jpg or images/a.png"));
        assert_eq!(by_stem.find("Cd.png").unwrap_err().kind, RejectionKind::RowWithoutFile);
        let by_letters = ImageIndex::list(root.path(), &folders, by_letters).unwrap();
        assert_eq!(by_letters.find("c(d).png").ok(), Some("images/C d.png"));
        assert_eq!(by_letters.find("E(1).png").ok(), Some("images/E(1).png"));
        assert!(by_letters.find("E 1").is_err());
        assert!(ImageIndex::list(root.path(), &folders[1..], super::by_stem).is_err());
    }
}
