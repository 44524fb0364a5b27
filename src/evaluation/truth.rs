//! The truth about a data set, before anyone trains on it: what leaks between its splits, what besides disease tells its classes apart, and
//! what a score on it can mean.

mod association;
mod described;
mod findings;
mod forest;
mod markdown;
mod shortcut;
mod verdict;

pub use association::{Association, AssociationRow};
pub use described::{Described, LooksAlike};
pub use findings::{
    DuplicateFindings, Found, GroupImage, LabelProblem, LabelProblems, PatientFinding, PictureGroup, SplitCount,
};
pub use shortcut::{Accuracy, Shortcut};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{ClassList, DatasetId, LeakageFinding};
use described::Labelled;

/// Version of what a report says of the same data: to be raised with what it computes, so that reports that were kept are made anew.
pub const REPORT_VERSION: u32 = 1;

/// Fewest labelled images of which shortcuts are measured.
const FEWEST_IMAGES: usize = 20;

/// A report on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetReport {
    /// Of which.
    pub dataset_id: DatasetId,
    /// Its name.
    pub dataset_name: String,
    /// Drawn and not photographed.
    pub synthetic: bool,
    /// Its content when the report was made.
    pub fingerprint: String,
    /// Its classes.
    pub classes: ClassList,
    /// All images.
    pub images: u64,
    /// Images with a class: those that the tables and shortcuts are about.
    pub labelled: u64,
    /// Known patients.
    pub patients: u64,
    /// Images without a patient id: whether their patients are in several splits is not known.
    pub without_patient: u64,
    /// Images and patients of each split, by class.
    pub splits: Vec<SplitCount>,
    /// What a training run on it has to acknowledge.
    pub leakage: Vec<LeakageFinding>,
    /// Patients with images in more than one split.
    pub patients_in_several_splits: Found<PatientFinding>,
    /// Patients with images of more than one class. That may be right: people recover and fall ill.
    pub patients_with_several_classes: Found<PatientFinding>,
    /// Images that look the same.
    pub duplicates: DuplicateFindings,
    /// Class by what is no disease.
    pub attributes: Vec<Association>,
    /// How well the class is predicted from what is no disease, the best first.
    pub shortcuts: Vec<Shortcut>,
    /// What is wrong with the labels.
    pub labels: LabelProblems,
    /// What a score on this data set can and cannot mean.
    pub verdict: Vec<String>,
    /// When the report was made.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// How long that took.
    pub seconds: f64,
}

/// What a report is made of.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Of which data set.
    pub dataset_id: DatasetId,
    /// Its name.
    pub dataset_name: String,
    /// Drawn and not photographed.
    pub synthetic: bool,
    /// Its content.
    pub fingerprint: String,
    /// Its classes.
    pub classes: ClassList,
    /// All its images.
    pub images: Vec<Described>,
    /// Which of them look the same.
    pub groups: Vec<LooksAlike>,
    /// Images that have too little detail to be told from one another.
    pub featureless: u64,
    /// Images that could not be compared.
    pub unseen: u64,
    /// What a run has to acknowledge.
    pub leakage: Vec<LeakageFinding>,
    /// What imports refused.
    pub labels: LabelProblems,
}

impl DatasetReport {
    /// Counts and measures; about a minute on one core for 16,000 images. The same data give the same report.
    pub fn new(examined: Examined) -> Self {
        let began = std::time::Instant::now();
        let names = examined.classes.names();
        let found = findings::Findings::of(&examined);
        let labelled = Labelled::of(&examined);
        let measurable = labelled.len() >= FEWEST_IMAGES && labelled.classes() > 1;
        let mut report = Self {
            dataset_id: examined.dataset_id,
            dataset_name: examined.dataset_name.clone(),
            synthetic: examined.synthetic,
            fingerprint: examined.fingerprint.clone(),
            classes: examined.classes.clone(),
            images: examined.images.len() as u64,
            labelled: labelled.len() as u64,
            patients: found.patients,
            without_patient: found.without_patient,
            splits: found.splits,
            leakage: examined.leakage.clone(),
            patients_in_several_splits: found.in_several_splits,
            patients_with_several_classes: found.with_several_classes,
            duplicates: found.duplicates,
            attributes: labelled.associations(names),
            shortcuts: if measurable { labelled.shortcuts() } else { Vec::new() },
            labels: examined.labels.clone(),
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
