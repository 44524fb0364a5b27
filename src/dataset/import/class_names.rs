//! Class names of label files and folders, and the classes of the data set that they stand for.

use std::collections::{BTreeMap, HashMap};

use crate::{
    dataset::{covidx, match_name},
    domain::ClassList,
};

/// Classes of the data set by their names in label files and folders. Null: images of this name are left out.
pub type ClassMapping = BTreeMap<String, Option<String>>;

/// Names in label files and folders: the classes of the data set, and those of a mapping.
#[derive(Clone, Debug)]
pub(super) struct ClassNames {
    names: Vec<String>,
    /// Targets of the mapped names.
    targets: HashMap<String, Option<String>>,
}

/// Meaning of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamedClass {
    /// A class of the data set.
    Class(String),
    /// The mapping leaves images of this name out.
    LeftOut,
}

impl ClassNames {
    pub(super) fn new(classes: &ClassList, mapping: &ClassMapping) -> Result<Self, String> {
        let mut names = classes.names().to_vec();
        let mut targets = HashMap::new();
        for (name, target) in mapping {
            if let Some(target) = target.as_deref().filter(|target| classes.index_of(target).is_none()) {
                return Err(unknown_target(name, target, classes));
            }
            // A name that is written like a class replaces its meaning.
            let name = match names.iter().find(|class| class.to_lowercase() == name.to_lowercase()) {
                Some(class) => class.clone(),
                None => {
                    names.push(name.clone());
                    name.clone()
                }
            };
            targets.insert(name, target.clone());
        }
        Ok(Self { names, targets })
    }

    /// The meaning of `name`; none if it is unknown.
    pub(super) fn find(&self, name: &str) -> Option<NamedClass> {
        match_name(&self.names, name).map(|name| self.target(name))
    }

    /// Parses a label file. The class of a row is one of the names: see [`Self::target`].
    pub(super) fn parse(&self, text: &str) -> (Vec<covidx::Row>, Vec<covidx::Problem>) {
        covidx::parse_names(text, &self.names)
    }

    /// The meaning of a known name.
    pub(super) fn target(&self, name: &str) -> NamedClass {
        match self.targets.get(name) {
            Some(Some(class)) => NamedClass::Class(class.clone()),
            Some(None) => NamedClass::LeftOut,
            None => NamedClass::Class(name.to_owned()),
        }
    }

    /// The names, for error messages.
    pub(super) fn list(&self) -> String {
        self.names.join(", ")
    }
}

/// Error of a mapping to a class that the data set does not have.
pub fn unknown_target(name: &str, target: &str, classes: &ClassList) -> String {
    format!(
        "{name:?} is mapped to {target:?}, which is not a class of this data set (expected one of {})",
        classes.names().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mapping: &[(&str, Option<&str>)]) -> Result<ClassNames, String> {
        let mapping = mapping.iter().map(|(name, class)| ((*name).to_owned(), class.map(str::to_owned))).collect();
        ClassNames::new(&ClassList::default(), &mapping)
    }

    #[test]
    fn mapped_names_stand_for_their_class_or_are_left_out() {
        let names =
            names(&[("positive", Some("COVID-19")), ("Viral Pneumonia", Some("pneumonia")), ("Normal", None)]).unwrap();
        let class = |name: &str| Some(NamedClass::Class(name.to_owned()));
        assert_eq!(names.find("positive"), class("COVID-19"));
        assert_eq!(names.find("Viral_Pneumonia"), class("pneumonia"));
        assert_eq!(names.find("COVID19"), class("COVID-19"));
        assert_eq!(names.find("normal"), Some(NamedClass::LeftOut));
        assert_eq!(names.find("negative"), None);
        let (rows, problems) = names.parse("1 a.png positive x\n2 b c.png Viral Pneumonia y\n3 d.png negative");
        assert_eq!((rows[1].class.as_str(), rows[1].source.as_deref()), ("Viral Pneumonia", Some("y")));
        assert_eq!((rows.len(), problems.len()), (2, 1));
    }

    #[test]
    fn a_mapping_to_an_unknown_class_is_refused() {
        let error = names(&[("positive", Some("covid"))]).unwrap_err();
        assert!(error.contains("\"covid\"") && error.contains("normal, pneumonia, COVID-19"), "{error}");
    }
}
