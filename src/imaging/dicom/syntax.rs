//! Where the data set of a file begins, and how it is written (PS3.10, section 7; PS3.5, section 10 and annex A).

use std::{borrow::Cow, io::Read};

use dicom_dictionary_std::uids;
use flate2::read::DeflateDecoder;

use super::undecodable;
use crate::imaging::{ImageError, Limits};

const PREAMBLE: usize = 128;
const MAGIC: &[u8] = b"DICM";

/// Room that a deflated data set may take beside its pixels, in bytes.
const HEADER_ROOM: u64 = 4 << 20;

/// How elements and pixels are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    /// Transfer Syntax UID.
    pub(super) uid: String,
    pub(super) implicit: bool,
    pub(super) big_endian: bool,
}

impl Syntax {
    fn new(uid: &str) -> Self {
        let implicit = uid == uids::IMPLICIT_VR_LITTLE_ENDIAN;
        Self { implicit, big_endian: uid == BIG_ENDIAN, uid: uid.to_owned() }
    }

    /// The syntax in which the elements are written, whatever the pixels are packed in.
    pub(super) fn of_elements(&self) -> &'static str {
        match (self.implicit, self.big_endian) {
            (true, _) => uids::IMPLICIT_VR_LITTLE_ENDIAN,
            (_, true) => BIG_ENDIAN,
            _ => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        }
    }
}

/// Explicit VR Big Endian: retired, and still in archives.
pub(super) const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// Whether the bytes begin as a DICOM file does: with the preamble, without, or with the data set itself.
pub fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(PREAMBLE..).is_some_and(|rest| rest.starts_with(MAGIC))
        || bytes.starts_with(MAGIC)
        || meta_begins(bytes)
        || bare_syntax(bytes).is_some()
}

/// The syntax and the data set, unpacked if it is deflated.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Syntax, Cow<'a, [u8]>), ImageError> {
    let start = match bytes.get(PREAMBLE..) {
        Some(rest) if rest.starts_with(MAGIC) => PREAMBLE + MAGIC.len(),
        _ if bytes.starts_with(MAGIC) => MAGIC.len(),
        _ => 0,
    };
    let rest = &bytes[start..];
    if !meta_begins(rest) {
        let uid = bare_syntax(rest).ok_or_else(|| undecodable("the DICOM file has no elements that can be read"))?;
        return Ok((Syntax::new(uid), rest.into()));
    }
    let (uid, data_set) = meta(rest)?;
    if uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        return Ok((Syntax::new(&uid), inflated(data_set, limits)?.into()));
    }
    Ok((Syntax::new(&uid), data_set.into()))
}

fn meta_begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&[2, 0]) && bytes.get(4..6).is_some_and(is_representation)
}

/// Of a data set without meta information: it begins with group 8, and its first element fits into the file.
fn bare_syntax(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes.first_chunk::<8>()?;
    let explicit = is_representation(&head[4..6]);
    match head[..4] {
        [8, 0, _, 0..0x30] if explicit => Some(uids::EXPLICIT_VR_LITTLE_ENDIAN),
        [0, 8, 0..0x30, _] if explicit => Some(BIG_ENDIAN),
        [8, 0, _, 0..0x30] => {
            let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
            // The first elements of group 8 are short texts.
            (length <= 256 && length as usize + 8 <= bytes.len()).then_some(uids::IMPLICIT_VR_LITTLE_ENDIAN)
        }
        _ => None,
    }
}

fn is_representation(letters: &[u8]) -> bool {
    letters.iter().all(u8::is_ascii_uppercase)
}

/// Walks group 2, which is always explicit and little endian: the Transfer Syntax UID, and what follows the group.
fn meta(bytes: &[u8]) -> Result<(String, &[u8]), ImageError> {
    let cut_off = || undecodable("the meta information of the DICOM file is cut off");
    let (mut rest, mut uid) = (bytes, None);
    while meta_begins(rest) {
        let head = rest.first_chunk::<8>().ok_or_else(cut_off)?;
        let (at, length) = match &head[4..6] {
            b"OB" | b"OW" | b"OF" | b"SQ" | b"UT" | b"UN" | b"UC" | b"UR" => {
                let length = rest.get(8..12).and_then(|length| length.try_into().ok()).ok_or_else(cut_off)?;
                (12, u32::from_le_bytes(length) as usize)
            }
            _ => (8, u16::from_le_bytes([head[6], head[7]]).into()),
        };
        let value = rest[at..].get(..length).ok_or_else(cut_off)?;
        if head[..4] == [2, 0, 0x10, 0] {
            uid = Some(String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned());
        }
        rest = &rest[at + length..];
    }
    Ok((uid.unwrap_or_else(|| uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned()), rest))
}

/// Never more than the largest image of the limits takes, which has three samples of two bytes.
fn inflated(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let most = limits.max_pixels.saturating_mul(6).saturating_add(HEADER_ROOM);
    let mut data_set = Vec::new();
    let mut decoder = DeflateDecoder::new(bytes).take(most.saturating_add(1));
    decoder.read_to_end(&mut data_set).map_err(|error| undecodable(format!("the deflated data set: {error}")))?;
    if data_set.len() as u64 > most {
        return Err(undecodable(format!("the deflated data set unpacks to more than {most} bytes")));
    }
    Ok(data_set)
}
