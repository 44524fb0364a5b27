//! The COVID-19 Radiography Database: a folder of images a class, and beside it an Excel file with their origin.

use std::{collections::HashSet, path::Path};

use crate::{
    dataset::import::layout::{Origin, names},
    store::Attributes,
};

use super::{
    Source, clinical,
    collection::{Chosen, Collection},
    pictures::{Pictures, by_letters},
    sheet::{Row, Sheet},
};

const SOURCE: Source = Source::Radiography;

/// Reads the folders that the rules name. With the folder of cohen, images whose address is in there are passed over.
pub(super) fn read(folder: &Path, cohen: Option<&Path>, into: &mut Collection<'_>) -> Result<(), String> {
    let rules = &into.rules.radiography;
    let urls = match cohen {
        Some(cohen) if rules.exclude_urls_of_cohen => clinical::urls(cohen, &into.rules.cohen)?,
        _ => HashSet::new(),
    };
    let there = names(folder)?;
    for (called, class) in &rules.folders {
        let metadata = format!("{called}.metadata.xlsx");
        let metadata = alike(&there, &metadata).ok_or_else(|| format!("has no {metadata}"))?;
        let images = alike(&there, called).ok_or_else(|| format!("has no folder {called}"))?;
        // From version 4 on the images are one folder further down, beside masks.
        let pictures = Pictures::list(folder, &[images.clone(), format!("{images}/images")], by_letters)?;
        let sheet = Sheet::xlsx(folder, metadata, &["file name", "format", "url"])?;
        for row in sheet.rows() {
            let name = row.text("file name");
            if rules.exclude_names.iter().any(|excluded| excluded == name) {
                into.pass_over(SOURCE, "excluded by its name".into());
            } else if urls.contains(row.text("url")) {
                into.pass_over(SOURCE, "an image of cohen has the same url".into());
            } else {
                let chosen = chosen(metadata, row, class, &pictures);
                into.choose(chosen);
            }
        }
    }
    Ok(())
}

/// The name among those there that differs only by case, spaces and signs: `Viral_Pneumonia` and `Viral Pneumonia`.
fn alike<'a>(there: &'a [String], wanted: &str) -> Option<&'a String> {
    there
        .iter()
        .find(|name| *name == wanted)
        .or_else(|| there.iter().find(|name| by_letters(name) == by_letters(wanted)))
}

fn chosen(metadata: &str, row: Row<'_>, class: &str, pictures: &Pictures) -> Chosen {
    let name = row.text("file name");
    let asked = format!("{name}.{}", row.text("format").to_lowercase());
    let found = pictures.find(&asked);
    let file = found.as_ref().ok().and_then(|path| path.rsplit('/').next()).unwrap_or(&asked);
    Chosen {
        source: SOURCE,
        origin: Origin { file: format!("{}/{metadata}", SOURCE.as_str()), line: Some(row.line) },
        // One image a patient, as far as the database tells.
        patient_id: Some(name.to_owned()).filter(|patient| !patient.is_empty()),
        class: class.to_owned(),
        // A label file could not hold the spaces.
        file_name: file.replace(' ', ""),
        content: found.map(|path| pictures.content(path)),
        attributes: Attributes::default(),
    }
}
