//! NumPy array files (`.npy`, NEP 1, format versions 1.0 to 3.0), little endian and in C order. Files are untrusted: the file length must
//! match the header before any data is read, and pickled objects are rejected.

mod header_dict;

use std::io::Read;

/// Maximum length of the header in bytes, which is also NumPy's default limit.
const MAX_HEADER_BYTES: u32 = 10_000;
/// Maximum number of axes; an image array has four.
const MAX_AXES: usize = 8;
/// Maximum length of a text element, in characters.
const MAX_TEXT_CHARS: u32 = 255;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Element type (dtype).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `float32`.
    Float32,
    /// `uint8` to `uint64`, with the number of bytes.
    Unsigned(u8),
    /// `int8` to `int64`, with the number of bytes.
    Signed(u8),
    /// Fixed-length UTF-32 text such as `<U7`, padded with zeros, with the number of characters.
    Text(u32),
}

/// `uint8`.
pub const UINT8: Element = Element::Unsigned(1);
/// `int64`.
pub const INT64: Element = Element::Signed(8);

/// Header of an array file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub element: Element,
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<u64>,
    /// Length of the header in bytes: offset of the first element.
    pub length: u64,
}

/// Reason why a file is not a supported array.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// Not a NumPy array file.
    #[error("not a NumPy array: the file must begin with \\x93NUMPY and a version from 1 to 3")]
    NotNpy,
    /// The header is corrupt.
    #[error("corrupt header: {0}")]
    Header(String),
    /// The array has an unsupported type or layout.
    #[error("{0}")]
    Unsupported(String),
    /// The file length does not match the header.
    #[error("the file has {actual} bytes instead of {expected} by its header")]
    Length {
        /// Length of the file.
        actual: u64,
        /// Length of header and elements.
        expected: String,
    },
    /// I/O error.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Element {
    /// Size of an element in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes.into(),
            Self::Text(characters) => u64::from(characters) * 4,
        }
    }

    /// The `descr` entry of the header.
    fn descr(self) -> String {
        match self {
            Self::Float32 => "<f4".into(),
            Self::Unsigned(1) => "|u1".into(),
            Self::Signed(1) => "|i1".into(),
            Self::Unsigned(bytes) => format!("<u{bytes}"),
            Self::Signed(bytes) => format!("<i{bytes}"),
            Self::Text(characters) => format!("<U{characters}"),
        }
    }

    fn parse(descr: &str) -> Result<Self, NpyError> {
        let unsupported = |reason: &str| Err(NpyError::Unsupported(format!("element type {descr:?}: {reason}")));
        let (order, kind, size) = match (descr.get(..1), descr.get(1..2), descr.get(2..)) {
            (Some(order), Some(kind), Some(size)) => (order, kind, size),
            _ => return unsupported("unknown type"),
        };
        if kind == "O" {
            return unsupported("pickled Python objects are not supported");
        }
        if order == ">" {
            return unsupported(
                "big endian is not supported; convert it with `array.astype(array.dtype.newbyteorder('<'))`",
            );
        }
        let size: Option<u32> = if size.bytes().all(|byte| byte.is_ascii_digit()) { size.parse().ok() } else { None };
        match (kind, size) {
            ("f", Some(4)) => Ok(Self::Float32),
            ("u", Some(bytes @ (1 | 2 | 4 | 8))) => Ok(Self::Unsigned(bytes as u8)),
            ("i", Some(bytes @ (1 | 2 | 4 | 8))) => Ok(Self::Signed(bytes as u8)),
            ("U", Some(characters @ 1..=MAX_TEXT_CHARS)) => Ok(Self::Text(characters)),
            _ => unsupported("supported are float32, integers of 1 to 8 bytes, and text of up to 255 characters"),
        }
    }
}

impl Header {
    /// Reads the header at the start of a file of `file_length` bytes.
    ///
    /// # Errors
    /// The header is corrupt, the array type is not supported, or the file length does not match.
    pub fn read(mut from: impl Read, file_length: u64) -> Result<Self, NpyError> {
        let mut start = [0; 8];
        fill(&mut from, &mut start, NpyError::NotNpy)?;
        let truncated = || NpyError::Header("the file is truncated".into());
        let (prefix_length, text_length) = match (start.strip_prefix(MAGIC), start[6]) {
            (Some(_), 1) => {
                let mut length = [0; 2];
                fill(&mut from, &mut length, truncated())?;
                (10, u16::from_le_bytes(length).into())
            }
            (Some(_), 2 | 3) => {
                let mut length = [0; 4];
                fill(&mut from, &mut length, truncated())?;
                (12, u32::from_le_bytes(length))
            }
            _ => return Err(NpyError::NotNpy),
        };
        if text_length > MAX_HEADER_BYTES {
            return Err(NpyError::Header(format!(
                "its length must be at most {MAX_HEADER_BYTES} bytes (got {text_length})"
            )));
        }
        let mut text = vec![0; text_length as usize];
        fill(&mut from, &mut text, truncated())?;
        let header = Self::parse(&text, prefix_length + u64::from(text_length))?;
        let expected = header.row_bytes(0).and_then(|bytes| bytes.checked_add(header.length));
        if expected != Some(file_length) {
            let expected = expected.map_or_else(|| "more than 2^64".into(), |bytes| bytes.to_string());
            return Err(NpyError::Length { actual: file_length, expected });
        }
        Ok(header)
    }

    /// Size in bytes of a subarray with the first `axes` indices fixed: 0 for the whole array, 1 for a row. None on overflow.
    pub fn row_bytes(&self, axes: usize) -> Option<u64> {
        let sides = self.shape.iter().skip(axes);
        sides.copied().try_fold(self.element.bytes(), u64::checked_mul)
    }

    fn parse(text: &[u8], length: u64) -> Result<Self, NpyError> {
        let text = std::str::from_utf8(text).map_err(|error| NpyError::Header(error.to_string()))?;
        let dict = header_dict::parse(text).map_err(NpyError::Header)?;
        let Some(descr) = dict.descr else {
            return Err(NpyError::Unsupported("structured arrays (several fields) are not supported".into()));
        };
        let element = Element::parse(&descr)?;
        if dict.fortran_order && dict.shape.len() > 1 {
            let reason = "Fortran order is not supported; convert the array with `numpy.ascontiguousarray`";
            return Err(NpyError::Unsupported(reason.into()));
        }
        Ok(Self { element, shape: dict.shape, length })
    }
}

/// The header bytes of an array of `shape`. Their length is a multiple of 64, as the format requires.
pub fn header(element: Element, shape: &[u64]) -> Vec<u8> {
    let axes: String = shape.iter().map(|side| format!("{side}, ")).collect();
    // A Python tuple with one element has a trailing comma; longer ones have none.
    let axes = if shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({axes}), }}", element.descr());
    const PREFIX_LENGTH: usize = 10;
    let unpadded = PREFIX_LENGTH + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a few axes of at most 20 digits take less than 65,536 bytes");
    [b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
}

/// Fills `bytes`, or returns `truncated` at the end of the file.
fn fill(from: &mut impl Read, bytes: &mut [u8], truncated: NpyError) -> Result<(), NpyError> {
    match from.read_exact(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(truncated),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
