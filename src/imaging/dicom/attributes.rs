//! What may be kept of a header, and what must not be.

use dicom_dictionary_std::tags;

use super::header::{Header, IDENTIFYING};
use crate::domain::DicomAttributes;

/// Older people are few enough to be found by their age.
const OLDEST: f64 = 90.0;

/// Shorter pieces of a name or number would be found in anything.
const SHORTEST: usize = 3;

/// Views that are kept; whatever else is in the element might be anything.
const VIEWS: &[&str] = &["AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL"];

pub(super) fn kept(header: &Header) -> DicomAttributes {
    let identifiers = identifiers(header);
    let model = header.text(tags::MANUFACTURER_MODEL_NAME);
    DicomAttributes {
        view: header.code(tags::VIEW_POSITION).filter(|view| VIEWS.contains(&view.as_str())),
        age_years: header.text(tags::PATIENT_AGE).and_then(|age| years(&age)),
        sex: header.code(tags::PATIENT_SEX).filter(|sex| matches!(sex.as_str(), "M" | "F" | "O")),
        photometric_interpretation: header.photometric(),
        pixel_spacing_mm: spacing(header),
        manufacturer_model: model.filter(|model| model.len() <= 64 && !names_someone(model, &identifiers)),
    }
}

/// The texts of all identifying elements, whole and in their parts.
pub(super) fn identifiers(header: &Header) -> Vec<String> {
    let texts = IDENTIFYING.iter().filter_map(|tag| header.whole_text(*tag));
    let parts = texts.flat_map(|text| {
        let whole = text.trim_matches(['\0', ' ']).to_owned();
        let parts = text.split(['\\', '^', '=', ' ', '\0']).map(str::to_owned).collect::<Vec<_>>();
        [whole].into_iter().chain(parts)
    });
    let mut identifiers: Vec<String> = parts.filter(|part| part.chars().count() >= SHORTEST).collect();
    identifiers.sort();
    identifiers.dedup();
    identifiers
}

/// Whether a text has an identifier in it, in capitals or not.
pub(in crate::imaging) fn names_someone(text: &str, identifiers: &[String]) -> bool {
    let text = text.to_lowercase();
    identifiers.iter().any(|identifier| text.contains(&identifier.to_lowercase()))
}

/// Whole years of an age such as `062Y`, `018M`, `003W`, `005D`, or `62` as some write it.
fn years(age: &str) -> Option<u8> {
    let digits = age.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.trim().parse().ok().filter(|number| (0.0..1000.0).contains(number))?;
    let years = match age[digits.len()..].to_uppercase().as_str() {
        "" | "Y" => number,
        "M" => number / 12.0,
        "W" => number / 52.2,
        "D" => number / 365.25,
        _ => return None,
    };
    Some(years.min(OLDEST).floor() as u8)
}

/// Of the patient's plane or else of the detector's; nonsense such as 0 is left out.
fn spacing(header: &Header) -> Option<[f64; 2]> {
    let of = |tag| <[f64; 2]>::try_from(header.numbers(tag)).ok();
    let sane = |[rows, columns]: &[f64; 2]| (0.01..10.0).contains(rows) && (0.01..10.0).contains(columns);
    [tags::PIXEL_SPACING, tags::IMAGER_PIXEL_SPACING].into_iter().filter_map(of).find(sane)
}
