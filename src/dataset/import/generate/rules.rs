//! Which images of the sources become which class: a table in TOML that the user can change, section by section.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{dataset::match_class, domain::ClassList};

/// The rules of COVIDx V7A.
const BUILT_IN: &str = include_str!("covidx7a.toml");

/// The rules cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

/// Which images of the sources become which class, and which are for testing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The class of a finding, as the metadata of `cohen`, `fig1` and `actmed` call it.
    pub classes: BTreeMap<String, String>,
    /// Which patients are for testing.
    pub test: TestRules,
    /// covid-chestxray-dataset.
    pub cohen: ClinicalRules,
    /// Figure 1.
    pub fig1: ClinicalRules,
    /// Actualmed.
    pub actmed: ClinicalRules,
    /// COVID-19 Radiography Database.
    pub radiography: RadiographyRules,
    /// RSNA pneumonia challenge.
    pub rsna: RsnaRules,
}

/// Which patients are for testing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRules {
    /// Which patients are drawn where a source has a `test_fraction`.
    pub seed: u32,
    /// By class: these.
    pub patients: BTreeMap<String, Vec<String>>,
}

/// Of a source with a `metadata.csv` and a folder `images`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClinicalRules {
    /// Only these; all where there are none.
    pub views: Vec<String>,
    /// Passes over rows whose url holds one of these texts.
    pub exclude_urls: Vec<String>,
    /// Share of each class's patients that is drawn for testing.
    pub test_fraction: f64,
}

/// Of the COVID-19 Radiography Database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RadiographyRules {
    /// The class of each folder that is read.
    pub folders: BTreeMap<String, String>,
    /// Passes over images whose URL is that of an image of `cohen`.
    pub exclude_urls_of_cohen: bool,
    /// Passes over images by their FILE NAME.
    pub exclude_names: Vec<String>,
    /// Share of each class's images that is drawn for testing.
    pub test_fraction: f64,
}

/// Of the RSNA pneumonia challenge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RsnaRules {
    /// The class by `class` in `stage_2_detailed_class_info.csv`.
    pub classes: BTreeMap<String, String>,
    /// The class of those with Target 1 in `stage_2_train_labels.csv`; empty for none.
    pub target_1: String,
    /// Share of each class's patients that is drawn for testing.
    pub test_fraction: f64,
}

impl Rules {
    /// The text of the built-in rules, with its explanations.
    pub fn built_in() -> &'static str {
        BUILT_IN
    }

    /// The built-in rules with the sections that `text` has, in TOML, in place of their own.
    ///
    /// # Errors
    /// What cannot be read, by line or by field.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        Self::over(toml::from_str(text).map_err(|error| RulesError(error.to_string()))?)
    }

    /// The built-in rules with these sections in place of their own.
    ///
    /// # Errors
    /// A section or a field that there is not, or that misses.
    pub fn over(sections: Map<String, Value>) -> Result<Self, RulesError> {
        let mut rules: Map<String, Value> = toml::from_str(BUILT_IN).expect("a test reads the built-in rules");
        rules.extend(sections);
        serde_json::from_value(Value::Object(rules)).map_err(|error| RulesError(error.to_string()))
    }

    /// What is wrong with them for a data set of these classes.
    pub fn problems(&self, classes: &ClassList) -> Vec<String> {
        let target = Some(&self.rsna.target_1).filter(|class| !class.is_empty());
        let named = self.classes.values().chain(self.radiography.folders.values()).chain(self.rsna.classes.values());
        let mut named: Vec<&String> = named.chain(self.test.patients.keys()).chain(target).collect();
        named.sort();
        named.dedup();
        let known = classes.names().join(", ");
        let unknown = named.into_iter().filter(|class| match_class(classes, class).is_none());
        let unknown = unknown.map(|class| format!("{class:?} is not a class of the data set; those are {known}"));
        let fractions = [
            ("cohen", self.cohen.test_fraction),
            ("fig1", self.fig1.test_fraction),
            ("actmed", self.actmed.test_fraction),
            ("radiography", self.radiography.test_fraction),
            ("rsna", self.rsna.test_fraction),
        ];
        let wrong = fractions.into_iter().filter(|(_, fraction)| !(0.0..1.0).contains(fraction));
        unknown.chain(wrong.map(|(name, _)| format!("{name}.test_fraction must be at least 0 and below 1"))).collect()
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::over(Map::new()).expect("a test reads the built-in rules")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_are_those_of_covidx_v7a() {
        let rules = Rules::default();
        assert_eq!(rules.problems(&ClassList::default()), Vec::<String>::new());
        assert_eq!(rules.classes["SARS"], "pneumonia");
        assert_eq!(rules.cohen.views.len(), 5);
        let listed: usize = rules.test.patients.values().map(Vec::len).sum();
        assert_eq!(listed, 2 + 18 + 11 + 28 + 17);
        assert!(
            ["191", "COVID-00024"].iter().all(|missed| !rules.test.patients["COVID-19"].contains(&missed.to_string()))
        );
    }

    #[test]
    fn a_section_takes_the_place_of_the_built_in_one() {
        let rules = Rules::parse("[classes]\n\"Pneumonia\" = \"pneumonia\"\n").unwrap();
        assert_eq!(rules.classes.len(), 1);
        assert_eq!(rules.rsna, Rules::default().rsna);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let told = |text: &str| Rules::parse(text).unwrap_err().to_string();
        assert!(told("[nih]\n").contains("nih"));
        assert!(told("[cohen]\nviews = []\n").contains("exclude_urls"));
        assert!(told("[cohen\n").contains("line 1"));
        let rules = Rules::parse("[rsna]\nclasses = {}\ntarget_1 = \"lung\"\ntest_fraction = 1.0\n").unwrap();
        let problems = rules.problems(&ClassList::default());
        assert!(problems[0].contains("\"lung\"") && problems[1].contains("rsna.test_fraction"), "{problems:?}");
    }
}
