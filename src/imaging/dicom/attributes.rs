//! Attributes of a header that may be stored, and identifiers that must not be.

use dicom_dictionary_std::tags;

use super::header::{Header, IDENTIFYING};
use crate::domain::DicomAttributes;

/// Ages above are reported as this age (HIPAA Safe Harbor), because few people are older.
const MAX_AGE: f64 = 90.0;

/// Minimum length of an ASCII identifier that is found within words.
const MIN_PART_LENGTH: usize = 3;

/// View positions that are stored. Other values of the element may be arbitrary text.
const VIEWS: &[&str] = &["AP", "PA", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL"];

/// The attributes that may be stored.
pub(super) fn stored(header: &Header) -> DicomAttributes {
    let identifiers = identifiers(header);
    let model = header.text(tags::MANUFACTURER_MODEL_NAME);
    DicomAttributes {
        view: header.code(tags::VIEW_POSITION).filter(|view| VIEWS.contains(&view.as_str())),
        age_years: header.text(tags::PATIENT_AGE).and_then(|age| years(&age)),
        sex: header.code(tags::PATIENT_SEX).filter(|sex| matches!(sex.as_str(), "M" | "F" | "O")),
        photometric_interpretation: header.photometric(),
        pixel_spacing_mm: spacing(header),
        manufacturer_model: model.filter(|model| model.len() <= 64 && !contains_identifier(model, &identifiers)),
    }
}

/// The values of all identifying elements, whole and split into components.
fn identifiers(header: &Header) -> Vec<String> {
    let texts = IDENTIFYING.iter().flat_map(|tag| header.whole_texts(*tag));
    let parts = texts.flat_map(|text| {
        let whole = text.trim_matches(['\0', ' ']).to_owned();
        let parts = text.split(['\\', '^', '=', ' ', '\0']).map(str::to_owned).collect::<Vec<_>>();
        [whole].into_iter().chain(parts)
    });
    let mut identifiers: Vec<String> = parts.map(|part| part.to_lowercase()).collect();
    // A single letter or digit identifies nobody, except where a character is a word.
    identifiers.retain(|part| part.chars().count() > 1 || !part.is_ascii());
    identifiers.sort();
    identifiers.dedup();
    identifiers
}

/// True if `text` contains an identifier, ignoring case. A short ASCII identifier must be a word of its own, because it occurs within
/// many words.
fn contains_identifier(text: &str, identifiers: &[String]) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split(|letter: char| !letter.is_alphanumeric()).collect();
    identifiers.iter().any(|identifier| {
        let is_short = identifier.is_ascii() && identifier.len() < MIN_PART_LENGTH;
        if is_short { words.contains(&identifier.as_str()) } else { text.contains(identifier) }
    })
}

/// Whole years of an age string such as `062Y`, `018M`, `003W`, `005D`, or the non-standard `62`.
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
    Some(years.min(MAX_AGE).floor() as u8)
}

/// Pixel Spacing, else Imager Pixel Spacing, in mm; implausible values such as 0 are ignored.
fn spacing(header: &Header) -> Option<[f64; 2]> {
    let spacing = |tag| <[f64; 2]>::try_from(header.numbers(tag)).ok();
    let plausible = |[rows, columns]: &[f64; 2]| (0.01..10.0).contains(rows) && (0.01..10.0).contains(columns);
    [tags::PIXEL_SPACING, tags::IMAGER_PIXEL_SPACING].into_iter().filter_map(spacing).find(plausible)
}
