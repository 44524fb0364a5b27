//! Splits of generated patients.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::domain::{DatasetId, Sha256 as Hash};

use super::*;

/// An image whose content is determined by `number`.
fn image(number: u32, label: &str, patient: Option<&str>) -> Radiograph {
    Radiograph {
        id: RadiographId::new(),
        dataset_id: DatasetId::new(),
        sha256: Hash::of(&number.to_le_bytes()),
        file_name: format!("{number}.png"),
        label: Some(label.to_owned()),
        patient_id: patient.map(str::to_owned),
        source: None,
        view: None,
        split: None,
        width: 64,
        height: 64,
        format: "png".to_owned(),
        byte_length: 1,
        upload_sha256: None,
        dicom: None,
        flags: Vec::new(),
        grey_range: None,
        synthetic: false,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

/// Three classes of unequal size, patients with one to nine images, and a fifth of the images without patient id.
fn hospital() -> Vec<Radiograph> {
    let mut images = Vec::new();
    for (class, patients) in [("normal", 150), ("pneumonia", 60), ("COVID-19", 25)] {
        for patient in 0..patients {
            let name = format!("{class}-{patient}");
            for _ in 0..1 + patient % 7 * (patient % 3) / 2 {
                let known = if patient % 5 == 0 { None } else { Some(name.as_str()) };
                images.push(image(images.len() as u32, class, known));
            }
        }
    }
    // A patient with images of two classes.
    images.push(image(90_001, "normal", Some("both")));
    images.push(image(90_002, "COVID-19", Some("both")));
    images
}

fn by_content(images: &[Radiograph], splits: &[(RadiographId, Split)]) -> BTreeMap<Hash, Split> {
    let find = |id| images.iter().find(|image| image.id == id).unwrap().sha256.clone();
    splits.iter().map(|(id, split)| (find(*id), *split)).collect()
}

fn count(images: &[Radiograph], splits: &BTreeMap<Hash, Split>, label: &str, split: Split) -> i64 {
    let counted = |image: &&Radiograph| image.label.as_deref() == Some(label) && splits[&image.sha256] == split;
    images.iter().filter(counted).count() as i64
}

#[test]
fn every_image_has_a_split_and_no_patient_is_in_two() {
    let images = hospital();
    for seed in 0..20 {
        let splits = assign(&images, 0.15, 0.1, seed);
        assert_eq!(splits.len(), images.len());
        let splits = by_content(&images, &splits);
        let mut of_patient: BTreeMap<&str, BTreeSet<Split>> = BTreeMap::new();
        for image in &images {
            if let Some(patient) = &image.patient_id {
                of_patient.entry(patient).or_default().insert(splits[&image.sha256]);
            }
        }
        assert!(of_patient.values().all(|splits| splits.len() == 1));
    }
}

#[test]
fn each_class_gets_its_fraction_to_within_one_image() {
    let images = hospital();
    for seed in 0..20 {
        let splits = by_content(&images, &assign(&images, 0.15, 0.1, seed));
        for class in ["normal", "pneumonia", "COVID-19"] {
            let total = images.iter().filter(|image| image.label.as_deref() == Some(class)).count() as f64;
            let target = |fraction: f64| (total * fraction).round() as i64;
            let (test, validation) =
                (count(&images, &splits, class, Split::Test), count(&images, &splits, class, Split::Validation));
            assert!((test - target(0.15)).abs() <= 1, "{class}: {test} of {total}");
            assert!((validation - target(0.1)).abs() <= 1, "{class}: {validation} of {total}");
        }
    }
}

#[test]
fn splits_depend_on_the_seed_and_not_on_order_or_ids() {
    let images = hospital();
    let first = by_content(&images, &assign(&images, 0.2, 0.1, 7));
    let mut shuffled = hospital();
    shuffled.reverse();
    shuffled.rotate_left(31);
    assert_eq!(by_content(&shuffled, &assign(&shuffled, 0.2, 0.1, 7)), first);
    assert_ne!(by_content(&images, &assign(&images, 0.2, 0.1, 8)), first);
}

#[test]
fn patients_with_many_images_are_selected_too() {
    let images: Vec<_> = (0..400)
        .map(|number| image(number, "normal", Some(&format!("p{}", if number < 200 { number / 10 } else { number }))))
        .collect();
    let selected = (0..20).filter(|seed| {
        let splits = by_content(&images, &assign(&images, 0.2, 0.0, *seed));
        images[..200].iter().any(|image| splits[&image.sha256] == Split::Test)
    });
    assert!(selected.count() > 15);
}

#[test]
fn a_small_class_is_in_every_split() {
    let images: Vec<_> = (0..30).map(|n| image(n, if n < 3 { "rare" } else { "normal" }, None)).collect();
    let splits = by_content(&images, &assign(&images, 0.1, 0.1, 1));
    for split in Split::ALL {
        assert_eq!(count(&images, &splits, "rare", split), 1, "{split}");
    }
}

#[test]
fn targets_are_met_as_closely_as_whole_patients_allow() {
    // Ten patients with ten images each: the closest to a quarter of 100 is 20 or 30.
    let images: Vec<_> = (0..100).map(|n| image(n, "normal", Some(&format!("p{}", n / 10)))).collect();
    let splits = by_content(&images, &assign(&images, 0.25, 0.0, 3));
    assert!([20, 30].contains(&count(&images, &splits, "normal", Split::Test)));
    // A patient with all images of a class stays in the largest split.
    let alone: Vec<_> = (0..10).map(|n| image(n, "normal", Some("p"))).collect();
    assert!(assign(&alone, 0.1, 0.0, 3).iter().all(|(_, split)| *split == Split::Train));
}

#[test]
fn a_fraction_of_zero_selects_nothing() {
    assert!(assign(&hospital(), 0.0, 0.0, 1).iter().all(|(_, split)| *split == Split::Train));
    assert_eq!(assign(&[], 0.1, 0.1, 1), []);
}

#[test]
fn validation_is_split_off_by_patient() {
    let images = hospital();
    let (train, validation) = split_off_validation(&images, 0.1, 5);
    assert_eq!(train.len() + validation.len(), images.len());
    let patients = |of: &[Radiograph]| of.iter().filter_map(|image| image.patient_id.clone()).collect::<BTreeSet<_>>();
    assert!(patients(&train).is_disjoint(&patients(&validation)));
    for class in ["normal", "pneumonia", "COVID-19"] {
        let of = |images: &[Radiograph]| images.iter().filter(|i| i.label.as_deref() == Some(class)).count() as f64;
        assert!((of(&validation) - of(&images) * 0.1).abs() <= 1.5, "{class}");
    }
    let mut reversed = images.clone();
    reversed.reverse();
    let (mut reversed_train, _) = split_off_validation(&reversed, 0.1, 5);
    reversed_train.reverse();
    assert_eq!(reversed_train, train);
}

/// Warnings after a split with test and validation fractions of 0.2.
fn warned(images: &[Radiograph]) -> Vec<String> {
    warnings(images, &assign(images, 0.2, 0.2, 1), Fractions { test: 0.2, validation: 0.2 })
}

#[test]
fn a_patient_with_all_images_is_named() {
    let images: Vec<_> = (0..10).map(|n| image(n, if n % 2 == 0 { "normal" } else { "COVID-19" }, Some("p"))).collect();
    let warnings = warned(&images);
    assert!(warnings.len() == 1 && warnings[0].starts_with("all 10 images have the patient id p,"), "{warnings:?}");
    let unknown: Vec<_> = (0..10).map(|n| image(n, if n % 2 == 0 { "normal" } else { "COVID-19" }, None)).collect();
    assert_eq!(warned(&unknown), Vec::<String>::new());
}

#[test]
fn a_class_of_one_patient_and_a_class_that_is_too_small_are_named() {
    let images: Vec<_> = (0..30)
        .map(|n| match n {
            0..5 => image(n, "COVID-19", Some("p")),
            5 => image(n, "rare", None),
            _ => image(n, "normal", Some(&format!("q{n}"))),
        })
        .collect();
    let warnings = warned(&images);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("all 5 images of COVID-19 have the patient id p,"), "{warnings:?}");
    assert_eq!(warnings[1], "the test split has no images of rare, which has 1 image in total");
    assert_eq!(warnings[2], "the validation split has no images of rare, which has 1 image in total");
}
