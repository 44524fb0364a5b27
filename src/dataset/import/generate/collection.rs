//! The images that rules choose, and what they leave out.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sha2::{Digest, Sha256};

use crate::{
    dataset::{
        import::{
            Candidate, Refused,
            candidate::Content,
            layout::{Entry, Origin},
        },
        match_class,
    },
    domain::{ClassList, Split},
    store::{Attributes, ExcludedRows},
};

use super::{Rules, Source};

/// An image of a source, before it has a split.
pub(super) struct Chosen {
    pub(super) source: Source,
    /// The row that says so.
    pub(super) origin: Origin,
    pub(super) patient_id: Option<String>,
    /// As the rules spell it.
    pub(super) class: String,
    /// As COVIDx calls the file.
    pub(super) file_name: String,
    pub(super) content: Result<Content, Refused>,
    pub(super) attributes: Attributes,
}

pub(super) struct Collection<'a> {
    pub(super) rules: &'a Rules,
    classes: &'a ClassList,
    chosen: Vec<Chosen>,
    /// Patient and file name, to pass over what is listed twice.
    known: HashSet<(Option<String>, String)>,
    passed_over: BTreeMap<(Source, String), u64>,
}

impl<'a> Collection<'a> {
    pub(super) fn new(rules: &'a Rules, classes: &'a ClassList) -> Self {
        let (chosen, known, passed_over) = (Vec::new(), HashSet::new(), BTreeMap::new());
        Self { rules, classes, chosen, known, passed_over }
    }

    /// Takes an image, unless the same name of the same patient is there already.
    pub(super) fn choose(&mut self, chosen: Chosen) {
        if self.known.insert((chosen.patient_id.clone(), chosen.file_name.clone())) {
            self.chosen.push(chosen);
        } else {
            self.pass_over(chosen.source, "listed before".into());
        }
    }

    /// Counts a row that the rules leave out.
    pub(super) fn pass_over(&mut self, source: Source, reason: String) {
        *self.passed_over.entry((source, reason)).or_default() += 1;
    }

    /// An entry for each image.
    pub(super) fn finish(self) -> (Vec<Entry>, Vec<ExcludedRows>) {
        let test = self.test_patients();
        let classes = self.classes;
        let entry = |chosen: Chosen| {
            let is_test = chosen.patient_id.as_ref().is_some_and(|patient| test.contains(patient));
            let split = if is_test { Split::Test } else { Split::Train };
            let label = match_class(classes, &chosen.class).unwrap_or(&chosen.class).to_owned();
            let candidate = |content| Candidate {
                path: format!("{}/{}", chosen.source.as_str(), chosen.file_name),
                label,
                split: Some(split),
                patient_id: chosen.patient_id,
                source: Some(chosen.source.as_str().to_owned()),
                attributes: Some(chosen.attributes),
                content,
            };
            Entry { origin: chosen.origin, found: chosen.content.map(candidate) }
        };
        let passed_over = self.passed_over.into_iter().map(|((source, reason), rows)| ExcludedRows {
            source: source.as_str().to_owned(),
            reason,
            rows,
        });
        (self.chosen.into_iter().map(entry).collect(), passed_over.collect())
    }

    /// Those listed and those drawn. All images of a patient are for testing if one is: no patient is in two splits.
    fn test_patients(&self) -> BTreeSet<String> {
        let mut by_class: BTreeMap<(Source, &str), BTreeSet<&str>> = BTreeMap::new();
        let mut test = BTreeSet::new();
        for chosen in &self.chosen {
            let Some(patient) = &chosen.patient_id else { continue };
            by_class.entry((chosen.source, &chosen.class)).or_default().insert(patient);
            if self.rules.test.patients.get(&chosen.class).is_some_and(|listed| listed.contains(patient)) {
                test.insert(patient.clone());
            }
        }
        for ((source, _), patients) in by_class {
            test.extend(self.drawn(self.fraction(source), patients).map(str::to_owned));
        }
        test
    }

    /// A share of the patients, one at least, in an order that depends on the seed and on what each is called alone.
    fn drawn<'p>(&self, fraction: f64, patients: BTreeSet<&'p str>) -> impl Iterator<Item = &'p str> + use<'p> {
        let count = if fraction > 0.0 { ((patients.len() as f64 * fraction).round() as usize).max(1) } else { 0 };
        let seed = self.rules.test.seed.to_le_bytes();
        let rank = |patient: &&str| Sha256::new().chain_update(seed).chain_update(patient).finalize();
        let mut ranked: Vec<&str> = patients.into_iter().collect();
        ranked.sort_by_cached_key(rank);
        ranked.into_iter().take(count)
    }

    fn fraction(&self, source: Source) -> f64 {
        match source {
            Source::Cohen => self.rules.cohen.test_fraction,
            Source::Fig1 => self.rules.fig1.test_fraction,
            Source::Actmed => self.rules.actmed.test_fraction,
            Source::Radiography => self.rules.radiography.test_fraction,
            Source::Rsna => self.rules.rsna.test_fraction,
        }
    }
}
