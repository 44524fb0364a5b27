//! The image files of a source, found by names that are not quite theirs.

use std::{collections::HashMap, path::Path, sync::Arc};

use crate::{
    dataset::import::{Refused, candidate::Content, layout::names},
    store::RejectionKind,
};

/// Files in some folders of a source.
#[derive(Debug)]
pub(super) struct Pictures {
    root: Arc<Path>,
    /// As rejections tell it.
    place: String,
    /// Paths by name, by name in lower case, and by what is left of a name when nothing that differs is counted.
    exact: Names,
    lower: Names,
    loose: Names,
    key: fn(&str) -> String,
}

type Names = HashMap<String, Vec<String>>;

impl Pictures {
    /// Lists the files in `folders` of the source at `root`; those that do not exist are passed over, but one has to.
    pub(super) fn list(root: &Path, folders: &[String], key: fn(&str) -> String) -> Result<Self, String> {
        let place = folders.join(" or ");
        let (mut exact, mut lower, mut loose) = (Names::new(), Names::new(), Names::new());
        let there: Vec<&String> = folders.iter().filter(|folder| root.join(folder).is_dir()).collect();
        if there.is_empty() {
            return Err(format!("{}: has no folder {place}", root.display()));
        }
        for folder in there {
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
        Ok(Self { root: root.into(), place, exact, lower, loose, key })
    }

    /// The path of the only file of exactly that name.
    pub(super) fn find_exactly(&self, name: &str) -> Option<&str> {
        match self.exact.get(name).map(Vec::as_slice) {
            Some([path]) => Some(path),
            _ => None,
        }
    }

    /// The path of the file that `name` means: called exactly so, or else the only one that differs by case, or else by what the key
    /// does not count.
    pub(super) fn find(&self, name: &str) -> Result<&str, Refused> {
        let loose = (self.key)(name);
        let steps = [self.exact.get(name), self.lower.get(&name.to_lowercase()), self.loose.get(&loose)];
        match steps.into_iter().flatten().next().map(Vec::as_slice) {
            Some([path]) => Ok(path),
            Some(several) => Err(format!("{name}: {} could be meant", several.join(" or ")).into()),
            None => Err(Refused {
                kind: RejectionKind::RowWithoutFile,
                reason: format!("{name}: no such file in {}", self.place),
            }),
        }
    }

    /// The image at a path that was found.
    pub(super) fn content(&self, path: &str) -> Content {
        let (root, path) = (Arc::clone(&self.root), path.to_owned());
        // DICOM is decoded here: as a file of its own it would have the patient's number as its name, and lose it for that.
        if path.to_lowercase().ends_with(".dcm") { Content::AsPng { root, path } } else { Content::File { root, path } }
    }
}

/// A name without its extension, in lower case.
pub(super) fn by_stem(name: &str) -> String {
    let lower = name.to_lowercase();
    let stem = [".png", ".jpg", ".jpeg", ".dcm"].iter().find_map(|extension| lower.strip_suffix(extension));
    stem.unwrap_or(&lower).to_owned()
}

/// The same in letters and digits alone: `COVID (1).png`, `COVID(1).png`, `COVID-1.png` and `COVID 1` are one.
pub(super) fn by_letters(name: &str) -> String {
    by_stem(name).chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_exactly_first_and_loosely_last() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("images")).unwrap();
        for name in ["a.jpg", "a.png", "B.JPG", "C d.png", "E(1).png", "e-1.png"] {
            std::fs::write(root.path().join("images").join(name), name).unwrap();
        }
        let folders = ["images".to_owned(), "missing".to_owned()];
        let by_stem = Pictures::list(root.path(), &folders, by_stem).unwrap();
        assert_eq!(by_stem.find("a.png").ok(), Some("images/a.png"));
        assert_eq!(by_stem.find("b.jpg").ok(), Some("images/B.JPG"));
        assert_eq!(by_stem.find("b.jpeg").ok(), Some("images/B.JPG"));
        assert!(by_stem.find("a.jpeg").unwrap_err().reason.contains("images/a.jpg or images/a.png"));
        assert_eq!(by_stem.find("Cd.png").unwrap_err().kind, RejectionKind::RowWithoutFile);
        let by_letters = Pictures::list(root.path(), &folders, by_letters).unwrap();
        assert_eq!(by_letters.find("c(d).png").ok(), Some("images/C d.png"));
        assert_eq!(by_letters.find("E(1).png").ok(), Some("images/E(1).png"));
        assert!(by_letters.find("E 1").is_err());
        assert!(Pictures::list(root.path(), &folders[1..], super::by_stem).is_err());
    }
}
