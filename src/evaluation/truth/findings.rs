//! What can be counted: patients and pictures that stand in several places, and labels that cannot be right.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Described, Examined};
use crate::domain::{RadiographId, Split};

/// Most of a kind that a report lists.
const MOST_LISTED: usize = 100;

/// Radiographs of a patient that are named.
const MOST_NAMED: usize = 4;

/// Characters of a patient's id that are shown: enough to find it in a split file.
const SHOWN_OF_PATIENT: usize = 12;

/// How many there are, and the first hundred of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Found<T> {
    /// All.
    pub count: u64,
    /// At most a hundred.
    pub items: Vec<T>,
}

/// Images and patients of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SplitCount {
    /// Null for images without one.
    pub split: Option<Split>,
    /// By class; those without a class under `unlabelled`.
    pub images: BTreeMap<String, u64>,
    /// Unique patients by class; an image without a patient id counts as one.
    pub patients: BTreeMap<String, u64>,
    /// Unique patients, whatever their classes.
    pub all_patients: u64,
}

/// A patient in several places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PatientFinding {
    /// The beginning of the id as it is stored.
    pub patient: String,
    /// Of this patient.
    pub images: u64,
    /// Splits with such images.
    pub splits: Vec<Split>,
    /// Images by class.
    pub classes: BTreeMap<String, u64>,
    /// Some of the images.
    pub radiographs: Vec<RadiographId>,
}

/// Images that look the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DuplicateFindings {
    /// Images that were compared with all others.
    pub compared: u64,
    /// Images with too little detail to be told from one another; they were not compared.
    pub featureless: u64,
    /// Images that could not be read.
    pub unreadable: u64,
    /// Groups with members in more than one split.
    pub across_splits: u64,
    /// Groups with members of more than one class: at least one label of each is wrong.
    pub with_several_classes: u64,
    /// Groups with members of more than one patient id: one person under two names.
    pub with_several_patients: u64,
    /// All groups: those across splits first, then those of several classes.
    pub groups: Found<PictureGroup>,
}

/// Versions of one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PictureGroup {
    /// Two or more.
    pub images: Vec<GroupImage>,
    /// The lowest correlation of local detail that joined two of them, at most 1.
    pub likeness: f64,
    /// The same at 64 x 64 pixels, byte for byte.
    pub identical: bool,
    /// A member is another one mirrored, left for right.
    pub mirrored: bool,
    /// Members stand in more than one split.
    pub across_splits: bool,
    /// Members have more than one class.
    pub several_classes: bool,
}

/// A member of such a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupImage {
    /// Identifier.
    pub id: RadiographId,
    /// As uploaded.
    pub file_name: String,
    /// Where it stands.
    pub split: Option<Split>,
    /// Its class.
    pub label: Option<String>,
    /// The beginning of its patient's id as it is stored.
    pub patient: Option<String>,
}

/// What the newest import of each folder refused, by what that says about the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelProblems {
    /// The same file with another class or split in another row; the first was kept.
    pub contradictions: Found<LabelProblem>,
    /// Rows that name a file that is not there.
    pub rows_without_file: Found<LabelProblem>,
    /// Files among the images that no row names.
    pub files_without_row: Found<LabelProblem>,
    /// Rows that cannot be read, and files that are no usable image.
    pub unusable: Found<LabelProblem>,
}

/// A row or a file that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelProblem {
    /// The label file or image, relative to the folder.
    pub file: String,
    /// Line of the label file, from 1.
    pub line: Option<u32>,
    /// Why.
    pub reason: String,
}

impl<T> Found<T> {
    /// Counts all and keeps the first.
    pub fn of(mut all: Vec<T>) -> Self {
        let count = all.len() as u64;
        all.truncate(MOST_LISTED);
        Self { count, items: all }
    }
}

pub(super) struct Findings {
    pub(super) patients: u64,
    pub(super) without_patient: u64,
    pub(super) splits: Vec<SplitCount>,
    pub(super) in_several_splits: Found<PatientFinding>,
    pub(super) with_several_classes: Found<PatientFinding>,
    pub(super) duplicates: DuplicateFindings,
}

impl Findings {
    pub(super) fn of(examined: &Examined) -> Self {
        let names = examined.classes.names();
        let mut by_patient: BTreeMap<&str, Vec<&Described>> = BTreeMap::new();
        for image in &examined.images {
            if let Some(patient) = &image.patient {
                by_patient.entry(patient).or_default().push(image);
            }
        }
        let all: Vec<PatientFinding> = by_patient.iter().map(|(id, images)| patient(id, images, names)).collect();
        let those =
            |wanted: fn(&PatientFinding) -> bool| Found::of(all.iter().filter(|one| wanted(one)).cloned().collect());
        Self {
            patients: all.len() as u64,
            without_patient: examined.images.iter().filter(|image| image.patient.is_none()).count() as u64,
            splits: splits(&examined.images, names),
            in_several_splits: those(|patient| patient.splits.len() > 1),
            with_several_classes: those(|patient| patient.classes.len() > 1),
            duplicates: duplicates(examined, names),
        }
    }
}

fn patient(id: &str, images: &[&Described], names: &[String]) -> PatientFinding {
    let splits: BTreeSet<Split> = images.iter().filter_map(|image| image.split).collect();
    let mut classes = BTreeMap::new();
    for class in images.iter().filter_map(|image| image.class) {
        *classes.entry(names[class].clone()).or_default() += 1;
    }
    // One of each split and class, so that what is shown is what was found.
    let mut shown: Vec<&&Described> = Vec::new();
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
        radiographs: shown.into_iter().take(MOST_NAMED).map(|image| image.id).collect(),
    }
}

fn shortened(id: &str) -> String {
    match id.char_indices().nth(SHOWN_OF_PATIENT) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.to_owned(),
    }
}

fn splits(images: &[Described], names: &[String]) -> Vec<SplitCount> {
    let mut by_split: BTreeMap<(bool, Option<Split>), Vec<&Described>> = BTreeMap::new();
    for image in images {
        by_split.entry((image.split.is_none(), image.split)).or_default().push(image);
    }
    by_split.into_iter().map(|((_, split), images)| split_count(split, &images, names)).collect()
}

fn split_count(split: Option<Split>, images: &[&Described], names: &[String]) -> SplitCount {
    let mut by_class: BTreeMap<String, Vec<&Described>> = BTreeMap::new();
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

fn patients(images: &[&Described]) -> u64 {
    let known: BTreeSet<&str> = images.iter().filter_map(|image| image.patient.as_deref()).collect();
    let unknown = images.iter().filter(|image| image.patient.is_none()).count();
    (known.len() + unknown) as u64
}

fn duplicates(examined: &Examined, names: &[String]) -> DuplicateFindings {
    let by_id: HashMap<RadiographId, &Described> = examined.images.iter().map(|image| (image.id, image)).collect();
    let mut groups = Vec::new();
    let mut with_several_patients = 0;
    for group in &examined.groups {
        let members: Vec<&Described> = group.members.iter().filter_map(|id| by_id.get(id).copied()).collect();
        let patients: BTreeSet<&str> = members.iter().filter_map(|image| image.patient.as_deref()).collect();
        with_several_patients += u64::from(patients.len() > 1);
        let splits: BTreeSet<Split> = members.iter().filter_map(|image| image.split).collect();
        let classes: BTreeSet<usize> = members.iter().filter_map(|image| image.class).collect();
        groups.push(PictureGroup {
            images: members.into_iter().map(|image| shown(image, names)).collect(),
            likeness: group.likeness,
            identical: group.identical,
            mirrored: group.mirrored,
            across_splits: splits.len() > 1,
            several_classes: classes.len() > 1,
        });
    }
    groups.sort_by_key(|group| (!group.across_splits, !group.several_classes));
    let count = |wanted: fn(&PictureGroup) -> bool| groups.iter().filter(|group| wanted(group)).count() as u64;
    DuplicateFindings {
        compared: examined.images.len() as u64 - examined.featureless - examined.unseen,
        featureless: examined.featureless,
        unreadable: examined.unseen,
        across_splits: count(|group| group.across_splits),
        with_several_classes: count(|group| group.several_classes),
        with_several_patients,
        groups: Found::of(groups),
    }
}

fn shown(image: &Described, names: &[String]) -> GroupImage {
    GroupImage {
        id: image.id,
        file_name: image.file_name.clone(),
        split: image.split,
        label: image.class.map(|class| names[class].clone()),
        patient: image.patient.as_deref().map(shortened),
    }
}
