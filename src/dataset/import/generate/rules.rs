//! Generation rules: a TOML file that maps the metadata of the sources to classes and splits. Users can replace each section.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{dataset::match_class, domain::ClassList};

/// The rules of COVIDx V7A.
const BUILT_IN: &str = include_str!("covidx7a.toml");

/// Invalid rules.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

/// Generation rules: which images of the sources are used, their class, and the patients of the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Class of each finding in the metadata of `cohen`, `fig1` and `actmed`. Rows with other findings are skipped.
    pub classes: BTreeMap<String, String>,
    /// Selection of the patients of the test split.
    pub test: TestRules,
    /// Rules for covid-chestxray-dataset.
    pub cohen: ClinicalRules,
    /// Rules for Figure 1.
    pub fig1: ClinicalRules,
    /// Rules for Actualmed.
    pub actmed: ClinicalRules,
    /// Rules for the COVID-19 Radiography Database.
    pub radiography: RadiographyRules,
    /// Rules for the RSNA pneumonia challenge.
    pub rsna: RsnaRules,
}

/// Selection of the patients of the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRules {
    /// Random seed for the selection of test patients in sources with a `test_fraction`.
    pub seed: u32,
    /// Test patients by class, in addition to the randomly selected ones.
    pub patients: BTreeMap<String, Vec<String>>,
}

/// Rules for a source with `metadata.csv` and a folder `images`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClinicalRules {
    /// Accepted views; empty accepts all.
    pub views: Vec<String>,
    /// Skips rows whose URL contains one of these texts.
    pub exclude_urls: Vec<String>,
    /// Fraction of the patients of each class for the test split, at least 0 and below 1.
    pub test_fraction: f64,
}

/// Rules for the COVID-19 Radiography Database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RadiographyRules {
    /// Class of each folder; other folders are skipped.
    pub folders: BTreeMap<String, String>,
    /// Skips images whose URL occurs in `cohen`.
    pub exclude_urls_of_cohen: bool,
    /// Skips images with these values of FILE NAME.
    pub exclude_names: Vec<String>,
    /// Fraction of the images of each class for the test split, at least 0 and below 1.
    pub test_fraction: f64,
}

/// Rules for the RSNA pneumonia challenge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RsnaRules {
    /// Class of each value of `class` in `stage_2_detailed_class_info.csv`; other rows are skipped.
    pub classes: BTreeMap<String, String>,
    /// Class of the images with Target 1 in `stage_2_train_labels.csv`; empty skips them.
    pub target_1: String,
    /// Fraction of the patients of each class for the test split, at least 0 and below 1.
    pub test_fraction: f64,
}

impl Rules {
    /// The built-in rules as commented TOML.
    pub fn built_in() -> &'static str {
        BUILT_IN
    }

    /// The built-in rules with the sections of `text` (TOML) replaced.
    ///
    /// # Errors
    /// The line or field that is invalid.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        Self::with(toml::from_str(text).map_err(|error| RulesError(error.to_string()))?)
    }

    /// The built-in rules with `sections` replaced.
    ///
    /// # Errors
    /// A section or field is unknown or missing.
    pub fn with(sections: Map<String, Value>) -> Result<Self, RulesError> {
        let mut rules: Map<String, Value> = toml::from_str(BUILT_IN).expect("a test parses the built-in rules");
        rules.extend(sections);
        serde_json::from_value(Value::Object(rules)).map_err(|error| RulesError(error.to_string()))
    }

    /// The problems of the rules for a data set with these classes.
    pub fn validate(&self, classes: &ClassList) -> Vec<String> {
        let target = Some(&self.rsna.target_1).filter(|class| !class.is_empty());
        let named = self.classes.values().chain(self.radiography.folders.values()).chain(self.rsna.classes.values());
        let mut named: Vec<&String> = named.chain(self.test.patients.keys()).chain(target).collect();
        named.sort();
        named.dedup();
        let known = classes.names().join(", ");
        let unknown = named.into_iter().filter(|class| match_class(classes, class).is_none());
        let unknown =
            unknown.map(|class| format!("{class:?} is not a class of the data set (expected one of {known})"));
        let fractions = [
            ("cohen", self.cohen.test_fraction),
            ("fig1", self.fig1.test_fraction),
            ("actmed", self.actmed.test_fraction),
            ("radiography", self.radiography.test_fraction),
            ("rsna", self.rsna.test_fraction),
        ];
        let invalid = fractions.into_iter().filter(|(_, fraction)| !(0.0..1.0).contains(fraction));
        let range = |(name, value)| format!("{name}.test_fraction must be at least 0 and below 1 (got {value})");
        unknown.chain(invalid.map(range)).collect()
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::with(Map::new()).expect("a test parses the built-in rules")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_are_those_of_covidx_v7a() {
        let rules = Rules::default();
        assert_eq!(rules.validate(&ClassList::default()), Vec::<String>::new());
        assert_eq!(rules.classes["SARS"], "pneumonia");
        assert_eq!(rules.cohen.views.len(), 5);
        let listed: usize = rules.test.patients.values().map(Vec::len).sum();
        assert_eq!(listed, 2 + 18 + 11 + 28 + 17);
        assert!(
            ["191", "COVID-00024"]
                .iter()
                .all(|omitted| !rules.test.patients["COVID-19"].contains(&omitted.to_string()))
        );
    }

    #[test]
    fn a_section_replaces_the_built_in_one() {
        let rules = Rules::parse("[classes]\n\"Pneumonia\" = \"pneumonia\"\n").unwrap();
        assert_eq!(rules.classes.len(), 1);
        assert_eq!(rules.rsna, Rules::default().rsna);
    }

    #[test]
    fn errors_name_the_invalid_section_field_or_line() {
        let error = |text: &str| Rules::parse(text).unwrap_err().to_string();
        assert!(error("[nih]\n").contains("nih"));
        assert!(error("[cohen]\nviews = []\n").contains("exclude_urls"));
        assert!(error("[cohen\n").contains("line 1"));
        let rules = Rules::parse("[rsna]\nclasses = {}\ntarget_1 = \"lung\"\ntest_fraction = 1.0\n").unwrap();
        let problems = rules.validate(&ClassList::default());
        assert!(problems[0].contains("\"lung\"") && problems[1].contains("rsna.test_fraction"), "{problems:?}");
    }
}
