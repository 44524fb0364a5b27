//! Reading of DICOM files written by dicom-rs, in each native transfer syntax and grey-scale transformation, and of malicious files.

mod charls;
mod encapsulated;
mod real;

use std::io::Write;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, value::DataSetSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{InMemDicomObject, mem::InMemElement, meta::FileMetaTableBuilder};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};
use flate2::{Compression, write::DeflateEncoder};

use super::{syntax::BIG_ENDIAN, *};
use crate::domain::GreyRange;
use crate::imaging::{ExaminedImage, Format, decode, examine};

const LIMITS: Limits = Limits { max_pixels: 1_000_000 };
const WIDTH: u16 = 48;
const HEIGHT: u16 = 40;
const PIXELS: usize = 48 * 40;

fn words(tag: Tag, value: u16) -> InMemElement {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, value)
}

/// A radiograph with `samples` samples per pixel, `allocated` bits allocated and `stored` bits stored.
fn object(photometric: &str, samples: u16, allocated: u16, stored: u16, pixels: InMemElement) -> InMemDicomObject {
    InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.826.0.1.3680043.8.498.1"),
        text(tags::MODALITY, VR::CS, "CR"),
        text(tags::PATIENT_ID, VR::LO, "MRN-4711"),
        words(tags::SAMPLES_PER_PIXEL, samples),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric),
        words(tags::ROWS, HEIGHT),
        words(tags::COLUMNS, WIDTH),
        words(tags::BITS_ALLOCATED, allocated),
        words(tags::BITS_STORED, stored),
        words(tags::HIGH_BIT, stored - 1),
        words(tags::PIXEL_REPRESENTATION, 0),
        pixels,
    ])
}

fn sixteen(values: &[u16]) -> InMemElement {
    DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.into()))
}

fn eight(values: &[u8]) -> InMemElement {
    DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(values.into()))
}

/// A file with preamble and a minimal meta group, which has only the transfer syntax.
fn file(uid: &str, object: &InMemDicomObject) -> Vec<u8> {
    let elements = match uid {
        uids::IMPLICIT_VR_LITTLE_ENDIAN | BIG_ENDIAN => uid,
        _ => uids::EXPLICIT_VR_LITTLE_ENDIAN,
    };
    let mut data_set = Vec::new();
    object.write_dataset_with_ts(&mut data_set, TransferSyntaxRegistry.get(elements).unwrap()).unwrap();
    if uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        let mut deflater = DeflateEncoder::new(Vec::new(), Compression::fast());
        deflater.write_all(&data_set).unwrap();
        data_set = deflater.finish().unwrap();
    }
    [&[0; 128][..], b"DICM", &meta_of(uid), &data_set].concat()
}

fn meta_of(uid: &str) -> Vec<u8> {
    let padded = format!("{uid}{}", if uid.len() % 2 == 1 { "\0" } else { "" });
    [&[2, 0, 0x10, 0, b'U', b'I'][..], &(padded.len() as u16).to_le_bytes(), padded.as_bytes()].concat()
}

/// 12-bit values over the full range.
fn ramp() -> Vec<u16> {
    (0..PIXELS).map(|at| (at * 37 % 4096) as u16).collect()
}

fn twelve_bits() -> InMemDicomObject {
    let mut object = object("MONOCHROME2", 1, 16, 12, sixteen(&ramp()));
    window(&mut object, "2048", "4096");
    object
}

fn window(object: &mut InMemDicomObject, centre: &str, width: &str) {
    object.put(text(tags::WINDOW_CENTER, VR::DS, centre));
    object.put(text(tags::WINDOW_WIDTH, VR::DS, width));
}

fn share(value: f64) -> u16 {
    (value.clamp(0.0, 1.0) * 65_535.0).round() as u16
}

/// The plane of a file in explicit VR little endian.
fn plane(object: &InMemDicomObject) -> Vec<u16> {
    read(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, object), &LIMITS).unwrap().plane
}

fn error_of(bytes: &[u8]) -> String {
    match read(bytes, &LIMITS) {
        Err(ImageError::Undecodable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn error_of_object(object: &InMemDicomObject) -> String {
    error_of(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, object))
}

fn flags_of(object: &InMemDicomObject) -> Vec<QualityFlag> {
    read(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, object), &LIMITS).unwrap().flags
}

#[test]
fn all_native_transfer_syntaxes_give_the_same_pixels() {
    let expected: Vec<u16> = ramp().into_iter().map(|value| share(f64::from(value) / 4095.0)).collect();
    let syntaxes = [
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        BIG_ENDIAN,
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ];
    for uid in syntaxes {
        let bytes = file(uid, &twelve_bits());
        assert!(is_dicom(&bytes));
        assert_eq!(read(&bytes, &LIMITS).unwrap().plane, expected, "{uid}");
    }
    let mut whole = Vec::new();
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    twelve_bits().with_meta(meta).unwrap().write_all(&mut whole).unwrap();
    assert_eq!(read(&whole, &LIMITS).unwrap().plane, expected, "as dicom-rs writes a file");
}

#[test]
fn files_without_preamble_or_meta_information_are_recognised() {
    for uid in [uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN, BIG_ENDIAN] {
        let whole = file(uid, &twelve_bits());
        let expected = read(&whole, &LIMITS).unwrap().plane;
        for start in [128, 132, 132 + meta_of(uid).len()] {
            assert!(is_dicom(&whole[start..]), "{uid} from {start}");
            assert_eq!(read(&whole[start..], &LIMITS).unwrap().plane, expected, "{uid} from {start}");
        }
    }
}

#[test]
fn eight_bit_pixels_in_big_endian_words_are_swapped() {
    let values: Vec<u8> = (0..PIXELS).map(|at| (at % 251) as u8).collect();
    let expected: Vec<u16> = values.iter().map(|value| u16::from(*value) * 257).collect();
    assert_eq!(plane(&object("MONOCHROME2", 1, 8, 8, eight(&values))), expected);
    let pairs: Vec<u16> = values.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let object = object("MONOCHROME2", 1, 8, 8, sixteen(&pairs));
    assert_eq!(read(&file(BIG_ENDIAN, &object), &LIMITS).unwrap().plane, expected);
}

#[test]
fn monochrome1_is_inverted() {
    let mut object = object("MONOCHROME1", 1, 16, 12, sixteen(&ramp()));
    window(&mut object, "2048", "4096");
    let expected: Vec<u16> = plane(&twelve_bits()).into_iter().map(|value| u16::MAX - value).collect();
    assert_eq!(plane(&object), expected);
}

#[test]
fn rescale_is_applied_before_the_window_to_signed_values() {
    let mut object = twelve_bits();
    object.put(words(tags::PIXEL_REPRESENTATION, 1));
    object.put(text(tags::RESCALE_SLOPE, VR::DS, "2"));
    object.put(text(tags::RESCALE_INTERCEPT, VR::DS, "-100"));
    window(&mut object, "0", "2001");
    let expected = ramp().into_iter().map(|value| {
        let value = if value >= 2048 { f64::from(value) - 4096.0 } else { f64::from(value) };
        share((value * 2.0 - 100.0 + 0.5) / 2000.0 + 0.5)
    });
    assert_eq!(plane(&object), expected.collect::<Vec<_>>());
}

#[test]
fn numbers_are_read_in_other_notations_or_refused() {
    let rescaled = |slope: &str| {
        let mut object = twelve_bits();
        object.put(text(tags::RESCALE_SLOPE, VR::DS, slope));
        object.put(text(tags::RESCALE_INTERCEPT, VR::DS, "-100"));
        window(&mut object, "1000", "2000");
        object
    };
    let right = plane(&rescaled("0.5"));
    for slope in ["0,5", "+5.0E-01", " .5 ", "0.5\n", "\t0.5"] {
        assert_eq!(plane(&rescaled(slope)), right, "{slope:?}");
    }
    for slope in ["abc", "0.5x", "NaN", "inf", "1e999"] {
        let error = error_of_object(&rescaled(slope));
        assert!(error.contains("Rescale Slope is not a number"), "{slope:?}: {error}");
    }
}

#[test]
fn window_functions_agree_with_the_standard() {
    let check = |function: &str, expected: &dyn Fn(f64) -> f64| {
        let mut object = twelve_bits();
        window(&mut object, "1000", "800");
        object.put(text(tags::VOILUT_FUNCTION, VR::CS, function));
        let expected: Vec<u16> = ramp().into_iter().map(|value| share(expected(f64::from(value)))).collect();
        assert_eq!(plane(&object), expected, "{function}");
    };
    check("LINEAR", &|value| (value - 999.5) / 799.0 + 0.5);
    check("LINEAR_EXACT", &|value| (value - 1000.0) / 800.0 + 0.5);
    check("SIGMOID", &|value| 1.0 / (1.0 + (-4.0 * (value - 1000.0) / 800.0).exp()));
}

fn table(sequence: Tag, descriptor: [u16; 3], entries: &[u16]) -> InMemElement {
    let item = InMemDicomObject::from_element_iter([
        DataElement::new(tags::LUT_DESCRIPTOR, VR::US, PrimitiveValue::U16(descriptor[..].into())),
        DataElement::new(tags::LUT_DATA, VR::OW, PrimitiveValue::U16(entries.into())),
    ]);
    DataElement::new(sequence, VR::SQ, DataSetSequence::from(vec![item]))
}

#[test]
fn lookup_tables_take_precedence_over_rescale_and_window() {
    let square: Vec<u16> = (0..100).map(|at| at * at).collect();
    let mut object = twelve_bits();
    object.put(table(tags::MODALITY_LUT_SEQUENCE, [100, 50, 16], &square));
    object.put(table(tags::VOILUT_SEQUENCE, [9802, 0, 14], &(0..9802).map(|at| 9801 - at).collect::<Vec<_>>()));
    let expected = ramp().into_iter().map(|value| {
        let squared = f64::from(value).clamp(50.0, 149.0) - 50.0;
        share((9801.0 - squared * squared) / 16_383.0)
    });
    for uid in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, BIG_ENDIAN] {
        assert_eq!(read(&file(uid, &object), &LIMITS).unwrap().plane, expected.clone().collect::<Vec<_>>(), "{uid}");
    }
}

#[test]
fn without_a_window_percentiles_are_used_and_flagged() {
    let mut values: Vec<u16> = (0..PIXELS).map(|at| 1000 + (at % 1000) as u16).collect();
    values[7] = 4095;
    let radiograph = object("MONOCHROME2", 1, 16, 12, sixteen(&values));
    assert_eq!(flags_of(&radiograph), [QualityFlag::NoWindow]);
    let plane = plane(&radiograph);
    assert_eq!((plane[0], plane[7], plane[999]), (0, u16::MAX, u16::MAX));
    assert!(plane[500].abs_diff(32_768) < 200, "{}", plane[500]);
    assert_eq!(flags_of(&object("MONOCHROME2", 1, 8, 8, eight(&[9; PIXELS]))), []);
}

#[test]
fn padding_is_black_and_excluded_from_percentiles() {
    let mut values: Vec<u16> = (0..PIXELS).map(|at| 1000 + (at % 1000) as u16).collect();
    values[..900].fill(4000);
    for (photometric, darkest, brightest) in [("MONOCHROME2", 1000, 1999), ("MONOCHROME1", 1999, 1000)] {
        let mut object = object(photometric, 1, 16, 12, sixteen(&values));
        object.put(words(tags::PIXEL_PADDING_VALUE, 3999));
        object.put(words(tags::PIXEL_PADDING_RANGE_LIMIT, 4095));
        let plane = plane(&object);
        assert!(plane[..900].iter().all(|grey| *grey == 0));
        let at = |value| plane[values.iter().position(|other| *other == value).unwrap()];
        assert_eq!((at(darkest), at(brightest)), (0, u16::MAX), "{photometric}");
    }
}

#[test]
fn colour_is_converted_to_luma_in_both_planar_configurations() {
    let rgb = [10, 200, 30].repeat(PIXELS);
    let by_pixel = object("RGB", 3, 8, 8, eight(&rgb));
    assert_eq!(plane(&by_pixel), [124 * 257; PIXELS]);
    let planes = [vec![10; PIXELS], vec![200; PIXELS], vec![30; PIXELS]].concat();
    let mut by_plane = object("RGB", 3, 8, 8, eight(&planes));
    by_plane.put(words(tags::PLANAR_CONFIGURATION, 1));
    assert_eq!(plane(&by_plane), [124 * 257; PIXELS]);
    // Y 10, Cb 200, Cr 30 is RGB (0, 55, 138), clamped from (-127, 55, 138).
    assert_eq!(plane(&object("YBR_FULL", 3, 8, 8, eight(&rgb))), [48 * 257; PIXELS]);
    assert!(error_of_object(&object("PALETTE COLOR", 1, 8, 8, eight(&[1; PIXELS]))).contains("no palette"));
    assert!(error_of_object(&object("HSV", 3, 8, 8, eight(&rgb))).contains("HSV"));
}

#[test]
fn bits_outside_of_the_stored_bits_are_ignored() {
    let values: Vec<u16> = ramp().into_iter().map(|value| 0x8000 | value << 2 | 3).collect();
    let mut object = object("MONOCHROME2", 1, 16, 12, sixteen(&values));
    object.put(words(tags::HIGH_BIT, 13));
    window(&mut object, "2048", "4096");
    assert_eq!(plane(&object), plane(&twelve_bits()));
}

#[test]
fn objects_other_than_radiographs_are_rejected_with_a_reason() {
    let refused = |change: InMemElement, reason: &str| {
        let mut object = twelve_bits();
        object.put(change);
        let error = error_of_object(&object);
        assert!(error.contains(reason), "{error}");
    };
    refused(text(tags::MODALITY, VR::CS, "CT"), "(got \"CT\")");
    refused(text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE), "is not a radiograph");
    refused(text(tags::NUMBER_OF_FRAMES, VR::IS, "2"), "several frames");
    refused(words(tags::BITS_ALLOCATED, 32), "32 bits are not supported");
    refused(words(tags::BITS_STORED, 0), "Bits Stored 0");
}

#[test]
fn chest_radiographs_are_recognised_under_other_words() {
    let flagged = |part: &str| {
        let mut object = twelve_bits();
        object.put(text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"));
        object.put(text(tags::BODY_PART_EXAMINED, VR::LO, part));
        flags_of(&object).contains(&QualityFlag::OtherBodyPart)
    };
    for part in [
        "CHEST",
        "TORAX",
        "TÓRAX",
        "To\u{301}rax PA",
        "PULMON",
        "Brustkorb",
        "poumon",
        "klatka piersiowa",
        "胸部",
        "грудная клетка",
    ] {
        assert!(!flagged(part), "{part}");
    }
    for part in ["ABDOMEN", "KNEE", "BREAST", "BRUST", "HAND", "SKULL", "骨盤"] {
        assert!(flagged(part), "{part}");
    }
    for modality in ["CR", "DX", "RG", "DR", "XR", "CXR"] {
        let mut object = twelve_bits();
        object.put(text(tags::MODALITY, VR::CS, modality));
        assert_eq!(flags_of(&object), [], "{modality}");
    }
}

/// Headers that contradict the encoded image: it is read as it is encoded, and flagged.
#[test]
fn a_false_transfer_syntax_is_read_and_flagged() {
    let object = twelve_bits();
    let right = examine(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &object), &LIMITS).unwrap();
    assert_eq!(right.flags, []);
    let syntaxes = [
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        BIG_ENDIAN,
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        uids::JPEG_BASELINE8_BIT,
    ];
    for actual in &syntaxes[..4] {
        let written = file(actual, &object);
        let data_set = &written[132 + meta_of(actual).len()..];
        for declared in syntaxes.iter().filter(|declared| *declared != actual) {
            let bytes = [&[0; 128][..], b"DICM", &meta_of(declared), data_set].concat();
            let examined = examine(&bytes, &LIMITS).unwrap_or_else(|error| panic!("{actual} as {declared}: {error}"));
            assert_eq!(examined.image, right.image, "{actual} as {declared}");
            assert_eq!(examined.flags, [QualityFlag::HeaderMismatch], "{actual} as {declared}");
        }
    }
}

/// PS3.5, 6.2.2: a value of unknown VR and undefined length is a sequence in implicit VR.
#[test]
fn a_sequence_of_unknown_vr_and_undefined_length_is_skipped() {
    let right = plane(&twelve_bits());
    let whole = file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &twelve_bits());
    let implicit = |tag: [u8; 4], length: u32, value: &[u8]| [&tag[..], &length.to_le_bytes(), value].concat();
    let item = |value: &[u8]| {
        let end = implicit([0xfe, 0xff, 0x0d, 0xe0], 0, &[]);
        implicit([0xfe, 0xff, 0, 0xe0], u32::MAX, &[value, &end].concat())
    };
    let sequence_end = implicit([0xfe, 0xff, 0xdd, 0xe0], 0, &[]);
    let text = implicit([0x09, 0, 0x11, 0x10], 6, b"secret");
    let inner = implicit([0x09, 0, 0x12, 0x10], u32::MAX, &[&item(&text)[..], &sequence_end].concat());
    let value = [&item(&[text, inner].concat())[..], &sequence_end].concat();
    let unknown = [&[0x09, 0, 0x10, 0x10][..], b"UN\0\0", &u32::MAX.to_le_bytes(), &value].concat();
    // Before Patient ID, which is the first element of group 0x10: at the top level, and within a sequence.
    let at = whole.windows(4).position(|window| window == [0x10, 0, 0x20, 0]).unwrap();
    let nested = {
        let item = [&[0xfe, 0xff, 0, 0xe0][..], &(unknown.len() as u32).to_le_bytes(), &unknown].concat();
        let head = [&[0x08, 0, 0x40, 0x11][..], b"SQ\0\0", &(item.len() as u32).to_le_bytes()].concat();
        [head, item].concat()
    };
    for element in [unknown, nested] {
        let mut bytes = whole.clone();
        bytes.splice(at..at, element);
        let radiograph = read(&bytes, &LIMITS).unwrap();
        assert_eq!((radiograph.plane, radiograph.patient_id.as_deref()), (right.clone(), Some("MRN-4711")));
    }
}

#[test]
fn a_narrow_voi_table_is_scaled_by_its_maximum_and_flagged() {
    let ramp: Vec<u16> = (0..4096).collect();
    let mut agfa = twelve_bits();
    agfa.put(table(tags::VOILUT_SEQUENCE, [4096, 0, 16], &ramp));
    let mut declared = twelve_bits();
    declared.put(table(tags::VOILUT_SEQUENCE, [4096, 0, 12], &ramp));
    assert_eq!(plane(&agfa), plane(&declared));
    assert_eq!((flags_of(&agfa), flags_of(&declared)), (vec![QualityFlag::NarrowRange], vec![]));
    let range = |object| examine(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, object), &LIMITS).unwrap().grey_range;
    // 4095 of 65535 is grey level 16 of 255.
    assert_eq!((range(&agfa), range(&declared)), (GreyRange { low: 0, high: 16 }, GreyRange { low: 0, high: 255 }));
}

/// Enhanced images have rescale and window of the frame in functional groups, which yield to the elements of the top level.
#[test]
fn transformations_in_functional_groups_are_applied() {
    let item_of = |sequence: Tag, elements: Vec<InMemElement>| {
        let item = InMemDicomObject::from_element_iter(elements);
        DataElement::new(sequence, VR::SQ, DataSetSequence::from(vec![item]))
    };
    let window_of = |centre: &str| {
        let values = vec![text(tags::WINDOW_CENTER, VR::DS, centre), text(tags::WINDOW_WIDTH, VR::DS, "1001")];
        item_of(tags::FRAME_VOILUT_SEQUENCE, values)
    };
    let rescale = || {
        let values = vec![text(tags::RESCALE_INTERCEPT, VR::DS, "-1000"), text(tags::RESCALE_SLOPE, VR::DS, "2")];
        item_of(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, values)
    };
    let bare = || object("MONOCHROME2", 1, 16, 12, sixteen(&ramp()));
    let expected = |slope: f64, intercept: f64, centre: f64| -> Vec<u16> {
        let share_of =
            |value: u16| ((f64::from(value) * slope + intercept - (centre - 0.5)) / 1000.0 + 0.5).clamp(0.0, 1.0);
        ramp().into_iter().map(|value| share(share_of(value))).collect()
    };
    for groups in [tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE] {
        let mut enhanced = bare();
        enhanced.put(item_of(groups, vec![rescale(), window_of("3000")]));
        assert_eq!(plane(&enhanced), expected(2.0, -1000.0, 3000.0));
        enhanced.put(text(tags::WINDOW_CENTER, VR::DS, "1500"));
        assert_eq!(plane(&enhanced), expected(2.0, -1000.0, 1500.0), "the top level takes precedence");
    }
}

#[test]
fn a_voi_table_without_data_leaves_the_window() {
    let mut object = twelve_bits();
    window(&mut object, "2048", "4096");
    let right = plane(&object);
    for item in [
        InMemDicomObject::new_empty(),
        InMemDicomObject::from_element_iter([DataElement::empty(tags::LUT_DATA, VR::OW)]),
    ] {
        object.put(DataElement::new(tags::VOILUT_SEQUENCE, VR::SQ, DataSetSequence::from(vec![item])));
        assert_eq!(plane(&object), right);
    }
}

#[test]
fn quality_flags_are_derived_from_the_header() {
    let flagged = |change: InMemElement| {
        let mut object = twelve_bits();
        object.put(change);
        flags_of(&object)
    };
    assert_eq!(flagged(text(tags::VIEW_POSITION, VR::CS, "LL")), [QualityFlag::LateralView]);
    assert_eq!(flagged(text(tags::VIEW_POSITION, VR::CS, "PA")), []);
    assert_eq!(flagged(text(tags::BURNED_IN_ANNOTATION, VR::CS, "YES")), [QualityFlag::BurnedInAnnotation]);
    assert_eq!(flagged(text(tags::MODALITY, VR::CS, "OT")), [QualityFlag::ModalityUnclear]);
    assert_eq!(flagged(text(tags::BODY_PART_EXAMINED, VR::CS, "KNEE")), [QualityFlag::OtherBodyPart]);
    assert_eq!(flagged(text(tags::BODY_PART_EXAMINED, VR::CS, "CHEST")), []);
}

#[test]
fn only_allowed_attributes_are_stored() {
    let stored = |age: &str, model: &str| {
        let mut object = twelve_bits();
        object.put(text(tags::PATIENT_AGE, VR::AS, age));
        object.put(text(tags::PATIENT_SEX, VR::CS, "F"));
        object.put(text(tags::VIEW_POSITION, VR::CS, "PA"));
        object.put(text(tags::IMAGER_PIXEL_SPACING, VR::DS, "0.143\\0.143"));
        object.put(text(tags::MANUFACTURER_MODEL_NAME, VR::LO, model));
        read(&file(uids::IMPLICIT_VR_LITTLE_ENDIAN, &object), &LIMITS).unwrap().attributes
    };
    let expected = DicomAttributes {
        view: Some("PA".into()),
        age_years: Some(62),
        sex: Some("F".into()),
        photometric_interpretation: "MONOCHROME2".into(),
        pixel_spacing_mm: Some([0.143, 0.143]),
        manufacturer_model: Some("DigitalDiagnost".into()),
    };
    assert_eq!(stored("062Y", "DigitalDiagnost"), expected);
    let ages = ["097Y", "62", "018M", "003W", "about 50", ""].map(|age| stored(age, "x").age_years);
    assert_eq!(ages, [Some(90), Some(62), Some(1), Some(0), None, None]);
    assert_eq!(stored("062Y", "unit of mrn-4711").manufacturer_model, None);
}

#[test]
fn the_deidentified_file_has_the_same_pixels_and_no_metadata() {
    for object in [twelve_bits(), object("MONOCHROME2", 1, 8, 8, eight(&[200; PIXELS]))] {
        let bytes = file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &object);
        let examined = examine(&bytes, &LIMITS).unwrap();
        let (format, stored) = examined.deidentified(&bytes).unwrap();
        assert_eq!((examined.format, format), (Format::Dicom, Format::Png));
        assert_eq!(decode(&stored, &LIMITS).unwrap().1, examined.image);
        assert_eq!(decode(&bytes, &LIMITS).unwrap().1, examined.image);
        let kinds: Vec<&[u8]> = [&b"IHDR"[..], b"IDAT", b"IEND", b"tEXt", b"eXIf"].into();
        let present = kinds.into_iter().filter(|kind| stored.windows(4).any(|four| four == *kind)).count();
        assert_eq!(present, 3);
    }
    let ExaminedImage { dicom, .. } = examine(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &twelve_bits()), &LIMITS).unwrap();
    let dicom = dicom.unwrap();
    assert_eq!(dicom.patient_id.as_deref(), Some("MRN-4711"));
}

#[test]
fn images_over_the_pixel_limit_are_rejected_before_decoding() {
    let mut object = twelve_bits();
    object.put(words(tags::ROWS, 60_000));
    object.put(words(tags::COLUMNS, 60_000));
    let refused = read(&file(uids::EXPLICIT_VR_LITTLE_ENDIAN, &object), &LIMITS);
    assert!(matches!(refused, Err(ImageError::TooManyPixels { width: 60_000, height: 60_000, .. })), "{refused:?}");
    let small = Limits { max_pixels: 1 };
    let mut bomb = DeflateEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; 64 << 20]).unwrap();
    let bomb = [meta_of(uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN), bomb.finish().unwrap()].concat();
    assert!(read(&bomb, &small).unwrap_err().to_string().contains("inflates to more than"));
}

#[test]
fn a_declared_length_beyond_the_file_allocates_no_memory() {
    let data_set = |tag: [u8; 4], vr: &[u8; 2]| {
        let head = [&meta_of(uids::EXPLICIT_VR_LITTLE_ENDIAN)[..], &tag, vr, &[0, 0], &0xffff_fffe_u32.to_le_bytes()];
        head.concat()
    };
    for bytes in [data_set([8, 0, 8, 0], b"UT"), data_set([0xe0, 0x7f, 0x10, 0], b"OW"), data_set([9, 0, 1, 0], b"OB")]
    {
        assert!(matches!(read(&bytes, &LIMITS), Err(ImageError::Undecodable(_))));
    }
}

#[test]
fn truncated_files_are_rejected() {
    for uid in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, BIG_ENDIAN] {
        let whole = file(uid, &twelve_bits());
        for length in (132..whole.len()).step_by(61).chain([whole.len() - 1]) {
            let refused = read(&whole[..length], &LIMITS);
            assert!(matches!(refused, Err(ImageError::Undecodable(_))), "{uid} of {length} bytes");
        }
    }
}

#[test]
fn corrupt_files_never_panic() {
    let mut object = twelve_bits();
    object.put(table(tags::VOILUT_SEQUENCE, [4, 0, 12], &[0, 100, 200, 300]));
    for uid in [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN] {
        let whole = file(uid, &object);
        let header = whole.len() - 2 * PIXELS;
        for at in 128..header {
            for damage in [0x55, 0xff, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= damage;
                if let Ok(radiograph) = read(&damaged, &LIMITS) {
                    assert_eq!(radiograph.plane.len() as u32, radiograph.width * radiograph.height);
                }
            }
        }
    }
}
