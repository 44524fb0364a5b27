//! Checks that a DICOM object is a radiograph, and quality flags from its header.

use dicom_dictionary_std::{tags, uids};

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

/// Words that occur in Body Part Examined of chest radiographs.
const CHEST_TERMS: &[&str] = &["CHEST", "THORAX", "LUNG", "RIB", "HEART", "TORSO"];

/// Rejects objects of other modalities and SOP classes, such as CT slices.
pub(super) fn check_radiograph(header: &Header) -> Result<(), ImageError> {
    if let Some(modality) = header.code(tags::MODALITY)
        && !matches!(modality.as_str(), "CR" | "DX" | "RG" | "OT")
    {
        return Err(undecodable(format!("the modality must be CR, DX, RG or OT (got {modality:?})")));
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
    let part = header.code(tags::BODY_PART_EXAMINED);
    let burned_in = header.code(tags::BURNED_IN_ANNOTATION).is_some_and(|value| value == "YES");
    let lateral = header.text(tags::VIEW_POSITION).is_some_and(|view| is_lateral(&view));
    [
        (burned_in, QualityFlag::BurnedInAnnotation),
        (lateral, QualityFlag::LateralView),
        (modality.is_none_or(|modality| modality == "OT"), QualityFlag::ModalityUnclear),
        (part.is_some_and(|part| !CHEST_TERMS.iter().any(|word| part.contains(word))), QualityFlag::OtherBodyPart),
    ]
    .into_iter()
    .filter_map(|(holds, flag)| holds.then_some(flag))
    .collect()
}
