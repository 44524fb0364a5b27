//! Sources with `metadata.csv` (one row per image) and a folder `images`: covid-chestxray-dataset, Figure 1 and Actualmed.

use std::{collections::HashSet, path::Path};

use crate::{
    dataset::import::{
        Rejection,
        entry::EntryOrigin,
        sources::{age, sex},
    },
    domain::MAX_TEXT_LENGTH,
    store::Attributes,
};

use super::{
    ClinicalRules, Source,
    collection::{Collection, SelectedImage},
    image_index::{ImageIndex, by_stem},
    table::{Row, Table},
};

/// Metadata file.
const METADATA: &str = "metadata.csv";

/// Image folder.
pub(super) const IMAGES: &str = "images";

/// Reads covid-chestxray-dataset, Figure 1 or Actualmed.
pub(super) fn read(source: Source, folder: &Path, into: &mut Collection<'_>) -> Result<(), String> {
    let table = Table::csv(folder, METADATA, columns(source))?;
    let images = ImageIndex::list(folder, &[IMAGES.to_owned()], by_stem)?;
    for row in table.rows() {
        match class(source, row, into) {
            Ok(class) => {
                let image = selected(source, row, class, &images);
                into.select(image);
            }
            Err(reason) => into.skip(source, reason),
        }
    }
    Ok(())
}

/// The URLs of the images of covid-chestxray-dataset with one of the accepted views.
pub(super) fn urls(folder: &Path, rules: &ClinicalRules) -> Result<HashSet<String>, String> {
    let table = Table::csv(folder, METADATA, &["url", "view"])?;
    let accepted = table.rows().filter(|row| has_view(*row, rules));
    Ok(accepted.map(|row| row.text("url").to_owned()).filter(|url| !url.is_empty()).collect())
}

/// The required columns of a source.
fn columns(source: Source) -> &'static [&'static str] {
    match source {
        Source::Cohen => &["patientid", "finding", "view", "filename", "url"],
        Source::Actmed => &["patientid", "finding", "view", "imagename"],
        _ => &["patientid", "finding", "view"],
    }
}

/// The class of a row, or the reason for skipping it.
fn class(source: Source, row: Row<'_>, into: &Collection<'_>) -> Result<String, String> {
    let rules = match source {
        Source::Cohen => &into.rules.cohen,
        Source::Fig1 => &into.rules.fig1,
        _ => &into.rules.actmed,
    };
    if !has_view(row, rules) {
        return Err(format!("view {:?}", row.text("view")));
    }
    if let Some(excluded) = rules.exclude_urls.iter().find(|part| row.text("url").contains(part.as_str())) {
        return Err(format!("url with {excluded}"));
    }
    let finding = finding(source, row.text("finding"));
    into.rules.classes.get(finding).cloned().ok_or_else(|| format!("finding {finding:?}"))
}

fn has_view(row: Row<'_>, rules: &ClinicalRules) -> bool {
    rules.views.is_empty() || rules.views.iter().any(|view| view == row.text("view"))
}

/// The finding of a row: the last level of a hierarchy in cohen (`Pneumonia/Viral/SARS`), the first item of a list in others
/// (`COVID-19, ARDS`).
fn finding(source: Source, finding: &str) -> &str {
    let finding = match source {
        Source::Cohen => finding.rsplit('/').next(),
        _ => finding.split(',').next(),
    };
    finding.unwrap_or_default()
}

/// The image of a row.
fn selected(source: Source, row: Row<'_>, class: String, images: &ImageIndex) -> SelectedImage {
    let patient = row.text("patientid");
    let (file_name, path) = match source {
        Source::Cohen => by_name(row.text("filename"), images),
        Source::Actmed => by_name(row.text("imagename"), images),
        // Figure 1 names its images after the patient, without a file name column.
        _ => by_patient(patient, images),
    };
    SelectedImage {
        source,
        origin: EntryOrigin { file: format!("{}/{METADATA}", source.as_str()), line: Some(row.line) },
        patient_id: Some(patient.to_owned()).filter(|patient| !patient.is_empty()),
        class,
        file_name,
        content: path.map(|path| images.content(path)),
        attributes: attributes(row),
    }
}

/// The image called `name`.
fn by_name<'a>(name: &str, images: &'a ImageIndex) -> (String, Result<&'a str, Rejection>) {
    (name.to_owned(), images.find(name))
}

/// The image named after a patient.
fn by_patient<'a>(patient: &str, images: &'a ImageIndex) -> (String, Result<&'a str, Rejection>) {
    let names = [format!("{patient}.jpg"), format!("{patient}.png")];
    let path = images.find_exactly(&names[0]).or_else(|| images.find_exactly(&names[1]));
    let path = path.map_or_else(|| images.find(&names[0]), Ok);
    let name = path.as_ref().ok().and_then(|path| path.rsplit('/').next()).unwrap_or(&names[0]);
    (name.to_owned(), path)
}

/// The attributes of a row.
fn attributes(row: Row<'_>) -> Attributes {
    let non_empty = |text: &str| {
        Some(text.chars().filter(|c| !c.is_control()).take(MAX_TEXT_LENGTH).collect())
            .filter(|text: &String| !text.is_empty())
    };
    let host = row.text("url").split_once("://").and_then(|(_, rest)| rest.split('/').next());
    Attributes {
        collection: host.and_then(non_empty),
        view: non_empty(row.text("view")),
        age_years: age(row.text("age").trim_end_matches('+')),
        sex: sex(row.text("sex")),
        licence: non_empty(row.text("license")),
        ..Attributes::default()
    }
}
