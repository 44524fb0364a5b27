//! File meta information, transfer syntax, and reading of files whose data set is encoded in another one (PS3.10, section 7; PS3.5, section 10 and annex A).

use std::io::Read;

use dicom_dictionary_std::uids;
use flate2::read::DeflateDecoder;

use super::undecodable;
use crate::imaging::{ImageError, Limits, damage::plain_reason};

const PREAMBLE: usize = 128;
const MAGIC: &[u8] = b"DICM";

/// Maximum size of the inflated elements other than pixel data, in bytes.
const MAX_HEADER_BYTES: u64 = 4 << 20;

/// Transfer syntax: encoding of elements and pixel data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TransferSyntax {
    /// Transfer Syntax UID as declared.
    pub(super) uid: String,
    /// Implicit VR.
    pub(super) implicit: bool,
    pub(super) big_endian: bool,
    /// True if the elements are encoded as declared.
    pub(super) as_declared: bool,
}

impl TransferSyntax {
    fn declared(uid: &str) -> Self {
        let implicit = uid == uids::IMPLICIT_VR_LITTLE_ENDIAN;
        Self { implicit, big_endian: uid == BIG_ENDIAN, uid: uid.to_owned(), as_declared: true }
    }

    /// The native transfer syntax with the same encoding of elements, whatever the encoding of the pixel data.
    pub(super) fn element_syntax(&self) -> &'static str {
        match (self.implicit, self.big_endian) {
            (true, _) => uids::IMPLICIT_VR_LITTLE_ENDIAN,
            (_, true) => BIG_ENDIAN,
            _ => uids::EXPLICIT_VR_LITTLE_ENDIAN,
        }
    }
}

/// Explicit VR Big Endian: retired, but still found in archives.
pub(super) const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// True if the bytes are a DICOM file: with preamble, without preamble, or a bare data set.
pub fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(PREAMBLE..).is_some_and(|rest| rest.starts_with(MAGIC))
        || bytes.starts_with(MAGIC)
        || meta_begins(bytes)
        || bare_syntax(bytes).is_some()
}

/// A file: the declared transfer syntax, and the bytes after the file meta information.
pub(super) struct DicomFile<'a> {
    uid: String,
    data_set: &'a [u8],
}

impl<'a> DicomFile<'a> {
    /// Parses the file meta information. A bare data set has none, and its encoding is guessed.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let start = match bytes.get(PREAMBLE..) {
            Some(rest) if rest.starts_with(MAGIC) => PREAMBLE + MAGIC.len(),
            _ if bytes.starts_with(MAGIC) => MAGIC.len(),
            _ => 0,
        };
        let rest = &bytes[start..];
        if meta_begins(rest) {
            let (uid, data_set) = parse_meta(rest)?;
            return Ok(Self { uid, data_set });
        }
        let uid = bare_syntax(rest).ok_or_else(|| undecodable("the DICOM file has no readable elements"))?;
        Ok(Self { uid: uid.to_owned(), data_set: rest })
    }

    /// Reads the data set in the declared encoding of elements; if that fails, in the others. Some programs change the encoding of a file
    /// and not its declaration, or the reverse.
    ///
    /// # Errors
    /// No encoding succeeds; the error is that of the declared one.
    pub(super) fn read<T>(
        &self,
        limits: &Limits,
        read: impl Fn(&[u8], &TransferSyntax) -> Result<T, ImageError>,
    ) -> Result<(T, TransferSyntax), ImageError> {
        let declared = TransferSyntax::declared(&self.uid);
        let deflated = self.uid == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN;
        let first = if deflated {
            inflate(self.data_set, limits).and_then(|data_set| read(&data_set, &declared))
        } else {
            read(self.data_set, &declared)
        };
        let refused = match first {
            Ok(value) => return Ok((value, declared)),
            Err(refused) => refused,
        };
        for (implicit, big_endian) in [(false, false), (true, false), (false, true)] {
            let other = TransferSyntax { implicit, big_endian, as_declared: false, ..declared.clone() };
            let is_new = deflated || other.element_syntax() != declared.element_syntax();
            if is_new && let Ok(value) = read(self.data_set, &other) {
                return Ok((value, other));
            }
        }
        if !deflated && let Ok(data_set) = inflate(self.data_set, limits) {
            let other = TransferSyntax { implicit: false, big_endian: false, as_declared: false, ..declared };
            if let Ok(value) = read(&data_set, &other) {
                return Ok((value, other));
            }
        }
        Err(refused)
    }
}

fn meta_begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&[2, 0]) && bytes.get(4..6).is_some_and(is_vr)
}

/// Guesses the transfer syntax of a bare data set, which begins with a plausible element of group 8.
fn bare_syntax(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes.first_chunk::<8>()?;
    let explicit = is_vr(&head[4..6]);
    match head[..4] {
        [8, 0, _, 0..0x30] if explicit => Some(uids::EXPLICIT_VR_LITTLE_ENDIAN),
        [0, 8, 0..0x30, _] if explicit => Some(BIG_ENDIAN),
        [8, 0, _, 0..0x30] => {
            let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
            // The first elements of group 8 are short strings.
            (length <= 256 && length as usize + 8 <= bytes.len()).then_some(uids::IMPLICIT_VR_LITTLE_ENDIAN)
        }
        _ => None,
    }
}

/// True if the two bytes can be a value representation (VR).
fn is_vr(letters: &[u8]) -> bool {
    letters.iter().all(u8::is_ascii_uppercase)
}

/// Parses the file meta information (group 2, always explicit little endian): the Transfer Syntax UID and the rest of the file.
fn parse_meta(bytes: &[u8]) -> Result<(String, &[u8]), ImageError> {
    let truncated = || undecodable("the DICOM file meta information is truncated");
    let (mut rest, mut uid) = (bytes, None);
    while meta_begins(rest) {
        let head = rest.first_chunk::<8>().ok_or_else(truncated)?;
        let (at, length) = match &head[4..6] {
            b"OB" | b"OW" | b"OF" | b"SQ" | b"UT" | b"UN" | b"UC" | b"UR" => {
                let length = rest.get(8..12).and_then(|length| length.try_into().ok()).ok_or_else(truncated)?;
                (12, u32::from_le_bytes(length) as usize)
            }
            _ => (8, u16::from_le_bytes([head[6], head[7]]).into()),
        };
        let value = rest[at..].get(..length).ok_or_else(truncated)?;
        if head[..4] == [2, 0, 0x10, 0] {
            uid = Some(String::from_utf8_lossy(value).trim_end_matches(['\0', ' ']).to_owned());
        }
        rest = &rest[at + length..];
    }
    Ok((uid.unwrap_or_else(|| uids::IMPLICIT_VR_LITTLE_ENDIAN.to_owned()), rest))
}

/// Inflates a data set, up to the size of the largest image within the limits (three samples of two bytes).
fn inflate(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let max_bytes = limits.max_pixels.saturating_mul(6).saturating_add(MAX_HEADER_BYTES);
    let mut data_set = Vec::new();
    let mut decoder = DeflateDecoder::new(bytes).take(max_bytes.saturating_add(1));
    decoder.read_to_end(&mut data_set).map_err(|error| undecodable(plain_reason("the deflated data set", &error)))?;
    if data_set.len() as u64 > max_bytes {
        return Err(undecodable(format!("the deflated data set inflates to more than {max_bytes} bytes")));
    }
    Ok(data_set)
}
