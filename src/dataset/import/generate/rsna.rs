//! RSNA pneumonia detection challenge, stage 2: DICOM files named by patient, and two tables with one row per bounding box.

use std::path::Path;

use crate::{dataset::import::entry::EntryOrigin, store::Attributes};

use super::{
    Source,
    collection::{Collection, SelectedImage},
    image_index::{ImageIndex, by_stem},
    table::{Row, Table},
};

/// Table with the class of each image.
const DETAILED: &str = "stage_2_detailed_class_info.csv";
/// Table with the bounding boxes of opacities.
const LABELS: &str = "stage_2_train_labels.csv";

/// Image folder.
pub(super) const IMAGES: &str = "stage_2_train_images";

/// Reads the images of the classes in the rules, and those with an opacity.
pub(super) fn read(folder: &Path, into: &mut Collection<'_>) -> Result<(), String> {
    let images = ImageIndex::list(folder, &[IMAGES.to_owned()], by_stem)?;
    let rules = &into.rules.rsna;
    for row in Table::csv(folder, DETAILED, &["patientid", "class"])?.rows() {
        match rules.classes.get(row.text("class")) {
            Some(class) => into.select(selected(DETAILED, row, class, &images)),
            None => into.skip(Source::Rsna, format!("class {:?} in {DETAILED}", row.text("class"))),
        }
    }
    for row in Table::csv(folder, LABELS, &["patientid", "target"])?.rows() {
        if row.text("target") == "1" && !rules.target_1.is_empty() {
            into.select(selected(LABELS, row, &rules.target_1, &images));
        } else {
            into.skip(Source::Rsna, format!("Target {} in {LABELS}", row.text("target")));
        }
    }
    Ok(())
}

/// The image of a row.
fn selected(table: &str, row: Row<'_>, class: &str, images: &ImageIndex) -> SelectedImage {
    let patient = row.text("patientid");
    SelectedImage {
        source: Source::Rsna,
        origin: EntryOrigin { file: format!("{}/{table}", Source::Rsna.as_str()), line: Some(row.line) },
        patient_id: Some(patient.to_owned()).filter(|patient| !patient.is_empty()),
        class: class.to_owned(),
        file_name: format!("{patient}.png"),
        content: images.find(&format!("{patient}.dcm")).map(|path| images.content(path)),
        attributes: Attributes::default(),
    }
}
