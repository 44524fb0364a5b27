//! Collection of the images selected by rules, and counts of the skipped rows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sha2::{Digest, Sha256};

use crate::{
    dataset::{
        import::{
            Candidate, Rejection,
            candidate::Content,
            entry::{EntryOrigin, ImportEntry},
        },
        match_class,
    },
    domain::{ClassList, Split},
    store::{Attributes, ExcludedRows},
};

use super::{Rules, Source};

/// Selected image, before splits are assigned.
pub(super) struct SelectedImage {
    pub(super) source: Source,
    /// Metadata row of the image.
    pub(super) origin: EntryOrigin,
    pub(super) patient_id: Option<String>,
    /// Class in the spelling of the rules.
    pub(super) class: String,
    /// File name in COVIDx.
    pub(super) file_name: String,
    pub(super) content: Result<Content, Rejection>,
    pub(super) attributes: Attributes,
}

/// Collection of selected images.
pub(super) struct Collection<'a> {
    pub(super) rules: &'a Rules,
    classes: &'a ClassList,
    images: Vec<SelectedImage>,
    /// Patient ids and file names, to skip repeated rows.
    known: HashSet<(Option<String>, String)>,
    passed_over: BTreeMap<(Source, String), u64>,
}

impl<'a> Collection<'a> {
    pub(super) fn new(rules: &'a Rules, classes: &'a ClassList) -> Self {
        let (images, known, passed_over) = (Vec::new(), HashSet::new(), BTreeMap::new());
        Self { rules, classes, images, known, passed_over }
    }

    /// Adds an image, unless the patient already has an image with the same name.
    pub(super) fn select(&mut self, image: SelectedImage) {
        if self.known.insert((image.patient_id.clone(), image.file_name.clone())) {
            self.images.push(image);
        } else {
            self.skip(image.source, "listed before".into());
        }
    }

    /// Counts a skipped row.
    pub(super) fn skip(&mut self, source: Source, reason: String) {
        *self.passed_over.entry((source, reason)).or_default() += 1;
    }

    /// Assigns splits and returns the entries and the counts of skipped rows.
    pub(super) fn finish(self) -> (Vec<ImportEntry>, Vec<ExcludedRows>) {
        let test_patients = self.test_patients();
        let classes = self.classes;
        let entry = |image: SelectedImage| {
            let is_test = image.patient_id.as_ref().is_some_and(|patient| test_patients.contains(patient));
            let split = if is_test { Split::Test } else { Split::Train };
            let label = match_class(classes, &image.class).unwrap_or(&image.class).to_owned();
            let candidate = |content| Candidate {
                path: format!("{}/{}", image.source.as_str(), image.file_name),
                label,
                split: Some(split),
                patient_id: image.patient_id,
                source: Some(image.source.as_str().to_owned()),
                attributes: Some(image.attributes),
                content,
            };
            ImportEntry { origin: image.origin, candidate: image.content.map(candidate) }
        };
        let passed_over = self.passed_over.into_iter().map(|((source, reason), rows)| ExcludedRows {
            source: source.as_str().to_owned(),
            reason,
            rows,
        });
        (self.images.into_iter().map(entry).collect(), passed_over.collect())
    }

    /// The listed and the randomly selected test patients. All images of a test patient are in the test split, so that no patient is in two
    /// splits.
    fn test_patients(&self) -> BTreeSet<String> {
        let mut by_class: BTreeMap<(Source, &str), BTreeSet<&str>> = BTreeMap::new();
        let mut test = BTreeSet::new();
        for image in &self.images {
            let Some(patient) = &image.patient_id else { continue };
            by_class.entry((image.source, &image.class)).or_default().insert(patient);
            if self.rules.test.patients.get(&image.class).is_some_and(|listed| listed.contains(patient)) {
                test.insert(patient.clone());
            }
        }
        for ((source, _), patients) in by_class {
            test.extend(self.sample(self.fraction(source), patients).map(str::to_owned));
        }
        test
    }

    /// Selects a fraction of the patients, at least one. The order depends only on the seed and on the patient ids.
    fn sample<'p>(&self, fraction: f64, patients: BTreeSet<&'p str>) -> impl Iterator<Item = &'p str> + use<'p> {
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
