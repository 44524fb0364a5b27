//! DICOM files as dicom-rs writes them.

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::uids;
use dicom_object::{InMemDicomObject, mem::InMemElement, meta::FileMetaTableBuilder};

pub fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

pub fn number(tag: Tag, value: u16) -> InMemElement {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

/// In explicit little endian, with preamble and meta information.
pub fn file(object: InMemDicomObject) -> Vec<u8> {
    let mut bytes = Vec::new();
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}
