//! The RSNA pneumonia detection challenge, stage 2: DICOM files named by patient, and two tables with a row a box.

use std::path::Path;

use crate::{dataset::import::layout::Origin, store::Attributes};

use super::{
    Source,
    collection::{Chosen, Collection},
    pictures::{Pictures, by_stem},
    sheet::{Row, Sheet},
};

const DETAILED: &str = "stage_2_detailed_class_info.csv";
const LABELS: &str = "stage_2_train_labels.csv";

/// Its folder of images.
pub(super) const IMAGES: &str = "stage_2_train_images";

/// Reads those of a class that the rules name, and those with an opacity.
pub(super) fn read(folder: &Path, into: &mut Collection<'_>) -> Result<(), String> {
    let pictures = Pictures::list(folder, &[IMAGES.to_owned()], by_stem)?;
    let rules = &into.rules.rsna;
    for row in Sheet::csv(folder, DETAILED, &["patientid", "class"])?.rows() {
        match rules.classes.get(row.text("class")) {
            Some(class) => into.choose(chosen(DETAILED, row, class, &pictures)),
            None => into.pass_over(Source::Rsna, format!("class {:?} in {DETAILED}", row.text("class"))),
        }
    }
    for row in Sheet::csv(folder, LABELS, &["patientid", "target"])?.rows() {
        if row.text("target") == "1" && !rules.target_1.is_empty() {
            into.choose(chosen(LABELS, row, &rules.target_1, &pictures));
        } else {
            into.pass_over(Source::Rsna, format!("Target {} in {LABELS}", row.text("target")));
        }
    }
    Ok(())
}

fn chosen(table: &str, row: Row<'_>, class: &str, pictures: &Pictures) -> Chosen {
    let patient = row.text("patientid");
    Chosen {
        source: Source::Rsna,
        origin: Origin { file: format!("{}/{table}", Source::Rsna.as_str()), line: Some(row.line) },
        patient_id: Some(patient.to_owned()).filter(|patient| !patient.is_empty()),
        class: class.to_owned(),
        file_name: format!("{patient}.png"),
        content: pictures.find(&format!("{patient}.dcm")).map(|path| pictures.content(path)),
        attributes: Attributes::default(),
    }
}
