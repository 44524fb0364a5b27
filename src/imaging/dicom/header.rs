//! Reader of the elements that Thorax uses. All other elements are skipped unread.

use std::{collections::BTreeMap, io::Cursor};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_parser::{
    StatefulDecode,
    dataset::{LazyDataToken, lazy_read::LazyDataSetReader},
};
use dicom_transfer_syntax_registry::{TransferSyntaxIndex, TransferSyntaxRegistry};

use super::{
    character_set::CharacterSets,
    syntax::{DicomFile, TransferSyntax},
    undecodable,
    unknown_sequence::with_defined_lengths,
};
use crate::imaging::{ImageError, Limits};

/// Maximum length of a value, in bytes: a lookup table of 65,536 entries.
const MAX_VALUE_LENGTH: u32 = 1 << 17;

/// Maximum nesting depth of sequences.
const MAX_DEPTH: usize = 32;

/// Elements that are read from the top level of the data set.
const TOP_LEVEL: &[Tag] = &[
    tags::SPECIFIC_CHARACTER_SET,
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
    tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
    tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
    tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
];

/// Descriptor and data of the lookup tables of PALETTE COLOR: red, green, blue.
const PALETTE: [(Tag, Tag); 3] = [
    (tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA),
    (tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA),
    (tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA),
];

/// Sequences of functional groups.
const FUNCTIONAL_GROUPS: [Tag; 2] =
    [tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE];

/// Elements that identify the patient or the study. They are read only to ensure that their values are not stored elsewhere.
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

/// Other Patient IDs: retired, but still in use.
const OTHER_PATIENT_IDS: Tag = Tag(0x0010, 0x1000);

/// Pixel data of the file.
pub(super) enum PixelData {
    /// Native (uncompressed); `words` is true if written as 16-bit words.
    Native { bytes: Vec<u8>, words: bool },
    /// Encapsulated (compressed): the concatenated fragments of the frame.
    Encapsulated(Vec<u8>),
}

/// Lookup table: LUT Descriptor and LUT Data.
pub(super) struct LookupTable {
    /// First input value mapped by the table.
    pub(super) first: i64,
    /// Maximum output value by the bits per entry.
    pub(super) max: f64,
    pub(super) entries: Vec<u16>,
}

/// Elements of the data set.
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

/// Tag of an element and, if it is in the first item of a sequence, the tag of the sequence.
type Key = (Option<Tag>, Tag);

/// Raw values of elements.
type Elements = BTreeMap<Key, Vec<u8>>;

impl Header {
    /// Reads the header and the pixel data in the encoding that yields them, and returns that encoding.
    pub(super) fn read(file: &DicomFile, limits: &Limits) -> Result<(Self, TransferSyntax), ImageError> {
        file.read(limits, Self::parse)
    }

    fn parse(data_set: &[u8], syntax: &TransferSyntax) -> Result<Self, ImageError> {
        let (elements, pixels) = elements(data_set, syntax, ReadUntil::End)?;
        let pixels = pixels.ok_or_else(|| undecodable("the DICOM file has no pixel data"))?;
        let big_endian = syntax.big_endian;
        let number = |tag| first_u16(&elements, tag, big_endian);
        let required = |tag, name| number(tag).ok_or_else(|| undecodable(format!("the DICOM file has no {name}")));
        let bits_allocated = required(tags::BITS_ALLOCATED, "Bits Allocated")?;
        let bits_stored = number(tags::BITS_STORED).unwrap_or(bits_allocated);
        Ok(Self {
            rows: required(tags::ROWS, "Rows")?,
            columns: required(tags::COLUMNS, "Columns")?,
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

    /// Checks the size of an embedded image of `format`.
    pub(super) fn check_size(&self, format: &str, width: u32, height: u32) -> Result<(), ImageError> {
        let Self { columns, rows, .. } = self;
        if (width, height) == ((*columns).into(), (*rows).into()) {
            return Ok(());
        }
        Err(undecodable(format!(
            "the embedded {format} has {width} x {height} pixels, but the DICOM header announces {columns} x {rows}"
        )))
    }

    /// The first value of a text element, without padding; none if it is empty.
    pub(super) fn text(&self, tag: Tag) -> Option<String> {
        first_text(&self.elements, tag)
    }

    /// The first value in upper case, for code strings (VR CS).
    pub(super) fn code(&self, tag: Tag) -> Option<String> {
        self.text(tag).map(|text| text.to_uppercase())
    }

    /// The values of a decimal or integer string (VR DS or IS).
    pub(super) fn numbers(&self, tag: Tag) -> Vec<f64> {
        let Some(value) = self.elements.get(&(None, tag)) else { return Vec::new() };
        let text = String::from_utf8_lossy(value);
        text.split('\\').map_while(decimal).collect()
    }

    /// The first value of a decimal or integer string, if finite.
    pub(super) fn number(&self, tag: Tag) -> Option<f64> {
        self.numbers(tag).first().copied().filter(|number| number.is_finite())
    }

    /// The first value of a decimal string that changes the pixels; none if it is absent or empty.
    ///
    /// # Errors
    /// The value is not a finite number.
    pub(super) fn checked_number(&self, tag: Tag, name: &str) -> Result<Option<f64>, ImageError> {
        let Some(text) = self.text(tag) else { return Ok(None) };
        match decimal(&text).filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(undecodable(format!("{name} is not a number (got {text:?})"))),
        }
    }

    /// The bits of a 16-bit element (VR US or SS).
    pub(super) fn word(&self, tag: Tag) -> Option<u16> {
        first_u16(&self.elements, tag, self.big_endian)
    }

    /// Photometric Interpretation; MONOCHROME2 if absent.
    pub(super) fn photometric(&self) -> String {
        self.code(tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_else(|| "MONOCHROME2".to_owned())
    }

    /// Patient ID.
    pub(super) fn patient_id(&self) -> Option<String> {
        self.text(tags::PATIENT_ID)
    }

    /// The text of an element with all its values: by the declared character sets, and by those that senders use without declaring them.
    pub(super) fn whole_texts(&self, tag: Tag) -> Vec<String> {
        let Some(value) = self.elements.get(&(None, tag)) else { return Vec::new() };
        character_sets(&self.elements).readings(value)
    }

    /// The lookup table in the first item of a sequence, if any; an item without data counts as none. The first mapped value is read as a
    /// signed number if `signed`.
    ///
    /// # Errors
    /// The table is corrupt.
    pub(super) fn table(&self, sequence: Tag, signed: bool) -> Result<Option<LookupTable>, ImageError> {
        self.lookup_table((Some(sequence), tags::LUT_DESCRIPTOR), (Some(sequence), tags::LUT_DATA), signed)
    }

    /// The lookup tables of PALETTE COLOR: red, green, blue.
    ///
    /// # Errors
    /// A table is missing or corrupt.
    pub(super) fn palette(&self) -> Result<[LookupTable; 3], ImageError> {
        let mut tables = Vec::with_capacity(3);
        for (descriptor, data) in PALETTE {
            let table = self.lookup_table((None, descriptor), (None, data), self.signed)?;
            tables.push(table.ok_or_else(|| undecodable("the DICOM file has no palette"))?);
        }
        Ok(tables.try_into().unwrap_or_else(|_| unreachable!("a palette has three tables")))
    }

    fn lookup_table(&self, descriptor: Key, data: Key, signed: bool) -> Result<Option<LookupTable>, ImageError> {
        let Some(data) = self.elements.get(&data).filter(|data| !data.is_empty()) else { return Ok(None) };
        let descriptor = self.elements.get(&descriptor);
        let words: Vec<u16> = descriptor.map(|value| words(value, self.big_endian)).unwrap_or_default();
        let &[count, first, bits] = words.as_slice() else {
            return Err(undecodable("a lookup table has no valid descriptor"));
        };
        // 65,536 entries are encoded as 0.
        let count = if count == 0 { 1 << 16 } else { usize::from(count) };
        let entries = if data.len() >= 2 * count {
            self::words(data, self.big_endian)
        } else {
            data.iter().map(|byte| u16::from(*byte)).collect()
        };
        if entries.len() < count || !(8..=16).contains(&bits) {
            return Err(undecodable(format!(
                "a lookup table has {} of {count} entries, of {bits} bits",
                entries.len()
            )));
        }
        let first = if signed { i64::from(first as i16) } else { i64::from(first) };
        Ok(Some(LookupTable { first, max: f64::from((1u32 << bits) - 1), entries: entries[..count].to_vec() }))
    }
}

/// UIDs of a DICOM object. They identify the study: they are returned to the sender and never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SopInstance {
    /// SOP Class UID.
    pub class: String,
    /// SOP Instance UID.
    pub instance: String,
    /// Study Instance UID.
    pub study: Option<String>,
}

/// Reads the UIDs of a DICOM file without its pixel data; none if class or instance UID cannot be read.
pub fn sop_instance(bytes: &[u8], limits: &Limits) -> Option<SopInstance> {
    let read = |data_set: &[u8], syntax: &TransferSyntax| {
        let (elements, _) = elements(data_set, syntax, ReadUntil::PixelData)?;
        let text = |tag| first_text(&elements, tag);
        let uids = text(tags::SOP_CLASS_UID).zip(text(tags::SOP_INSTANCE_UID));
        let (class, instance) = uids.ok_or_else(|| undecodable("the DICOM file has no SOP Class or Instance UID"))?;
        Ok(SopInstance { class, instance, study: text(tags::STUDY_INSTANCE_UID) })
    };
    let (instance, _) = DicomFile::parse(bytes).ok()?.read(limits, read).ok()?;
    Some(instance)
}

/// The character sets that Specific Character Set declares.
fn character_sets(elements: &Elements) -> CharacterSets {
    let declared = elements.get(&(None, tags::SPECIFIC_CHARACTER_SET));
    CharacterSets::declared(declared.map(Vec::as_slice).unwrap_or_default())
}

fn first_text(elements: &Elements, tag: Tag) -> Option<String> {
    // Decoded before it is split: in some character sets the second byte of a character is that of a backslash.
    let text = character_sets(elements).decode(elements.get(&(None, tag))?);
    let first = text.split('\\').next().unwrap_or_default().trim_matches(['\0', ' ']);
    (!first.is_empty()).then(|| first.to_owned())
}

/// The number of a decimal string. A comma is a decimal point in some locales, and cannot mean anything else.
fn decimal(text: &str) -> Option<f64> {
    let is_padding = |letter: char| letter == '\0' || letter.is_whitespace();
    text.trim_matches(is_padding).replace(',', ".").parse().ok()
}

fn first_u16(elements: &Elements, tag: Tag, big_endian: bool) -> Option<u16> {
    words(elements.get(&(None, tag))?, big_endian).first().copied()
}

/// Decodes 16-bit words in the byte order of the file.
pub(super) fn words(bytes: &[u8], big_endian: bool) -> Vec<u16> {
    let word = if big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
    bytes.as_chunks::<2>().0.iter().map(|pair| word(*pair)).collect()
}

/// An open sequence and the number of its current item, from 1.
struct OpenSequence {
    tag: Tag,
    item: u32,
}

/// End of reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadUntil {
    /// Read the pixel data too. Elements after it are not needed.
    End,
    /// Stop before the pixel data.
    PixelData,
}

/// Reads the elements up to or including the pixel data.
fn elements(
    data_set: &[u8],
    syntax: &TransferSyntax,
    until: ReadUntil,
) -> Result<(Elements, Option<PixelData>), ImageError> {
    let corrupt = |error: &dyn std::fmt::Display| undecodable(format!("the DICOM elements are corrupt: {error}"));
    let data_set = &*with_defined_lengths(data_set, syntax);
    let elements_in =
        TransferSyntaxRegistry.get(syntax.element_syntax()).expect("dicom-rs knows the native transfer syntaxes");
    let mut reader = LazyDataSetReader::new_with_ts(Cursor::new(data_set), elements_in).map_err(|e| corrupt(&e))?;
    let (mut elements, mut open, mut fragments) = (Elements::new(), Vec::<OpenSequence>::new(), None::<Vec<u8>>);
    while let Some(token) = reader.advance() {
        match token.map_err(|e| corrupt(&e))? {
            LazyDataToken::PixelSequenceStart => {
                if open.is_empty() {
                    if until == ReadUntil::PixelData {
                        return Ok((elements, None));
                    }
                    fragments = Some(Vec::new());
                }
                open.push(OpenSequence { tag: tags::PIXEL_DATA, item: 0 });
            }
            LazyDataToken::SequenceStart { tag, .. } => open.push(OpenSequence { tag, item: 0 }),
            LazyDataToken::ItemStart { .. } => {
                let sequence = open.last_mut().ok_or_else(|| undecodable("an item is outside of any sequence"))?;
                sequence.item = sequence.item.saturating_add(1);
            }
            LazyDataToken::SequenceEnd => {
                open.pop();
                // Nothing after the pixel data is needed, and files are often truncated there.
                if let (true, Some(fragments)) = (open.is_empty(), fragments.take()) {
                    return Ok((elements, Some(PixelData::Encapsulated(fragments))));
                }
            }
            LazyDataToken::LazyValue { header, decoder } => {
                let (tag, length) = (header.tag, header.len.get().unwrap_or(0));
                if open.is_empty() && tag == tags::PIXEL_DATA {
                    if until == ReadUntil::PixelData {
                        return Ok((elements, None));
                    }
                    let bytes = value(decoder, length)?;
                    return Ok((
                        elements,
                        Some(PixelData::Native { bytes, words: header.vr == VR::OW || syntax.implicit }),
                    ));
                }
                match key(&open, tag) {
                    // Functional groups follow the elements of the top level, which take precedence.
                    Some(key) if length <= MAX_VALUE_LENGTH && (open.len() < 2 || !elements.contains_key(&key)) => {
                        elements.insert(key, value(decoder, length)?);
                    }
                    _ => decoder.skip_bytes(length).map_err(|e| corrupt(&e))?,
                }
            }
            LazyDataToken::LazyItemValue { len, decoder } => {
                let value = value(decoder, len)?;
                // The first item is the offset table. Pixel data of an icon is in a nested sequence.
                if let (Some(fragments), [OpenSequence { item: 2.., .. }]) = (&mut fragments, open.as_slice()) {
                    fragments.extend_from_slice(&value);
                }
            }
            _ => {}
        }
        if open.len() > MAX_DEPTH {
            return Err(undecodable(format!("sequences are nested more than {MAX_DEPTH} deep")));
        }
    }
    Ok((elements, None))
}

/// The key of an element; none if it is skipped.
fn key(open: &[OpenSequence], tag: Tag) -> Option<Key> {
    match open {
        [] => (TOP_LEVEL.contains(&tag) || IDENTIFYING.contains(&tag)).then_some((None, tag)),
        [OpenSequence { tag: sequence @ (tags::MODALITY_LUT_SEQUENCE | tags::VOILUT_SEQUENCE), item: 1 }] => {
            (tag == tags::LUT_DATA || tag == tags::LUT_DESCRIPTOR).then_some((Some(*sequence), tag))
        }
        // Enhanced images have the transformations of a frame in functional groups (PS3.3, C.7.6.16). There is one frame, so that they count
        // as elements of the top level.
        [OpenSequence { tag: groups, item: 1 }, OpenSequence { tag: sequence, item: 1 }]
            if FUNCTIONAL_GROUPS.contains(groups) =>
        {
            let read = match *sequence {
                tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE => &[tags::RESCALE_INTERCEPT, tags::RESCALE_SLOPE][..],
                tags::FRAME_VOILUT_SEQUENCE => &[tags::WINDOW_CENTER, tags::WINDOW_WIDTH, tags::VOILUT_FUNCTION],
                _ => &[],
            };
            read.contains(&tag).then_some((None, tag))
        }
        _ => None,
    }
}

/// Reads a value. Memory grows with the bytes present, not with the declared length.
fn value(decoder: &mut impl StatefulDecode, length: u32) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    decoder
        .read_to_vec(length, &mut bytes)
        .map_err(|error| undecodable(format!("cannot read a DICOM value: {error}")))?;
    if bytes.len() < length as usize {
        return Err(undecodable("the DICOM file is truncated"));
    }
    Ok(bytes)
}
