//! The elements of a data set that Thorax looks at; all others are passed over unread.

use std::{collections::BTreeMap, io::Cursor};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_parser::{
    StatefulDecode,
    dataset::{LazyDataToken, lazy_read::LazyDataSetReader},
};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};

use super::{
    syntax::{self, Syntax},
    undecodable,
};
use crate::imaging::{ImageError, Limits};

/// Longest value that is read, in bytes: a look-up table of 65,536 entries.
const LONGEST_VALUE: u32 = 1 << 17;

/// Deepest sequence within sequences.
const DEEPEST: usize = 32;

/// Elements that are read, at the top of the data set.
const WANTED: &[Tag] = &[
    tags::SOP_CLASS_UID,
    tags::MODALITY,
    tags::BODY_PART_EXAMINED,
    tags::VIEW_POSITION,
    tags::MANUFACTURER_MODEL_NAME,
    tags::PATIENT_AGE,
    tags::PATIENT_SEX,
    tags::PIXEL_SPACING,
    tags::IMAGER_PIXEL_SPACING,
    tags::BURNED_IN_ANNOTATION,
    tags::SAMPLES_PER_PIXEL,
    tags::PHOTOMETRIC_INTERPRETATION,
    tags::PLANAR_CONFIGURATION,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::COLUMNS,
    tags::BITS_ALLOCATED,
    tags::BITS_STORED,
    tags::HIGH_BIT,
    tags::PIXEL_REPRESENTATION,
    tags::PIXEL_PADDING_VALUE,
    tags::PIXEL_PADDING_RANGE_LIMIT,
    tags::RESCALE_INTERCEPT,
    tags::RESCALE_SLOPE,
    tags::WINDOW_CENTER,
    tags::WINDOW_WIDTH,
    tags::VOILUT_FUNCTION,
];

/// Elements that name the patient or the examination. They are read so that nothing of them is stored.
pub(super) const IDENTIFYING: &[Tag] = &[
    tags::SOP_INSTANCE_UID,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::STUDY_ID,
    tags::ACCESSION_NUMBER,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    OTHER_PATIENT_IDS,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_ADDRESS,
    tags::INSTITUTION_NAME,
    tags::STATION_NAME,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::OPERATORS_NAME,
    tags::PERFORMING_PHYSICIAN_NAME,
];

/// Other Patient IDs: retired, and still in files.
const OTHER_PATIENT_IDS: Tag = Tag(0x0010, 0x1000);

/// Pixels as the file has them.
pub(super) enum PixelData {
    /// Plain; the flag says that they are written as 16-bit words.
    Native { bytes: Vec<u8>, words: bool },
    /// The fragments of the one frame, joined.
    Packed(Vec<u8>),
}

/// A table of LUT Descriptor and LUT Data.
pub(super) struct Table {
    /// First value that it maps.
    pub(super) first: i64,
    /// Largest value that its entries can take.
    pub(super) largest: f64,
    pub(super) entries: Vec<u16>,
}

/// What was read.
pub(super) struct Header {
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) samples: u16,
    pub(super) bits_allocated: u16,
    pub(super) bits_stored: u16,
    pub(super) high_bit: u16,
    pub(super) signed: bool,
    pub(super) pixels: PixelData,
    elements: Elements,
    big_endian: bool,
}

/// Values by sequence, if they are in the first item of one, and tag.
type Elements = BTreeMap<(Option<Tag>, Tag), Vec<u8>>;

impl Header {
    pub(super) fn read(data_set: &[u8], syntax: &Syntax) -> Result<Self, ImageError> {
        let (elements, pixels) = elements(data_set, syntax, Until::End)?;
        let pixels = pixels.ok_or_else(|| undecodable("the DICOM file has no pixel data"))?;
        let big_endian = syntax.big_endian;
        let number = |tag| first_u16(&elements, tag, big_endian);
        let needed = |tag, name| number(tag).ok_or_else(|| undecodable(format!("the DICOM file has no {name}")));
        let bits_allocated = needed(tags::BITS_ALLOCATED, "Bits Allocated")?;
        let bits_stored = number(tags::BITS_STORED).unwrap_or(bits_allocated);
        Ok(Self {
            rows: needed(tags::ROWS, "Rows")?,
            columns: needed(tags::COLUMNS, "Columns")?,
            samples: number(tags::SAMPLES_PER_PIXEL).unwrap_or(1),
            bits_allocated,
            bits_stored,
            high_bit: number(tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1)),
            signed: number(tags::PIXEL_REPRESENTATION) == Some(1),
            pixels,
            elements,
            big_endian,
        })
    }

    /// The first of an element's texts, without padding; none when it is empty.
    pub(super) fn text(&self, tag: Tag) -> Option<String> {
        first_text(&self.elements, tag)
    }

    /// The text in capitals, as codes are written.
    pub(super) fn code(&self, tag: Tag) -> Option<String> {
        self.text(tag).map(|text| text.to_uppercase())
    }

    /// The numbers of a decimal or integer string.
    pub(super) fn numbers(&self, tag: Tag) -> Vec<f64> {
        let Some(value) = self.elements.get(&(None, tag)) else { return Vec::new() };
        let text = String::from_utf8_lossy(value);
        text.split('\\').map_while(|part| part.trim_matches(['\0', ' ']).parse().ok()).collect()
    }

    /// The first number, if it is finite.
    pub(super) fn number(&self, tag: Tag) -> Option<f64> {
        self.numbers(tag).first().copied().filter(|number| number.is_finite())
    }

    /// An element of the representation US or SS, in its bits.
    pub(super) fn word(&self, tag: Tag) -> Option<u16> {
        first_u16(&self.elements, tag, self.big_endian)
    }

    /// Photometric Interpretation; MONOCHROME2 where the file has none.
    pub(super) fn photometric(&self) -> String {
        self.code(tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_else(|| "MONOCHROME2".to_owned())
    }

    /// Patient ID.
    pub(super) fn patient_id(&self) -> Option<String> {
        self.text(tags::PATIENT_ID)
    }

    /// The whole text of an element, all its values.
    pub(super) fn whole_text(&self, tag: Tag) -> Option<String> {
        self.elements.get(&(None, tag)).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The table in the first item of a sequence; none when there is none, an error when it is damaged.
    pub(super) fn table(&self, sequence: Tag) -> Result<Option<Table>, ImageError> {
        let Some(data) = self.elements.get(&(Some(sequence), tags::LUT_DATA)) else { return Ok(None) };
        let descriptor = self.elements.get(&(Some(sequence), tags::LUT_DESCRIPTOR));
        let words: Vec<u16> = descriptor.map(|value| words(value, self.big_endian)).unwrap_or_default();
        let &[count, first, bits] = words.as_slice() else {
            return Err(undecodable("a look-up table without descriptor"));
        };
        // 65,536 does not fit into 16 bits and is written as 0.
        let count = if count == 0 { 1 << 16 } else { usize::from(count) };
        let entries = if data.len() >= 2 * count {
            self::words(data, self.big_endian)
        } else {
            data.iter().map(|byte| u16::from(*byte)).collect()
        };
        if entries.len() < count || !(8..=16).contains(&bits) {
            return Err(undecodable(format!("a look-up table of {} entries of {bits} bits", entries.len())));
        }
        let first = if self.signed { i64::from(first as i16) } else { i64::from(first) };
        Ok(Some(Table { first, largest: f64::from((1u32 << bits) - 1), entries: entries[..count].to_vec() }))
    }
}

/// What a DICOM file calls itself. It names the examination: to be answered to its sender, never to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// SOP Class UID.
    pub class: String,
    /// SOP Instance UID.
    pub instance: String,
    /// Study Instance UID.
    pub study: Option<String>,
}

/// Reads no pixels; none where the file has no class and instance that can be read.
pub fn reference(bytes: &[u8], limits: &Limits) -> Option<Reference> {
    let (syntax, data_set) = syntax::open(bytes, limits).ok()?;
    let (elements, _) = elements(&data_set, &syntax, Until::Pixels).ok()?;
    let text = |tag| first_text(&elements, tag);
    let class = text(tags::SOP_CLASS_UID)?;
    Some(Reference { class, instance: text(tags::SOP_INSTANCE_UID)?, study: text(tags::STUDY_INSTANCE_UID) })
}

fn first_text(elements: &Elements, tag: Tag) -> Option<String> {
    let text = String::from_utf8_lossy(elements.get(&(None, tag))?);
    let first = text.split('\\').next().unwrap_or_default().trim_matches(['\0', ' ']);
    (!first.is_empty()).then(|| first.to_owned())
}

fn first_u16(elements: &Elements, tag: Tag, big_endian: bool) -> Option<u16> {
    words(elements.get(&(None, tag))?, big_endian).first().copied()
}

/// 16-bit words in the order of bytes that the file has.
pub(super) fn words(bytes: &[u8], big_endian: bool) -> Vec<u16> {
    let word = if big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
    bytes.as_chunks::<2>().0.iter().map(|pair| word(*pair)).collect()
}

/// A sequence that is being read, and its item, from 1.
struct Place {
    sequence: Tag,
    item: u32,
}

/// How far a data set is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Pixels included; what is behind them is not needed.
    End,
    Pixels,
}

fn elements(data_set: &[u8], syntax: &Syntax, until: Until) -> Result<(Elements, Option<PixelData>), ImageError> {
    let damaged = |error: &dyn std::fmt::Display| undecodable(format!("the DICOM elements are damaged: {error}"));
    let written = TransferSyntaxRegistry.get(syntax.of_elements()).expect("dicom-rs knows the three plain syntaxes");
    let mut reader = LazyDataSetReader::new_with_ts(Cursor::new(data_set), written).map_err(|e| damaged(&e))?;
    let (mut elements, mut places, mut fragments) = (Elements::new(), Vec::<Place>::new(), None::<Vec<u8>>);
    while let Some(token) = reader.advance() {
        match token.map_err(|e| damaged(&e))? {
            LazyDataToken::PixelSequenceStart => {
                if places.is_empty() {
                    if until == Until::Pixels {
                        return Ok((elements, None));
                    }
                    fragments = Some(Vec::new());
                }
                places.push(Place { sequence: tags::PIXEL_DATA, item: 0 });
            }
            LazyDataToken::SequenceStart { tag, .. } => places.push(Place { sequence: tag, item: 0 }),
            LazyDataToken::ItemStart { .. } => {
                let place = places.last_mut().ok_or_else(|| undecodable("an item outside any sequence"))?;
                place.item = place.item.saturating_add(1);
            }
            LazyDataToken::SequenceEnd => {
                places.pop();
                // Nothing after the pixels is needed, and files are often cut off there.
                if let (true, Some(fragments)) = (places.is_empty(), fragments.take()) {
                    return Ok((elements, Some(PixelData::Packed(fragments))));
                }
            }
            LazyDataToken::LazyValue { header, decoder } => {
                let (tag, length) = (header.tag, header.len.get().unwrap_or(0));
                if places.is_empty() && tag == tags::PIXEL_DATA {
                    if until == Until::Pixels {
                        return Ok((elements, None));
                    }
                    let bytes = value(decoder, length)?;
                    return Ok((
                        elements,
                        Some(PixelData::Native { bytes, words: header.vr == VR::OW || syntax.implicit }),
                    ));
                }
                match key(&places, tag) {
                    Some(key) if length <= LONGEST_VALUE => drop(elements.insert(key, value(decoder, length)?)),
                    _ => decoder.skip_bytes(length).map_err(|e| damaged(&e))?,
                }
            }
            LazyDataToken::LazyItemValue { len, decoder } => {
                let value = value(decoder, len)?;
                // The first item is a table of offsets; the pixels of an icon are in a sequence of their own.
                if let (Some(fragments), [Place { item: 2.., .. }]) = (&mut fragments, places.as_slice()) {
                    fragments.extend_from_slice(&value);
                }
            }
            _ => {}
        }
        if places.len() > DEEPEST {
            return Err(undecodable(format!("more than {DEEPEST} sequences within sequences")));
        }
    }
    Ok((elements, None))
}

/// Under what an element is kept, if it is.
fn key(places: &[Place], tag: Tag) -> Option<(Option<Tag>, Tag)> {
    match places {
        [] => (WANTED.contains(&tag) || IDENTIFYING.contains(&tag)).then_some((None, tag)),
        [Place { sequence: sequence @ (tags::MODALITY_LUT_SEQUENCE | tags::VOILUT_SEQUENCE), item: 1 }] => {
            (tag == tags::LUT_DATA || tag == tags::LUT_DESCRIPTOR).then_some((Some(*sequence), tag))
        }
        _ => None,
    }
}

/// Grows with what is there, never by what the length promises.
fn value(decoder: &mut impl StatefulDecode, length: u32) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    decoder.read_to_vec(length, &mut bytes).map_err(|error| undecodable(format!("a DICOM value: {error}")))?;
    if bytes.len() < length as usize {
        return Err(undecodable("the DICOM file is cut off"));
    }
    Ok(bytes)
}
