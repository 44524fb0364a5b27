//! The report on a data set and the leakage between its splits, computed once and cached until the data set changes.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use sha2::Digest;

use super::{Error, Stores};
use crate::{
    dataset::{self, Duplicates},
    domain::{DatasetId, LeakageFinding, RadiographId, Sha256},
    evaluation::{
        AuditImage, AuditInput, DatasetReport, DuplicateSet, LabelProblem, LabelProblems, Listing, REPORT_VERSION,
    },
    imaging::{self, Limits},
    store::{
        self, Attributes, CachedDocument, Caches, Dataset, Db, ImportRejection, Radiograph, RejectionKind, StoreError,
    },
};

/// The report on the current content of a data set. It is cached in `cache/<data set>/report-<hash>.json`, named by the hash over all its
/// inputs, and computed by one caller at a time.
///
/// # Errors
/// [`Error`]. An image that cannot be read is no error: the report counts it.
pub async fn report(stores: &Stores, dataset: &Dataset, limits: Limits) -> Result<DatasetReport, Error> {
    let Stores { db, blobs, caches, .. } = stores;
    let records = Records::read(db, dataset.id).await?;
    if let Some(report) = cached(caches, dataset.id, CachedDocument::Report, &records.key(dataset)).await? {
        return Ok(report);
    }
    let _lock = caches.lock_compute().await;
    dataset::complete_fingerprints(db, blobs, dataset.id, limits).await?;
    // Checked again: another caller may have computed it, or the data set changed, while this one waited.
    let records = Records::read(db, dataset.id).await?;
    let key = records.key(dataset);
    if let Some(report) = cached(caches, dataset.id, CachedDocument::Report, &key).await? {
        return Ok(report);
    }
    let examined = examine(db, dataset, records).await?;
    let report = tokio::task::spawn_blocking(move || DatasetReport::new(examined)).await?;
    caches
        .put(dataset.id, CachedDocument::Report, &key, &serde_json::to_vec(&report).map_err(Error::internal)?)
        .await?;
    Ok(report)
}

/// Leakage between the splits of a data set, which a run on it must acknowledge: from the current report where there is one, because that
/// has compared every image; otherwise computed from the stored fingerprints, and cached until the data set changes.
///
/// # Errors
/// [`Error`].
pub(super) async fn leakage(stores: &Stores, dataset: &Dataset) -> Result<Vec<LeakageFinding>, Error> {
    let Stores { db, caches, .. } = stores;
    let key = Records::read(db, dataset.id).await?.key(dataset);
    if let Some(report) = cached::<DatasetReport>(caches, dataset.id, CachedDocument::Report, &key).await? {
        return Ok(report.leakage);
    }
    if let Some(found) = cached(caches, dataset.id, CachedDocument::Leakage, &key).await? {
        return Ok(found);
    }
    let found = dataset::leakage(db, dataset.id).await?;
    caches
        .put(dataset.id, CachedDocument::Leakage, &key, &serde_json::to_vec(&found).map_err(Error::internal)?)
        .await?;
    Ok(found)
}

async fn cached<T: DeserializeOwned>(
    caches: &Caches,
    dataset: DatasetId,
    document: CachedDocument,
    key: &Sha256,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = caches.get(dataset, document, key).await? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            tracing::warn!(%dataset, ?document, %error, "cached report is damaged and is computed again");
            Ok(None)
        }
    }
}

/// The stored inputs of a report.
struct Records {
    radiographs: Vec<Radiograph>,
    attributes: HashMap<RadiographId, Attributes>,
    rejections: Vec<ImportRejection>,
}

impl Records {
    async fn read(db: &Db, id: DatasetId) -> Result<Self, StoreError> {
        Ok(Self {
            radiographs: store::radiographs::all(db, id).await?,
            attributes: store::attributes::of_dataset(db, id).await?,
            rejections: store::imports::current_rejections(db, id).await?,
        })
    }

    /// SHA-256 over all inputs of a report. The fingerprint does not suffice, because it does not cover the patient ids.
    fn key(&self, dataset: &Dataset) -> Sha256 {
        let mut digest = sha2::Sha256::new();
        digest.update(format!("{REPORT_VERSION} {} {dataset:?}\n", imaging::FINGERPRINT_VERSION));
        for radiograph in &self.radiographs {
            digest.update(format!("{radiograph:?} {:?}\n", self.attributes.get(&radiograph.id)));
        }
        digest.update(format!("{:?}", self.rejections));
        Sha256::from_digest(&digest.finalize())
    }
}

async fn examine(db: &Db, dataset: &Dataset, records: Records) -> Result<AuditInput, StoreError> {
    let Duplicates { groups, featureless, missing, .. } = dataset::duplicates(db, dataset.id).await?;
    let patients = store::datasets::patients_in_several_splits(db, dataset.id).await?.len() as u64;
    let leakage = dataset::leakage_findings(patients, &groups);
    let mut planes = store::fingerprints::planes(db, dataset.id, imaging::FINGERPRINT_VERSION).await?;
    let Records { radiographs, mut attributes, rejections } = records;
    let described = |radiograph: Radiograph| {
        let (plane, known) = (planes.remove(&radiograph.id), attributes.remove(&radiograph.id).unwrap_or_default());
        describe(dataset, radiograph, known, plane)
    };
    let alike = |group: dataset::DuplicateGroup| DuplicateSet {
        members: group.members,
        likeness: group.similarity.into(),
        identical: group.identical,
        mirrored: group.mirrored,
    };
    Ok(AuditInput {
        dataset_id: dataset.id,
        dataset_name: dataset.name.clone(),
        synthetic: dataset.synthetic,
        fingerprint: store::datasets::fingerprint(db, dataset.id).await?,
        classes: dataset.classes.clone(),
        images: radiographs.into_iter().map(described).collect(),
        groups: groups.into_iter().map(alike).collect(),
        featureless,
        unreadable: missing,
        leakage,
        labels: label_problems(rejections),
    })
}

fn describe(dataset: &Dataset, radiograph: Radiograph, known: Attributes, plane: Option<Vec<u8>>) -> AuditImage {
    AuditImage {
        id: radiograph.id,
        file_name: radiograph.file_name,
        class: radiograph.label.as_deref().and_then(|label| dataset.classes.index_of(label)),
        split: radiograph.split,
        patient: radiograph.patient_id,
        source: radiograph.source,
        collection: known.collection,
        view: radiograph.view,
        sex: known.sex,
        age_years: known.age_years,
        size: (radiograph.width, radiograph.height),
        format: radiograph.format,
        byte_length: radiograph.byte_length,
        original_size: known.original_width.zip(known.original_height),
        original_mode: known.original_mode,
        original_format: known.original_format,
        plane,
    }
}

fn label_problems(rejections: Vec<ImportRejection>) -> LabelProblems {
    let of_kind = |kind| {
        let those = rejections.iter().filter(|rejection| rejection.kind == kind);
        let problem = |rejection: &ImportRejection| LabelProblem {
            file: rejection.file.clone(),
            line: rejection.line,
            reason: rejection.reason.clone(),
        };
        Listing::of(those.map(problem).collect())
    };
    LabelProblems {
        contradictions: of_kind(RejectionKind::Contradiction),
        rows_without_file: of_kind(RejectionKind::RowWithoutFile),
        files_without_row: of_kind(RejectionKind::FileWithoutRow),
        unusable: of_kind(RejectionKind::Unusable),
    }
}
