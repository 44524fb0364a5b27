//! Data audit, meant to be read before training: leakage between splits, associations of the class with attributes other than
//! pathology, shortcut baselines, label problems, and what a score on the data set can mean.

mod association;
mod features;
mod findings;
mod forest;
mod markdown;
mod shortcut;
mod verdict;

pub use association::{Association, AssociationRow};
pub use features::{AuditImage, DuplicateSet};
pub(super) use features::{age_band, size_band};
pub use findings::{
    DuplicateFindings, DuplicateGroup, GroupImage, LabelProblem, LabelProblems, Listing, PatientFinding, SplitCount,
};
pub use shortcut::{Accuracy, Shortcut};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{ClassList, DatasetId, LeakageFinding};
use features::LabelledImages;

/// Version of the report computation. Raise it when the results for the same data change, so that cached reports are recomputed.
pub const REPORT_VERSION: u32 = 2;

/// Minimum number of labelled images for shortcut baselines.
const MIN_IMAGES: usize = 20;

/// Data audit report of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetReport {
    /// Data set.
    pub dataset_id: DatasetId,
    /// Name of the data set.
    pub dataset_name: String,
    /// True if the images are synthetic phantoms.
    pub synthetic: bool,
    /// Fingerprint of the data set at the time of the report.
    pub fingerprint: String,
    /// Class list.
    pub classes: ClassList,
    /// Number of images.
    pub images: u64,
    /// Labelled images: those that tables and shortcut baselines are computed on.
    pub labelled: u64,
    /// Number of known patients.
    pub patients: u64,
    /// Images without a patient id: patient overlap between splits cannot be checked for them.
    pub without_patient: u64,
    /// Images and patients per split and class.
    pub splits: Vec<SplitCount>,
    /// Leakage findings that a training run must acknowledge.
    pub leakage: Vec<LeakageFinding>,
    /// Patients with images in more than one split.
    pub patients_in_several_splits: Listing<PatientFinding>,
    /// Patients with images of more than one class. This can be correct: patients fall ill and recover.
    pub patients_with_several_classes: Listing<PatientFinding>,
    /// Near-duplicate images.
    pub duplicates: DuplicateFindings,
    /// Association of the class with attributes other than pathology.
    pub attributes: Vec<Association>,
    /// Shortcut baselines: accuracy without looking at pathology, best first.
    pub shortcuts: Vec<Shortcut>,
    /// Label problems.
    pub labels: LabelProblems,
    /// Conclusions in sentences: what a score on this data set can and cannot mean.
    pub verdict: Vec<String>,
    /// Time of the report.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// Computation time in seconds.
    pub seconds: f64,
}

/// Input of the data audit.
#[derive(Clone, Debug)]
pub struct AuditInput {
    /// Data set.
    pub dataset_id: DatasetId,
    /// Name of the data set.
    pub dataset_name: String,
    /// True if the images are synthetic phantoms.
    pub synthetic: bool,
    /// Fingerprint of the data set.
    pub fingerprint: String,
    /// Class list.
    pub classes: ClassList,
    /// All images.
    pub images: Vec<AuditImage>,
    /// Sets of near-duplicates among them.
    pub groups: Vec<DuplicateSet>,
    /// Images with too little detail to compare.
    pub featureless: u64,
    /// Images that could not be read.
    pub unreadable: u64,
    /// Leakage findings that a training run must acknowledge.
    pub leakage: Vec<LeakageFinding>,
    /// Label problems found by imports.
    pub labels: LabelProblems,
}

impl DatasetReport {
    /// Computes the report; about a minute on one core for 16,000 images. Deterministic for the same data.
    pub fn new(input: AuditInput) -> Self {
        let began = std::time::Instant::now();
        let names = input.classes.names();
        let findings = findings::Findings::of(&input);
        let labelled = LabelledImages::of(&input);
        let measurable = labelled.len() >= MIN_IMAGES && labelled.classes() > 1;
        let mut report = Self {
            dataset_id: input.dataset_id,
            dataset_name: input.dataset_name.clone(),
            synthetic: input.synthetic,
            fingerprint: input.fingerprint.clone(),
            classes: input.classes.clone(),
            images: input.images.len() as u64,
            labelled: labelled.len() as u64,
            patients: findings.patients,
            without_patient: findings.without_patient,
            splits: findings.splits,
            leakage: input.leakage.clone(),
            patients_in_several_splits: findings.in_several_splits,
            patients_with_several_classes: findings.with_several_classes,
            duplicates: findings.duplicates,
            attributes: labelled.associations(names),
            shortcuts: if measurable { labelled.shortcuts() } else { Vec::new() },
            labels: input.labels.clone(),
            verdict: Vec::new(),
            made_at: Timestamp::now(),
            seconds: 0.0,
        };
        report.verdict = verdict::of(&report);
        report.seconds = began.elapsed().as_secs_f64();
        report
    }
}

#[cfg(test)]
mod tests;
