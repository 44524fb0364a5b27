//! Public collections whose tables are not labels of one class per image. They are refused by name, with what to do instead.

use std::{fs::File, io::Read, path::Path};

use super::names;

/// Public collection.
struct Collection {
    name: &'static str,
    /// True for a name of a table at the top of its folder, in lower case, with the table's header line, in lower case.
    is_table: fn(&str, &str) -> bool,
    instruction: &'static str,
}

const COLLECTIONS: [Collection; 6] = [
    Collection {
        name: "NIH ChestX-ray14",
        is_table: |name, header| name.starts_with("data_entry_2017") || header.contains("finding labels"),
        instruction: "an image has several findings, so which of them is its class is your decision: write train_split.txt and \
                      test_split.txt with a line `patient-id filename class source` for each image to import, from the columns \
                      Patient ID, Image Index and Finding Labels, and put the images into train/ and test/",
    },
    Collection {
        name: "CheXpert",
        is_table: |_, header| header.starts_with("path,sex,age,frontal/lateral"),
        instruction: "an image has 14 findings, each 1 (positive), 0 (negative), -1 (uncertain) or empty (not mentioned), so which of \
                      them is its class, and what an uncertain one means, is your decision: write train_split.txt and \
                      validation_split.txt with a line `patient-id filename class source` for each image to import, with the part \
                      of Path that starts with `patient` as patient id, and put the images into train/ and validation/",
    },
    Collection {
        name: "RSNA pneumonia challenge",
        is_table: |name, _| name.starts_with("stage_2_train_labels") || name.starts_with("stage_2_detailed_class_info"),
        instruction: "import it with `thorax dataset generate DATASET --rsna FOLDER` (POST /v1/datasets/{id}/generate), whose rules \
                      in TOML say which of its classes is which class of the data set",
    },
    Collection {
        name: "covid-chestxray-dataset, Figure 1 or Actualmed",
        is_table: |name, header| name == "metadata.csv" && header.contains("patientid") && header.contains("finding"),
        instruction: "import it with `thorax dataset generate DATASET --cohen FOLDER` (or --fig1, --actmed; POST \
                      /v1/datasets/{id}/generate), whose rules in TOML say which of its findings is which class of the data set",
    },
    Collection {
        name: "MIMIC-CXR",
        is_table: |name, _| name.starts_with("mimic-cxr-2"),
        instruction: "an image has 14 findings: write train_split.txt, validation_split.txt and test_split.txt with a line \
                      `patient-id filename class source` for each image to import, from the columns subject_id and dicom_id, and \
                      put the images into train/, validation/ and test/",
    },
    Collection {
        name: "PadChest",
        is_table: |name, _| name.starts_with("padchest_chest_x_ray_images_labels"),
        instruction: "an image has several findings: write train_split.txt with a line `patient-id filename class source` for each \
                      image to import, from the columns PatientID, ImageID and Labels, and put the images into train/",
    },
];

/// Number of bytes that are read for the header line.
const HEADER_BYTES: u64 = 4096;

/// Refuses the folder of a known collection.
///
/// # Errors
/// The name of the collection, and what to do.
pub(super) fn check(root: &Path) -> Result<(), String> {
    for name in names(root)? {
        let lower = name.to_lowercase();
        if !root.join(&name).is_file() || ![".csv", ".csv.gz"].iter().any(|extension| lower.ends_with(extension)) {
            continue;
        }
        let header = header(&root.join(&name));
        if let Some(found) = COLLECTIONS.iter().find(|collection| (collection.is_table)(&lower, &header)) {
            return Err(format!("{name} is a table of {}: {}", found.name, found.instruction));
        }
    }
    Ok(())
}

/// The first line of a file in lower case, as far as it is text.
fn header(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEADER_BYTES).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes).to_lowercase();
    text.trim_start_matches('\u{feff}').lines().next().unwrap_or_default().replace('"', "")
}
