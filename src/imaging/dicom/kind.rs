//! Checks that a DICOM object is a radiograph, and quality flags from its header.

use std::sync::LazyLock;

use dicom_dictionary_std::{tags, uids};
use serde::Deserialize;
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{
    header::{Header, SopInstance},
    undecodable,
};
use crate::{
    domain::{QualityFlag, is_lateral},
    imaging::ImageError,
};

/// SOP classes of radiographs, and of secondary captures, which may contain one.
const SOP_CLASSES: &[&str] = &[
    uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
];

/// Codes and words of headers, by `synonyms.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Synonyms {
    /// Modalities that are accepted.
    modalities: Vec<String>,
    /// Words that occur in Body Part Examined of chest radiographs.
    chest: Vec<String>,
}

static SYNONYMS: LazyLock<Synonyms> = LazyLock::new(|| {
    let mut synonyms: Synonyms = toml::from_str(include_str!("synonyms.toml")).expect("a test parses the table");
    synonyms.chest.iter_mut().for_each(|term| *term = folded(term));
    synonyms
});

/// The text in upper case and without accents.
fn folded(text: &str) -> String {
    text.nfkd().filter(|letter| !is_combining_mark(*letter)).collect::<String>().to_uppercase()
}

/// Rejects objects of other modalities and SOP classes, such as CT slices.
pub(super) fn check_radiograph(header: &Header) -> Result<(), ImageError> {
    if let Some(modality) = header.code(tags::MODALITY)
        && !SYNONYMS.modalities.contains(&modality)
    {
        let accepted = SYNONYMS.modalities.join(", ");
        return Err(undecodable(format!("the modality must be one of {accepted} (got {modality:?})")));
    }
    match header.text(tags::SOP_CLASS_UID) {
        Some(class) if !SOP_CLASSES.contains(&class.as_str()) => {
            Err(undecodable(format!("the SOP class {class} is not a radiograph")))
        }
        _ => Ok(()),
    }
}

impl SopInstance {
    /// True if objects of this SOP class may be radiographs.
    pub fn is_radiograph(&self) -> bool {
        SOP_CLASSES.contains(&self.class.as_str())
    }
}

/// The quality flags of the header.
pub(super) fn flags(header: &Header) -> Vec<QualityFlag> {
    let modality = header.code(tags::MODALITY);
    let part = header.text(tags::BODY_PART_EXAMINED).map(|part| folded(&part));
    let burned_in = header.code(tags::BURNED_IN_ANNOTATION).is_some_and(|value| value == "YES");
    let lateral = header.text(tags::VIEW_POSITION).is_some_and(|view| is_lateral(&view));
    [
        (burned_in, QualityFlag::BurnedInAnnotation),
        (lateral, QualityFlag::LateralView),
        (modality.is_none_or(|modality| modality == "OT"), QualityFlag::ModalityUnclear),
        (part.is_some_and(|part| !SYNONYMS.chest.iter().any(|term| part.contains(term))), QualityFlag::OtherBodyPart),
    ]
    .into_iter()
    .filter_map(|(holds, flag)| holds.then_some(flag))
    .collect()
}
