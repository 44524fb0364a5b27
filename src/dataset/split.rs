//! Patient-grouped, class-stratified splits: the same for the same seed, whatever the order of the images.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    domain::{DatasetId, RadiographId, Split},
    store::{self, Db, Radiograph, StoreError},
};

use super::off_async;

/// Shares of each class's images, from 0 to below 1.
#[derive(Clone, Copy, Debug)]
pub struct Fractions {
    /// Of all, in `test`.
    pub test: f64,
    /// Of the others, in `validation`.
    pub validation: f64,
}

/// Counts by class; images without a label are a class of their own.
type Counts<'a> = BTreeMap<Option<&'a str>, u64>;

/// The images of one patient, or one image whose patient is unknown.
struct Group<'a> {
    members: Vec<&'a Radiograph>,
    counts: Counts<'a>,
}

/// Assigns every radiograph of a data set to a split, as [`assign`] does.
///
/// # Errors
/// `InUse` while a run on the data set has not ended: it reads the images as it trains.
pub async fn split(db: &Db, dataset: DatasetId, fractions: Fractions, seed: u64) -> Result<(), StoreError> {
    if store::runs::count_active(db, dataset).await? > 0 {
        return Err(StoreError::InUse("a training run on this data set has not ended"));
    }
    let radiographs = store::radiographs::all(db, dataset).await?;
    let splits = off_async(move || assign(&radiographs, fractions.test, fractions.validation, seed)).await?;
    store::radiographs::assign_splits(db, &splits).await
}

/// Assigns every radiograph to a split. No patient is in two; an image without patient id is its own patient.
///
/// Each class gets `test_fraction` and `validation_fraction` of its images, rounded, as closely as whole patients
/// allow (one image at least where the class has two and the fraction is above 0). Patients are drawn in an order
/// that depends on the seed and on the patient's own images alone, so that an image added later moves few others.
pub fn assign(
    radiographs: &[Radiograph],
    test_fraction: f64,
    validation_fraction: f64,
    seed: u64,
) -> Vec<(RadiographId, Split)> {
    let total = counts(radiographs.iter());
    let (test, rest) = draw(groups(radiographs, seed), &targets(&total, test_fraction));
    let (validation, train) = draw(rest, &targets(&total, validation_fraction));
    let of = |groups: Vec<Group<'_>>, split| {
        groups.into_iter().flat_map(|group| group.members).map(move |member| (member.id, split)).collect::<Vec<_>>()
    };
    [of(test, Split::Test), of(validation, Split::Validation), of(train, Split::Train)].concat()
}

/// Parts `train` into what is trained on and a validation part of `fraction`, by the rules of [`assign`]; both in
/// the order given.
pub fn carve_validation(train: &[Radiograph], fraction: f64, seed: u64) -> (Vec<Radiograph>, Vec<Radiograph>) {
    let (validation, _) = draw(groups(train, seed), &targets(&counts(train.iter()), fraction));
    let carved: std::collections::HashSet<RadiographId> =
        validation.iter().flat_map(|group| &group.members).map(|member| member.id).collect();
    train.iter().cloned().partition(|radiograph| !carved.contains(&radiograph.id))
}

/// Groups in the order in which they are drawn.
fn groups(radiographs: &[Radiograph], seed: u64) -> Vec<Group<'_>> {
    // By content and not by id: a second import of the same folder splits alike.
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

/// By the first of a patient's images: what the patient is called is hashed under a key that each data folder has of its own.
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

fn targets<'a>(total: &Counts<'a>, fraction: f64) -> Counts<'a> {
    let target = |&n: &u64| {
        let rounded = (n as f64 * fraction).round() as u64;
        if fraction > 0.0 && n >= 2 { rounded.clamp(1, n - 1) } else { rounded.min(n) }
    };
    total.iter().map(|(class, n)| (*class, target(n))).collect()
}

/// Draws groups until `targets` are met as closely as whole groups allow: (drawn, left).
fn draw<'a>(groups: Vec<Group<'a>>, targets: &Counts<'a>) -> (Vec<Group<'a>>, Vec<Group<'a>>) {
    let mut missing: BTreeMap<Option<&str>, i64> = targets.iter().map(|(class, n)| (*class, *n as i64)).collect();
    let mut drawn = Vec::new();
    let mut left = groups;
    // First those that fit; then, where none fits any more, those whose overshoot is smaller than the gap.
    let fits = |group: &Group<'_>, missing: &BTreeMap<Option<&str>, i64>| {
        group.counts.iter().all(|(class, n)| *n as i64 <= missing[class])
    };
    let closer = |group: &Group<'_>, missing: &BTreeMap<Option<&str>, i64>| {
        let change = |(class, n): (&Option<&str>, &u64)| (missing[class] - *n as i64).abs() - missing[class].abs();
        group.counts.iter().map(change).sum::<i64>() < 0
    };
    for wanted in [&fits as &dyn Fn(&Group<'_>, &BTreeMap<Option<&str>, i64>) -> bool, &closer] {
        let (mut taken, mut passed) = (Vec::new(), Vec::new());
        for group in left {
            if !wanted(&group, &missing) {
                passed.push(group);
                continue;
            }
            for (class, n) in &group.counts {
                *missing.entry(*class).or_default() -= *n as i64;
            }
            taken.push(group);
        }
        drawn.append(&mut taken);
        left = passed;
    }
    (drawn, left)
}

#[cfg(test)]
mod tests;
