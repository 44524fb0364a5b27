//! Countable findings: patients and near-duplicates in several splits, conflicting classes, and label problems.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AuditImage, AuditInput};
use crate::domain::{RadiographId, Split};

/// Maximum number of findings of a kind in a report.
const MAX_LISTED: usize = 100;

/// Maximum number of radiographs listed per patient.
const MAX_RADIOGRAPHS: usize = 4;

/// Length of the displayed prefix of a patient id, enough to find it in a split file.
const PATIENT_PREFIX: usize = 12;

/// Number of findings and the first hundred of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listing<T> {
    /// Number of findings.
    pub count: u64,
    /// The first findings, at most a hundred.
    pub items: Vec<T>,
}

/// Number of images and patients of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SplitCount {
    /// Split; null for images without a split.
    pub split: Option<Split>,
    /// Images by class; unlabelled images under `unlabelled`.
    pub images: BTreeMap<String, u64>,
    /// Unique patients by class; an image without a patient id counts as one.
    pub patients: BTreeMap<String, u64>,
    /// Unique patients over all classes.
    pub all_patients: u64,
}

/// A patient with images in several splits or of several classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PatientFinding {
    /// Prefix of the stored patient id.
    pub patient: String,
    /// Number of images of the patient.
    pub images: u64,
    /// Splits that contain them.
    pub splits: Vec<Split>,
    /// Images by class.
    pub classes: BTreeMap<String, u64>,
    /// Examples: one image per split and class, at most four.
    pub radiographs: Vec<RadiographId>,
}

/// Near-duplicate images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DuplicateFindings {
    /// Number of images compared with all others.
    pub compared: u64,
    /// Images with too little detail to compare.
    pub featureless: u64,
    /// Images that could not be read.
    pub unreadable: u64,
    /// Groups with images in more than one split.
    pub across_splits: u64,
    /// Groups with images of more than one class: at least one label in each is wrong.
    pub with_several_classes: u64,
    /// Groups with images of more than one patient id: probably one patient under two ids.
    pub with_several_patients: u64,
    /// Groups: across splits first, then of several classes.
    pub groups: Listing<DuplicateGroup>,
}

/// Group of near-duplicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DuplicateGroup {
    /// Two or more images.
    pub images: Vec<GroupImage>,
    /// Lowest correlation of local detail that linked two images, at most 1.
    pub likeness: f64,
    /// True if the images are identical at 64 x 64 pixels.
    pub identical: bool,
    /// True if an image is the mirror image of another (left-right flip).
    pub mirrored: bool,
    /// True if the images are in more than one split.
    pub across_splits: bool,
    /// True if the images have more than one class.
    pub several_classes: bool,
}

/// An image of a group of near-duplicates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupImage {
    /// Identifier.
    pub id: RadiographId,
    /// File name as uploaded.
    pub file_name: String,
    /// Split.
    pub split: Option<Split>,
    /// Class.
    pub label: Option<String>,
    /// Prefix of the stored patient id.
    pub patient: Option<String>,
}

/// Rows and files rejected by the latest import of each folder, by kind of label problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelProblems {
    /// Rows that give a file another class or split than an earlier row; the first row counts.
    pub contradictions: Listing<LabelProblem>,
    /// Rows whose file is missing.
    pub rows_without_file: Listing<LabelProblem>,
    /// Image files without a row.
    pub files_without_row: Listing<LabelProblem>,
    /// Unreadable rows and files that are not usable images.
    pub unusable: Listing<LabelProblem>,
}

/// A rejected row or file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelProblem {
    /// The label file or image, relative to the folder.
    pub file: String,
    /// Line of the label file, from 1.
    pub line: Option<u32>,
    /// Reason.
    pub reason: String,
}

impl<T> Listing<T> {
    /// Counts all items and keeps the first hundred.
    pub fn of(mut all: Vec<T>) -> Self {
        let count = all.len() as u64;
        all.truncate(MAX_LISTED);
        Self { count, items: all }
    }
}

pub(super) struct Findings {
    pub(super) patients: u64,
    pub(super) without_patient: u64,
    pub(super) splits: Vec<SplitCount>,
    pub(super) in_several_splits: Listing<PatientFinding>,
    pub(super) with_several_classes: Listing<PatientFinding>,
    pub(super) duplicates: DuplicateFindings,
}

impl Findings {
    pub(super) fn of(input: &AuditInput) -> Self {
        let names = input.classes.names();
        let mut by_patient: BTreeMap<&str, Vec<&AuditImage>> = BTreeMap::new();
        for image in &input.images {
            if let Some(patient) = &image.patient {
                by_patient.entry(patient).or_default().push(image);
            }
        }
        let all: Vec<PatientFinding> = by_patient.iter().map(|(id, images)| patient(id, images, names)).collect();
        let select = |matches: fn(&PatientFinding) -> bool| {
            Listing::of(all.iter().filter(|one| matches(one)).cloned().collect())
        };
        Self {
            patients: all.len() as u64,
            without_patient: input.images.iter().filter(|image| image.patient.is_none()).count() as u64,
            splits: splits(&input.images, names),
            in_several_splits: select(|patient| patient.splits.len() > 1),
            with_several_classes: select(|patient| patient.classes.len() > 1),
            duplicates: duplicates(input, names),
        }
    }
}

fn patient(id: &str, images: &[&AuditImage], names: &[String]) -> PatientFinding {
    let splits: BTreeSet<Split> = images.iter().filter_map(|image| image.split).collect();
    let mut classes = BTreeMap::new();
    for class in images.iter().filter_map(|image| image.class) {
        *classes.entry(names[class].clone()).or_default() += 1;
    }
    // One image per split and class, so that the examples show the finding.
    let mut shown: Vec<&&AuditImage> = Vec::new();
    for image in images {
        if !shown.iter().any(|other| (other.split, other.class) == (image.split, image.class)) {
            shown.push(image);
        }
    }
    PatientFinding {
        patient: shortened(id),
        images: images.len() as u64,
        splits: splits.into_iter().collect(),
        classes,
        radiographs: shown.into_iter().take(MAX_RADIOGRAPHS).map(|image| image.id).collect(),
    }
}

fn shortened(id: &str) -> String {
    match id.char_indices().nth(PATIENT_PREFIX) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.to_owned(),
    }
}

fn splits(images: &[AuditImage], names: &[String]) -> Vec<SplitCount> {
    let mut by_split: BTreeMap<(bool, Option<Split>), Vec<&AuditImage>> = BTreeMap::new();
    for image in images {
        by_split.entry((image.split.is_none(), image.split)).or_default().push(image);
    }
    by_split.into_iter().map(|((_, split), images)| split_count(split, &images, names)).collect()
}

fn split_count(split: Option<Split>, images: &[&AuditImage], names: &[String]) -> SplitCount {
    let mut by_class: BTreeMap<String, Vec<&AuditImage>> = BTreeMap::new();
    for image in images {
        let class = image.class.map_or("unlabelled".to_owned(), |class| names[class].clone());
        by_class.entry(class).or_default().push(image);
    }
    SplitCount {
        split,
        all_patients: patients(images),
        patients: by_class.iter().map(|(class, images)| (class.clone(), patients(images))).collect(),
        images: by_class.into_iter().map(|(class, images)| (class, images.len() as u64)).collect(),
    }
}

fn patients(images: &[&AuditImage]) -> u64 {
    let known: BTreeSet<&str> = images.iter().filter_map(|image| image.patient.as_deref()).collect();
    let unknown = images.iter().filter(|image| image.patient.is_none()).count();
    (known.len() + unknown) as u64
}

fn duplicates(input: &AuditInput, names: &[String]) -> DuplicateFindings {
    let by_id: HashMap<RadiographId, &AuditImage> = input.images.iter().map(|image| (image.id, image)).collect();
    let mut groups = Vec::new();
    let mut with_several_patients = 0;
    for group in &input.groups {
        let members: Vec<&AuditImage> = group.members.iter().filter_map(|id| by_id.get(id).copied()).collect();
        let patients: BTreeSet<&str> = members.iter().filter_map(|image| image.patient.as_deref()).collect();
        with_several_patients += u64::from(patients.len() > 1);
        let splits: BTreeSet<Split> = members.iter().filter_map(|image| image.split).collect();
        let classes: BTreeSet<usize> = members.iter().filter_map(|image| image.class).collect();
        groups.push(DuplicateGroup {
            images: members.into_iter().map(|image| shown(image, names)).collect(),
            likeness: group.likeness,
            identical: group.identical,
            mirrored: group.mirrored,
            across_splits: splits.len() > 1,
            several_classes: classes.len() > 1,
        });
    }
    groups.sort_by_key(|group| (!group.across_splits, !group.several_classes));
    let count = |matches: fn(&DuplicateGroup) -> bool| groups.iter().filter(|group| matches(group)).count() as u64;
    DuplicateFindings {
        compared: input.images.len() as u64 - input.featureless - input.unreadable,
        featureless: input.featureless,
        unreadable: input.unreadable,
        across_splits: count(|group| group.across_splits),
        with_several_classes: count(|group| group.several_classes),
        with_several_patients,
        groups: Listing::of(groups),
    }
}

fn shown(image: &AuditImage, names: &[String]) -> GroupImage {
    GroupImage {
        id: image.id,
        file_name: image.file_name.clone(),
        split: image.split,
        label: image.class.map(|class| names[class].clone()),
        patient: image.patient.as_deref().map(shortened),
    }
}
