//! Whether a header is that of a chest radiograph.

use dicom_dictionary_std::{tags, uids};

use super::{
    header::{Header, Reference},
    undecodable,
};
use crate::{
    domain::{QualityFlag, is_lateral},
    imaging::ImageError,
};

/// Radiographs, and secondary captures, which may be of one.
const SOP_CLASSES: &[&str] = &[
    uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION,
    uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PROCESSING,
    uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
];

/// Words in Body Part Examined that a chest radiograph may have.
const CHEST: &[&str] = &["CHEST", "THORAX", "LUNG", "RIB", "HEART", "TORSO"];

/// Another modality than radiography is refused, and so is an object of another kind, such as a CT slice.
pub(super) fn refuse_others(header: &Header) -> Result<(), ImageError> {
    if let Some(modality) = header.code(tags::MODALITY)
        && !matches!(modality.as_str(), "CR" | "DX" | "RG" | "OT")
    {
        return Err(undecodable(format!("the modality is {modality:?}: radiographs are CR, DX or RG")));
    }
    match header.text(tags::SOP_CLASS_UID) {
        Some(class) if !SOP_CLASSES.contains(&class.as_str()) => {
            Err(undecodable(format!("the DICOM object is of the class {class}, which is no radiograph")))
        }
        _ => Ok(()),
    }
}

impl Reference {
    /// Whether objects of its class may be radiographs.
    pub fn is_radiograph(&self) -> bool {
        SOP_CLASSES.contains(&self.class.as_str())
    }
}

/// What in the header deserves a look.
pub(super) fn flags(header: &Header) -> Vec<QualityFlag> {
    let modality = header.code(tags::MODALITY);
    let part = header.code(tags::BODY_PART_EXAMINED);
    let burned_in = header.code(tags::BURNED_IN_ANNOTATION).is_some_and(|answer| answer == "YES");
    let lateral = header.text(tags::VIEW_POSITION).is_some_and(|view| is_lateral(&view));
    [
        (burned_in, QualityFlag::BurnedInAnnotation),
        (lateral, QualityFlag::LateralView),
        (modality.is_none_or(|modality| modality == "OT"), QualityFlag::ModalityUnclear),
        (part.is_some_and(|part| !CHEST.iter().any(|word| part.contains(word))), QualityFlag::OtherBodyPart),
    ]
    .into_iter()
    .filter_map(|(holds, flag)| holds.then_some(flag))
    .collect()
}
