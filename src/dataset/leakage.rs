//! Leakage between the splits of a data set, which a training run must acknowledge.

use crate::{
    domain::{DatasetId, LeakageFinding, LeakageKind},
    store::{self, Db, StoreError},
};

use super::{DuplicateGroup, duplicates};

/// The leakage findings of a data set, from stored metadata and fingerprints only: cheap enough to be computed at every submission.
pub async fn leakage(db: &Db, dataset: DatasetId) -> Result<Vec<LeakageFinding>, StoreError> {
    let patients = store::datasets::patients_in_several_splits(db, dataset).await?.len() as u64;
    Ok(leakage_findings(patients, &duplicates(db, dataset).await?.groups))
}

/// The findings for `patients` patients in more than one split and for groups of duplicates.
pub fn leakage_findings(patients: u64, groups: &[DuplicateGroup]) -> Vec<LeakageFinding> {
    let duplicates = groups.iter().filter(|group| group.splits.len() > 1).count() as u64;
    let counts = [(LeakageKind::PatientOverlap, patients), (LeakageKind::DuplicateAcrossSplits, duplicates)];
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(leakage, count)| leakage.finding(count)).collect()
}
