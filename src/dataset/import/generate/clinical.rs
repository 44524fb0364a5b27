//! Sources with a `metadata.csv`, a row an image, and a folder `images`: covid-chestxray-dataset, Figure 1 and Actualmed.

use std::{collections::HashSet, path::Path};

use crate::{
    dataset::import::{
        Refused,
        layout::Origin,
        sources::{age, sex},
    },
    store::Attributes,
};

use super::{
    ClinicalRules, Source,
    collection::{Chosen, Collection},
    pictures::{Pictures, by_stem},
    sheet::{Row, Sheet},
};

const METADATA: &str = "metadata.csv";

/// Its folder of images.
pub(super) const IMAGES: &str = "images";

/// Reads covid-chestxray-dataset, Figure 1 or Actualmed.
pub(super) fn read(source: Source, folder: &Path, into: &mut Collection<'_>) -> Result<(), String> {
    let sheet = Sheet::csv(folder, METADATA, columns(source))?;
    let pictures = Pictures::list(folder, &[IMAGES.to_owned()], by_stem)?;
    for row in sheet.rows() {
        match class(source, row, into) {
            Ok(class) => {
                let chosen = chosen(source, row, class, &pictures);
                into.choose(chosen);
            }
            Err(reason) => into.pass_over(source, reason),
        }
    }
    Ok(())
}

/// The addresses of the images of covid-chestxray-dataset that have one of the views.
pub(super) fn urls(folder: &Path, rules: &ClinicalRules) -> Result<HashSet<String>, String> {
    let sheet = Sheet::csv(folder, METADATA, &["url", "view"])?;
    let kept = sheet.rows().filter(|row| has_view(*row, rules));
    Ok(kept.map(|row| row.text("url").to_owned()).filter(|url| !url.is_empty()).collect())
}

fn columns(source: Source) -> &'static [&'static str] {
    match source {
        Source::Cohen => &["patientid", "finding", "view", "filename", "url"],
        Source::Actmed => &["patientid", "finding", "view", "imagename"],
        _ => &["patientid", "finding", "view"],
    }
}

/// The class of a row, or why it is passed over.
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

/// The last step of cohen's hierarchy (`Pneumonia/Viral/SARS`), the first of the others' lists (`COVID-19, ARDS`).
fn finding(source: Source, finding: &str) -> &str {
    let of = match source {
        Source::Cohen => finding.rsplit('/').next(),
        _ => finding.split(',').next(),
    };
    of.unwrap_or_default()
}

fn chosen(source: Source, row: Row<'_>, class: String, pictures: &Pictures) -> Chosen {
    let patient = row.text("patientid");
    let (file_name, found) = match source {
        Source::Cohen => named(row.text("filename"), pictures),
        Source::Actmed => named(row.text("imagename"), pictures),
        // Figure 1 calls its images by the patient, and does not say of which type they are.
        _ => of_patient(patient, pictures),
    };
    Chosen {
        source,
        origin: Origin { file: format!("{}/{METADATA}", source.as_str()), line: Some(row.line) },
        patient_id: Some(patient.to_owned()).filter(|patient| !patient.is_empty()),
        class,
        file_name,
        content: found.map(|path| pictures.content(path)),
        attributes: attributes(row),
    }
}

fn named<'a>(name: &str, pictures: &'a Pictures) -> (String, Result<&'a str, Refused>) {
    (name.to_owned(), pictures.find(name))
}

fn of_patient<'a>(patient: &str, pictures: &'a Pictures) -> (String, Result<&'a str, Refused>) {
    let names = [format!("{patient}.jpg"), format!("{patient}.png")];
    let found = pictures.find_exactly(&names[0]).or_else(|| pictures.find_exactly(&names[1]));
    let found = found.map_or_else(|| pictures.find(&names[0]), Ok);
    let name = found.as_ref().ok().and_then(|path| path.rsplit('/').next()).unwrap_or(&names[0]);
    (name.to_owned(), found)
}

fn attributes(row: Row<'_>) -> Attributes {
    let some = |text: &str| {
        Some(text.chars().filter(|c| !c.is_control()).take(255).collect()).filter(|text: &String| !text.is_empty())
    };
    let host = row.text("url").split_once("://").and_then(|(_, rest)| rest.split('/').next());
    Attributes {
        collection: host.and_then(some),
        view: some(row.text("view")),
        age_years: age(row.text("age").trim_end_matches('+')),
        sex: sex(row.text("sex")),
        licence: some(row.text("license")),
        ..Attributes::default()
    }
}
