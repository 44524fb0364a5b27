//! COVID-19 Radiography Database: one image folder and one Excel file with metadata per class.

use std::{collections::HashSet, path::Path};

use crate::{
    dataset::import::{entry::EntryOrigin, layout::names},
    store::Attributes,
};

use super::{
    Source, clinical,
    collection::{Collection, SelectedImage},
    image_index::{ImageIndex, by_letters},
    table::{Row, Table},
};

const SOURCE: Source = Source::Radiography;

/// Reads the folders of the rules. If the folder of cohen is given, images whose URL occurs there are skipped.
pub(super) fn read(folder: &Path, cohen: Option<&Path>, into: &mut Collection<'_>) -> Result<(), String> {
    let rules = &into.rules.radiography;
    let urls = match cohen {
        Some(cohen) if rules.exclude_urls_of_cohen => clinical::urls(cohen, &into.rules.cohen)?,
        _ => HashSet::new(),
    };
    let names = names(folder)?;
    for (name, class) in &rules.folders {
        let metadata = format!("{name}.metadata.xlsx");
        let metadata = find_similar(&names, &metadata).ok_or_else(|| format!("{metadata} is missing"))?;
        let image_folder = find_similar(&names, name).ok_or_else(|| format!("folder {name} is missing"))?;
        // From version 4 on, the images are in a subfolder next to the masks.
        let images = ImageIndex::list(folder, &[image_folder.clone(), format!("{image_folder}/images")], by_letters)?;
        let table = Table::xlsx(folder, metadata, &["file name", "format", "url"])?;
        for row in table.rows() {
            let name = row.text("file name");
            if rules.exclude_names.iter().any(|excluded| excluded == name) {
                into.skip(SOURCE, "excluded by its name".into());
            } else if urls.contains(row.text("url")) {
                into.skip(SOURCE, "an image of cohen has the same URL".into());
            } else {
                let image = selected(metadata, row, class, &images);
                into.select(image);
            }
        }
    }
    Ok(())
}

/// The name that equals `expected`, else the one that differs only by case, spaces and punctuation (`Viral_Pneumonia`).
fn find_similar<'a>(names: &'a [String], expected: &str) -> Option<&'a String> {
    names
        .iter()
        .find(|name| *name == expected)
        .or_else(|| names.iter().find(|name| by_letters(name) == by_letters(expected)))
}

/// The image of a row.
fn selected(metadata: &str, row: Row<'_>, class: &str, images: &ImageIndex) -> SelectedImage {
    let name = row.text("file name");
    let expected = format!("{name}.{}", row.text("format").to_lowercase());
    let path = images.find(&expected);
    let file = path.as_ref().ok().and_then(|path| path.rsplit('/').next()).unwrap_or(&expected);
    SelectedImage {
        source: SOURCE,
        origin: EntryOrigin { file: format!("{}/{metadata}", SOURCE.as_str()), line: Some(row.line) },
        // The database has no patient ids; each image counts as one patient.
        patient_id: Some(name.to_owned()).filter(|patient| !patient.is_empty()),
        class: class.to_owned(),
        // Without spaces, which label files cannot represent.
        file_name: file.replace(' ', ""),
        content: path.map(|path| images.content(path)),
        attributes: Attributes::default(),
    }
}
