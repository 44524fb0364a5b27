//! What a training run on a data set has to acknowledge.

use crate::{
    domain::{DatasetId, LeakageFinding, LeakageKind},
    store::{self, Db, StoreError},
};

use super::{DuplicateGroup, duplicates};

/// The leakage that is found in what is stored, without reading an image: cheap enough for every submission.
pub async fn leakage(db: &Db, dataset: DatasetId) -> Result<Vec<LeakageFinding>, StoreError> {
    let patients = store::datasets::patients_in_several_splits(db, dataset).await?.len() as u64;
    Ok(leakage_of(patients, &duplicates(db, dataset).await?.groups))
}

/// Of so many patients in more than one split, and of these groups of images that look the same.
pub fn leakage_of(patients: u64, groups: &[DuplicateGroup]) -> Vec<LeakageFinding> {
    let pictures = groups.iter().filter(|group| group.splits.len() > 1).count() as u64;
    let counts = [(LeakageKind::PatientOverlap, patients), (LeakageKind::DuplicateAcrossSplits, pictures)];
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(leakage, count)| leakage.finding(count)).collect()
}
