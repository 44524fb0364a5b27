//! Patient-grouped, class-stratified splits. The result depends on the seed and the images, not on their order.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::{
    domain::{DatasetId, RadiographId, Split},
    store::{self, Db, Radiograph, StoreError},
};

use super::run_blocking;

/// Fractions of the images of each class, at least 0 and below 1.
#[derive(Clone, Copy, Debug)]
pub struct Fractions {
    /// Fraction of all images for `test`.
    pub test: f64,
    /// Fraction of all images for `validation`.
    pub validation: f64,
}

/// Image counts by class. Unlabelled images count as a separate class.
type Counts<'a> = BTreeMap<Option<&'a str>, u64>;

/// Images of a patient, or a single image of an unknown patient.
struct Group<'a> {
    members: Vec<&'a Radiograph>,
    counts: Counts<'a>,
}

/// Assigns all radiographs of a data set to splits with [`assign`]. Returns warnings about patients that make a split impossible.
///
/// # Errors
/// [`StoreError::InUse`] while a run on the data set is active, because it reads the images during training.
pub async fn split(db: &Db, dataset: DatasetId, fractions: Fractions, seed: u64) -> Result<Vec<String>, StoreError> {
    if store::runs::count_active(db, dataset).await? > 0 {
        return Err(StoreError::InUse("a training run on this data set has not ended"));
    }
    let radiographs = store::radiographs::all(db, dataset).await?;
    let assign = move || {
        let splits = assign(&radiographs, fractions.test, fractions.validation, seed);
        let warnings = warnings(&radiographs, &splits, fractions);
        (splits, warnings)
    };
    let (splits, warnings) = run_blocking(assign).await?;
    store::radiographs::assign_splits(db, &splits).await?;
    Ok(warnings)
}

/// Warnings about splits: all images or all images of a class under one patient id, and classes that are missing in a requested split.
fn warnings(radiographs: &[Radiograph], splits: &[(RadiographId, Split)], fractions: Fractions) -> Vec<String> {
    let splits: HashMap<RadiographId, Split> = splits.iter().copied().collect();
    let all: Vec<&Radiograph> = radiographs.iter().collect();
    if let Some(patient) = only_patient(&all) {
        return vec![format!(
            "all {} images have the patient id {patient}, so that all of them are in one split: a run can have neither a validation \
             nor a test split. If the ids are not those of patients, import the images again with the right ids or without ids",
            all.len()
        )];
    }
    let mut by_class: BTreeMap<&str, Vec<&Radiograph>> = BTreeMap::new();
    for radiograph in radiographs {
        by_class.entry(radiograph.label.as_deref().unwrap_or_default()).or_default().push(radiograph);
    }
    by_class.remove("");
    let mut warnings = Vec::new();
    for (class, images) in by_class {
        if let Some(patient) = only_patient(&images) {
            let (n, split) = (images.len(), splits[&images[0].id]);
            warnings.push(format!(
                "all {n} images of {class} have the patient id {patient}, so that all of them are in the {split} split: \
                 the other splits have none, and scores of the class say nothing about other patients"
            ));
            continue;
        }
        for (split, fraction) in [(Split::Test, fractions.test), (Split::Validation, fractions.validation)] {
            if fraction > 0.0 && !images.iter().any(|image| splits[&image.id] == split) {
                let n = images.len();
                let plural = if n == 1 { "image" } else { "images" };
                warnings.push(format!("the {split} split has no images of {class}, which has {n} {plural} in total"));
            }
        }
    }
    warnings
}

/// The patient id that all of several images have.
fn only_patient<'a>(images: &[&'a Radiograph]) -> Option<&'a str> {
    let patient = images.first()?.patient_id.as_deref()?;
    (images.len() > 1 && images.iter().all(|image| image.patient_id.as_deref() == Some(patient))).then_some(patient)
}

/// Assigns every radiograph to a split. No patient is in two splits; an image without patient id counts as a separate patient.
///
/// The test and validation splits get `test_fraction` and `validation_fraction` of the images of each class, as closely as whole patients
/// allow, and at least one image of a class with two images if the fraction is above 0. The order in which patients are selected depends
/// only on the seed and on their own images, so that images added later change few assignments.
pub fn assign(
    radiographs: &[Radiograph],
    test_fraction: f64,
    validation_fraction: f64,
    seed: u64,
) -> Vec<(RadiographId, Split)> {
    let total = counts(radiographs.iter());
    let (test, rest) = select(groups(radiographs, seed), &targets(&total, test_fraction));
    let (validation, train) = select(rest, &targets(&total, validation_fraction));
    let assigned = |groups: Vec<Group<'_>>, split| {
        groups.into_iter().flat_map(|group| group.members).map(move |member| (member.id, split)).collect::<Vec<_>>()
    };
    [assigned(test, Split::Test), assigned(validation, Split::Validation), assigned(train, Split::Train)].concat()
}

/// Splits off a validation set with `fraction` of the images from `train`, by the rules of [`assign`]. Returns the remaining training images
/// and the validation images, both in the given order.
pub fn split_off_validation(train: &[Radiograph], fraction: f64, seed: u64) -> (Vec<Radiograph>, Vec<Radiograph>) {
    let (validation, _) = select(groups(train, seed), &targets(&counts(train.iter()), fraction));
    let selected: std::collections::HashSet<RadiographId> =
        validation.iter().flat_map(|group| &group.members).map(|member| member.id).collect();
    train.iter().cloned().partition(|radiograph| !selected.contains(&radiograph.id))
}

/// Groups the radiographs by patient, in selection order.
fn groups(radiographs: &[Radiograph], seed: u64) -> Vec<Group<'_>> {
    // Images are identified by content, not by id, so that importing the same folder again gives the same split.
    let mut members: BTreeMap<(bool, &str), Vec<&Radiograph>> = BTreeMap::new();
    for radiograph in radiographs {
        let key = match &radiograph.patient_id {
            Some(patient) => (true, patient.as_str()),
            None => (false, radiograph.sha256.as_str()),
        };
        members.entry(key).or_default().push(radiograph);
    }
    let mut groups: Vec<_> = members
        .into_values()
        .map(|mut members| {
            members.sort_by(|a, b| a.sha256.cmp(&b.sha256));
            let counts = counts(members.iter().copied());
            (rank(seed, members[0]), Group { members, counts })
        })
        .collect();
    groups.sort_by_key(|(rank, _)| *rank);
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Pseudo-random rank of a patient, derived from the first image. The patient id is not used, because its hash depends on the key of the
/// data folder.
fn rank(seed: u64, first: &Radiograph) -> [u8; 32] {
    Sha256::new().chain_update(seed.to_le_bytes()).chain_update(first.sha256.as_str()).finalize().into()
}

fn counts<'a>(radiographs: impl Iterator<Item = &'a Radiograph>) -> Counts<'a> {
    let mut counts = Counts::new();
    for radiograph in radiographs {
        *counts.entry(radiograph.label.as_deref()).or_default() += 1;
    }
    counts
}

/// The target number of images per class.
fn targets<'a>(total: &Counts<'a>, fraction: f64) -> Counts<'a> {
    let target = |&n: &u64| {
        let rounded = (n as f64 * fraction).round() as u64;
        if fraction > 0.0 && n >= 2 { rounded.clamp(1, n - 1) } else { rounded.min(n) }
    };
    total.iter().map(|(class, n)| (*class, target(n))).collect()
}

/// Selects groups until `targets` are met as closely as whole groups allow. Returns the selected and the remaining groups.
fn select<'a>(groups: Vec<Group<'a>>, targets: &Counts<'a>) -> (Vec<Group<'a>>, Vec<Group<'a>>) {
    let mut missing: BTreeMap<Option<&str>, i64> = targets.iter().map(|(class, n)| (*class, *n as i64)).collect();
    let mut selected = Vec::new();
    let mut remaining = groups;
    // First pass: groups that fit. Second pass: groups whose overshoot is smaller than the remaining gap.
    let fits = |group: &Group<'_>, missing: &BTreeMap<Option<&str>, i64>| {
        group.counts.iter().all(|(class, n)| *n as i64 <= missing[class])
    };
    let closer = |group: &Group<'_>, missing: &BTreeMap<Option<&str>, i64>| {
        let change = |(class, n): (&Option<&str>, &u64)| (missing[class] - *n as i64).abs() - missing[class].abs();
        group.counts.iter().map(change).sum::<i64>() < 0
    };
    for accepts in [&fits as &dyn Fn(&Group<'_>, &BTreeMap<Option<&str>, i64>) -> bool, &closer] {
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for group in remaining {
            if !accepts(&group, &missing) {
                rejected.push(group);
                continue;
            }
            for (class, n) in &group.counts {
                *missing.entry(*class).or_default() -= *n as i64;
            }
            accepted.push(group);
        }
        selected.append(&mut accepted);
        remaining = rejected;
    }
    (selected, remaining)
}

#[cfg(test)]
mod tests;
