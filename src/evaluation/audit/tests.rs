//! Tests of the data audit on constructed images.

use std::collections::BTreeMap;

use super::*;
use crate::domain::{LeakageKind, RadiographId, Split};

const CLASSES: [&str; 3] = ["normal", "pneumonia", "COVID-19"];

fn image(number: usize, class: usize) -> AuditImage {
    AuditImage {
        id: RadiographId::new(),
        file_name: format!("{number}.png"),
        class: Some(class),
        split: Some(if number.is_multiple_of(5) { Split::Test } else { Split::Train }),
        patient: Some(format!("a hospital's patient {number}")),
        source: Some("one for all".into()),
        collection: None,
        view: None,
        sex: None,
        age_years: None,
        size: (64, 64),
        format: "png".into(),
        byte_length: 4000,
        original_size: None,
        original_mode: None,
        original_format: None,
        plane: None,
    }
}

/// Sixty images of sixty patients.
fn input() -> AuditInput {
    let nothing = || Listing::of(Vec::new());
    AuditInput {
        dataset_id: DatasetId::new(),
        dataset_name: "drawn | here".into(),
        synthetic: false,
        fingerprint: "f".repeat(64),
        classes: ClassList::default(),
        images: (0..60).map(|number| image(number, number % 3)).collect(),
        groups: Vec::new(),
        featureless: 0,
        unreadable: 0,
        leakage: Vec::new(),
        labels: LabelProblems {
            contradictions: nothing(),
            rows_without_file: nothing(),
            files_without_row: nothing(),
            unusable: nothing(),
        },
    }
}

fn says(report: &DatasetReport, words: &str) -> bool {
    report.verdict.iter().any(|sentence| sentence.contains(words))
}

#[test]
fn a_data_set_without_shortcut_or_leakage_gets_a_clean_verdict() {
    let report = DatasetReport::new(input());
    assert_eq!((report.images, report.patients, report.without_patient), (60, 60, 0));
    assert!(says(&report, "No known patient and no near-duplicate"), "{:?}", report.verdict);
    assert!(says(&report, "No shortcut baseline"), "{:?}", report.verdict);
    assert!(says(&report, "12 test images of 12 patients"), "{:?}", report.verdict);
    assert_eq!(report.attributes, [], "no attribute varies");
}

#[test]
fn a_planted_source_and_file_size_beat_the_majority_class() {
    let mut input = input();
    for (number, image) in input.images.iter_mut().enumerate() {
        image.source = Some(format!("source of {}", CLASSES[image.class.unwrap()]));
        image.byte_length = 1000 * (1 + image.class.unwrap() as u64 * 40) + number as u64;
        image.sex = Some(["female", "male"][number % 2].into());
    }
    let report = DatasetReport::new(input);
    let of = |name: &str| report.shortcuts.iter().find(|shortcut| shortcut.name == name).unwrap().cross_validated;
    assert_eq!(of("source").accuracy.value, 1.0);
    assert!(of("file").accuracy.value > 0.95 && of("file").majority.value < 0.45, "{:?}", of("file"));
    let information: BTreeMap<_, _> =
        report.attributes.iter().map(|one| (one.attribute.as_str(), one.share_of_class)).collect();
    assert!(
        information["source"] > 0.9 && information["file size"] > 0.9 && information["sex"] < 0.1,
        "{information:?}"
    );
    assert!(says(&report, "100.0 % of the images come from sources with a single class"), "{:?}", report.verdict);
    assert!(says(&report, "A network that does not score higher"), "{:?}", report.verdict);
}

#[test]
fn a_planted_brightness_is_found_by_the_thumbnail_baseline() {
    let mut input = input();
    for (number, image) in input.images.iter_mut().enumerate() {
        image.plane = Some(vec![40 * image.class.unwrap() as u8 + (number % 7) as u8; 64 * 64]);
    }
    let report = DatasetReport::new(input);
    assert_eq!(report.shortcuts[0].name, "thumbnail");
    assert!(report.shortcuts[0].cross_validated.accuracy.value > 0.9);
}

#[test]
fn leakage_is_reported_and_patient_ids_are_shortened() {
    let mut input = input();
    input.leakage = vec![LeakageKind::PatientOverlap.finding(1), LeakageKind::DuplicateAcrossSplits.finding(1)];
    input.images[0].patient = input.images[1].patient.clone();
    input.images[7].patient = None;
    input.groups = vec![
        DuplicateSet {
            members: vec![input.images[2].id, input.images[3].id],
            likeness: 0.99,
            identical: false,
            mirrored: false,
        },
        DuplicateSet {
            members: vec![input.images[4].id, input.images[10].id],
            likeness: 1.0,
            identical: true,
            mirrored: false,
        },
    ];
    let report = DatasetReport::new(input);
    let overlap = &report.patients_in_several_splits;
    assert_eq!((overlap.count, overlap.items[0].images), (1, 2));
    assert_eq!((overlap.items[0].patient.as_str(), overlap.items[0].radiographs.len()), ("a hospital's…", 2));
    assert_eq!(report.patients_with_several_classes.count, 1);
    let duplicates = &report.duplicates;
    assert_eq!((duplicates.groups.count, duplicates.across_splits, duplicates.with_several_classes), (2, 1, 1));
    assert!(duplicates.groups.items[0].across_splits, "most serious first");
    for words in ["\"patient-overlap\"", "\"duplicate-across-splits\"", "labels of different classes", "1 of 60 images"]
    {
        assert!(says(&report, words), "{words}: {:?}", report.verdict);
    }
    let text = report.to_markdown() + &serde_json::to_string(&report).unwrap();
    assert!(!text.contains("patient 1") && text.contains("4.png (train, pneumonia"), "{text}");
}

#[test]
fn near_duplicates_are_never_in_two_folds() {
    // Pairs of near-duplicates with a random class each: having seen one reveals the class of the other.
    let mut input = input();
    for pair in input.images.chunks_mut(2) {
        let class = pair[0].id.to_string().bytes().map(usize::from).sum::<usize>() % 3;
        pair.iter_mut().for_each(|image| image.class = Some(class));
    }
    for (number, image) in input.images.iter_mut().enumerate() {
        image.source = Some(format!("source {}", number / 2));
    }
    let pairs = input.images.chunks(2).map(|pair| pair.iter().map(|image| image.id).collect());
    let duplicate_set = |members| DuplicateSet { members, likeness: 1.0, identical: true, mirrored: false };
    input.groups = pairs.map(duplicate_set).collect();
    let report = DatasetReport::new(input);
    let source = report.shortcuts.iter().find(|shortcut| shortcut.name == "source").unwrap().cross_validated;
    assert_eq!(source.patients, 30);
    assert!(source.accuracy.value <= source.majority.value, "{source:?}");
}

#[test]
fn a_report_survives_json_and_the_text_has_every_section() {
    let report = DatasetReport::new(input());
    let again: DatasetReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again, report);
    let text = report.to_markdown();
    assert!(text.starts_with("# Data audit: drawn | here\n"), "{text}");
    for head in ["Images and patients", "Patients", "Near-duplicates", "Labels"] {
        assert!(text.contains(&format!("\n## {head}\n")), "{head}");
    }
    assert!(text.contains("| test  | 4 of 4 patients"), "{text}");
}

#[test]
fn few_or_no_images_give_a_report_without_shortcuts() {
    for few in [0, 1, 12] {
        let mut input = input();
        input.images.truncate(few);
        let report = DatasetReport::new(input);
        assert_eq!((report.labelled, report.shortcuts.len()), (few as u64, 0));
        assert!(says(&report, "too few labelled images") && !report.to_markdown().contains("NaN"));
    }
}
