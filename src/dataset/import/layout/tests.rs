//! Folders in the layouts of public data sets.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{dataset::import::class_names::ClassMapping, domain::Split};

type LayoutResult = Result<(Vec<ImportEntry>, Vec<ExcludedRows>), String>;

/// A folder with empty files, except for label files, whose content is given.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn found(root: &Path, classes: &[&str], mapping: &[(&str, Option<&str>)]) -> LayoutResult {
    let class_mapping: ClassMapping =
        mapping.iter().map(|(name, class)| ((*name).to_owned(), class.map(str::to_owned))).collect();
    let labelled = LabelledFolder {
        root: root.to_owned(),
        train_split: None,
        validation_split: None,
        test_split: None,
        class_mapping,
    };
    let classes = ClassList::new(classes.iter().map(|class| (*class).to_owned()).collect()).unwrap();
    entries(&labelled, &classes, &Limits { max_pixels: 1 << 20 })
}

/// `path label split` of the candidates, in order.
fn images(found: &LayoutResult) -> Vec<String> {
    let candidates = found.as_ref().unwrap().0.iter().filter_map(|entry| entry.candidate.as_ref().ok());
    let split = |split: Option<Split>| split.map_or("-", |split| split.as_str());
    candidates.map(|image| format!("{}: {} {}", image.path, image.label, split(image.split))).collect()
}

fn rejected(found: &LayoutResult) -> Vec<&str> {
    let entries = found.as_ref().unwrap().0.iter().filter(|entry| entry.candidate.is_err());
    entries.map(|entry| entry.origin.file.as_str()).collect()
}

/// `source reason rows` of what is left out.
fn left_out(found: &LayoutResult) -> Vec<(&str, &str, u64)> {
    found.as_ref().unwrap().1.iter().map(|group| (group.source.as_str(), group.reason.as_str(), group.rows)).collect()
}

const COVIDX: [&str; 3] = ["normal", "pneumonia", "COVID-19"];

/// Version 5 of the COVID-19 Radiography Database: `<class>/images`, `<class>/masks`, and a workbook per class.
#[test]
fn masks_are_left_out_and_counted() {
    let folder = folder(&[
        ("COVID/images/COVID-1.png", b""),
        ("COVID/masks/COVID-1.png", b""),
        ("Lung_Opacity/images/Lung_Opacity-1.png", b""),
        ("Normal/images/Normal-1.png", b""),
        ("Normal/images/Normal-2.png", b""),
        ("Normal/masks/Normal-1.png", b""),
        ("Normal/masks/Normal-2.png", b""),
        ("Viral Pneumonia/images/Viral Pneumonia-1.png", b""),
        ("Viral Pneumonia/masks/Viral Pneumonia-1.png", b""),
        ("COVID.metadata.xlsx", b""),
        ("README.md.txt", b""),
        (".DS_Store", b""),
    ]);
    let mapping = [("COVID", Some("COVID-19")), ("Viral Pneumonia", Some("pneumonia")), ("Lung_Opacity", None::<&str>)];
    let found = found(folder.path(), &COVIDX, &mapping);
    assert_eq!(
        images(&found),
        [
            "COVID/images/COVID-1.png: COVID-19 -",
            "Normal/images/Normal-1.png: normal -",
            "Normal/images/Normal-2.png: normal -",
            "Viral Pneumonia/images/Viral Pneumonia-1.png: pneumonia -"
        ]
    );
    assert_eq!(rejected(&found), Vec::<&str>::new());
    assert_eq!(
        left_out(&found),
        [
            (".", "hidden file", 1),
            (".", "not an image", 2),
            ("COVID/masks", "segmentation mask", 1),
            ("Lung_Opacity/images", "the class mapping leaves \"Lung_Opacity\" out", 1),
            ("Normal/masks", "segmentation mask", 2),
            ("Viral Pneumonia/masks", "segmentation mask", 1),
        ]
    );
}

#[test]
fn class_names_may_contain_spaces() {
    let folder = folder(&[("Viral_Pneumonia/a.png", b""), ("NORMAL/b.png", b"")]);
    let found = found(folder.path(), &["Normal", "Viral Pneumonia"], &[]);
    assert_eq!(images(&found), ["NORMAL/b.png: Normal -", "Viral_Pneumonia/a.png: Viral Pneumonia -"]);
}

#[test]
fn every_spelling_of_mask_folders_is_recognised() {
    for name in ["masks", "Masks", "lung masks", "infection_masks", "ManualMask", "leftMask", "CHN_0001_mask.png"] {
        assert!(is_mask(name), "{name}");
    }
    for name in ["images", "unmasked", "Maskeny", "damask.png"] {
        assert!(!is_mask(name), "{name}");
    }
}

/// COVIDx CXR-4 as on Kaggle: `train.txt`, `val.txt` and `test.txt` next to `train`, `val` and `test`.
#[test]
fn covidx_cxr_4_has_a_validation_split() {
    let folder = folder(&[
        ("train.txt", b"1 a.jpg negative bimcv\n2 b.jpg positive rsna\n"),
        ("val.txt", b"3 c.png positive ricord\n"),
        ("test.txt", b"4 d.png negative cohen\n"),
        ("train/a.jpg", b""),
        ("train/b.jpg", b""),
        ("train/more/stray.jpg", b""),
        ("val/c.png", b""),
        ("test/d.png", b""),
        ("other/e.png", b""),
    ]);
    let binary = found(folder.path(), &["negative", "positive"], &[]);
    assert_eq!(
        images(&binary),
        [
            "train/a.jpg: negative train",
            "train/b.jpg: positive train",
            "val/c.png: positive validation",
            "test/d.png: negative test"
        ]
    );
    assert_eq!(rejected(&binary), ["train/more/stray.jpg"]);
    let unlabelled = "image without a label: neither in a label file nor in a class folder";
    assert_eq!(left_out(&binary), [("other", unlabelled, 1)]);

    let mapped = found(folder.path(), &COVIDX, &[("positive", Some("COVID-19")), ("negative", None)]);
    assert_eq!(images(&mapped), ["train/b.jpg: COVID-19 train", "val/c.png: COVID-19 validation"]);
    let reason = "the class mapping leaves \"negative\" out";
    assert_eq!(left_out(&mapped), [("train.txt", reason, 1), ("test.txt", reason, 1), ("other", unlabelled, 1)]);

    let error = found(folder.path(), &COVIDX, &[]).unwrap_err();
    assert!(error.contains("positive is COVID-19") && error.contains("class_mapping"), "{error}");
}

#[test]
fn each_spelling_of_the_validation_split_is_recognised() {
    for (file, images_in) in [
        ("validation_split.txt", "validation"),
        ("val_split.txt", "val"),
        ("val.txt", "validation"),
        ("validation.txt", "val"),
        ("valid.txt", "valid"),
        ("val_COVIDx9A.txt", "val"),
    ] {
        let image = format!("{images_in}/a.png");
        let folder = folder(&[(file, b"1 a.png normal rsna\n"), (&image, b"")]);
        assert_eq!(images(&found(folder.path(), &COVIDX, &[])), [format!("{image}: normal validation")], "{file}");
    }
}

#[test]
fn several_label_files_of_a_split_are_refused_unless_one_has_the_published_name() {
    let rows = b"1 a.png normal rsna\n".as_slice();
    let ambiguous = folder(&[("train_COVIDx9A.txt", rows), ("train_COVIDx9B.txt", rows)]);
    let error = found(ambiguous.path(), &COVIDX, &[]).unwrap_err();
    assert!(error.contains("train_COVIDx9A.txt, train_COVIDx9B.txt") && error.contains("train_split"), "{error}");
    let clear = folder(&[("train_COVIDx9A.txt", rows), ("train_split.txt", rows), ("train/a.png", b"")]);
    let found = found(clear.path(), &COVIDX, &[]);
    assert_eq!(images(&found), ["train/a.png: normal train"]);
    assert_eq!(left_out(&found), [(".", "not an image", 1)]);
}

/// A label file that was written on another system than the images (llmsresearch/paperbanana#234).
#[test]
fn names_in_another_unicode_form_are_found() {
    let (composed, decomposed) = ("m\u{fc}ller.png", "mu\u{308}ller.png");
    for (in_file, on_disk) in [(composed, decomposed), (decomposed, composed)] {
        let rows = format!("p1 {in_file} normal\n");
        let folder = folder(&[("train_split.txt", rows.as_bytes()), (&format!("train/{on_disk}"), b"")]);
        let found = found(folder.path(), &COVIDX, &[]);
        assert_eq!(images(&found), [format!("train/{on_disk}: normal train")]);
        assert!(rejected(&found).is_empty() && left_out(&found).is_empty(), "{found:?}");
    }
}

/// Links to a disk that is not mounted (KatherLab/MediSwarm#481).
#[test]
fn links_that_lead_nowhere_are_rejected_in_place_of_a_split_or_a_class_and_counted_elsewhere() {
    let folder = folder(&[("train/normal/1.png", b""), ("normal/2.png", b"")]);
    for link in ["test", "pneumonia", "train/COVID-19", "notes"] {
        std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join(link)).unwrap();
    }
    let found = found(folder.path(), &COVIDX, &[]);
    assert_eq!(images(&found), ["normal/2.png: normal -", "train/normal/1.png: normal train"]);
    assert_eq!(rejected(&found), ["pneumonia", "test", "train/COVID-19"]);
    assert_eq!(left_out(&found), [(".", "symbolic link whose target does not exist", 1)]);
}

#[test]
fn label_files_in_utf_16_are_decoded_or_named() {
    let utf16 = |mark: &str| -> Vec<u8> {
        format!("{mark}1 a.png normal rsna\r\n2 b.png COVID-19 cohen\r\n")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let images_of = |rows: &[u8]| {
        let folder = folder(&[("train_split.txt", rows), ("train/a.png", b""), ("train/b.png", b"")]);
        found(folder.path(), &COVIDX, &[])
    };
    assert_eq!(images(&images_of(&utf16("\u{feff}"))), ["train/a.png: normal train", "train/b.png: COVID-19 train"]);
    let error = images_of(&utf16("")).unwrap_err();
    assert!(error.starts_with("train_split.txt: ") && error.contains("UTF-16"), "{error}");
}

#[test]
fn known_collections_are_refused_by_name() {
    for (table, header, name) in [
        ("Data_Entry_2017.csv", "Image Index,Finding Labels,Follow-up #,Patient ID", "NIH ChestX-ray14"),
        ("Data_Entry_2017_v2020.csv", "Image Index,Finding Labels", "NIH ChestX-ray14"),
        ("train.csv", "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding", "CheXpert"),
        ("stage_2_train_labels.csv", "patientId,x,y,width,height,Target", "RSNA"),
        ("metadata.csv", "patientid,offset,sex,age,finding", "covid-chestxray-dataset"),
        ("mimic-cxr-2.0.0-chexpert.csv.gz", "", "MIMIC-CXR"),
        ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", ",ImageID", "PadChest"),
    ] {
        let folder = folder(&[(table, header.as_bytes()), ("images/a.png", b""), ("train/patient1/a.jpg", b"")]);
        let error = found(folder.path(), &COVIDX, &[]).unwrap_err();
        assert!(error.starts_with(&format!("{table} is a table of {name}")), "{error}");
        // A label file in the same folder is the answer to the instruction.
        fs::write(folder.path().join("train_split.txt"), "1 patient1/a.jpg normal x\n").unwrap();
        assert_eq!(images(&found(folder.path(), &COVIDX, &[])), ["train/patient1/a.jpg: normal train"]);
    }
}

#[test]
fn folders_that_are_no_class_are_rejected_and_their_files_counted() {
    let folder = folder(&[("normal/a.png", b""), ("effusion/b.png", b""), ("effusion/x/c.png", b""), ("d.png", b"")]);
    let found = found(folder.path(), &COVIDX, &[]);
    assert_eq!((images(&found).len(), rejected(&found)), (1, vec!["effusion"]));
    assert_eq!(
        left_out(&found),
        [
            (".", "image without a label: neither in a label file nor in a class folder", 1),
            ("effusion", "the folder is not imported", 1),
            ("effusion/x", "the folder is not imported", 1)
        ]
    );
}
