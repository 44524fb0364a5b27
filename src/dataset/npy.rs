//! NumPy's array files (NEP 1, format versions 1.0 to 3.0), little endian and in C order. Nothing in a file is trusted: its length must be
//! what the header promises before anything is read by it, and pickled objects are never looked at.

mod literal;

use std::io::Read;

/// Longest header that is read; NumPy itself takes none of more than 10,000 bytes without being asked to.
const LONGEST_HEADER: u32 = 10_000;
/// Most axes; an array of images has four.
const MOST_AXES: usize = 8;
/// Longest text of an element, in characters.
const LONGEST_TEXT: u32 = 255;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `float32`.
    Float32,
    /// `uint8` to `uint64`, by its bytes.
    Unsigned(u8),
    /// `int8` to `int64`, by its bytes.
    Signed(u8),
    /// `<U7`: text in so many characters of four bytes, filled up with zeros.
    Text(u32),
}

/// `uint8`.
pub const UINT8: Element = Element::Unsigned(1);
/// `int64`.
pub const INT64: Element = Element::Signed(8);

/// What stands before the elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of each element.
    pub element: Element,
    /// Length of each axis; empty for a single number.
    pub shape: Vec<u64>,
    /// Bytes before the first element.
    pub length: u64,
}

/// Why a file is no array that is read here.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// It does not begin as an array of NumPy does.
    #[error("not an array of NumPy: it does not begin with \\x93NUMPY and a version from 1 to 3")]
    NotNpy,
    /// The header cannot be read.
    #[error("the header is damaged: {0}")]
    Header(String),
    /// An array, and not one of those that are read.
    #[error("{0}")]
    Unsupported(String),
    /// Cut off, or longer than the header says.
    #[error("the file has {has} bytes where its header promises {promised}")]
    Length {
        /// Of the file.
        has: u64,
        /// Header and elements.
        promised: String,
    },
    /// The system failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes.into(),
            Self::Text(characters) => u64::from(characters) * 4,
        }
    }

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
        let unsupported = |what: &str| Err(NpyError::Unsupported(format!("elements of type {descr:?}: {what}")));
        let (order, kind, size) = match (descr.get(..1), descr.get(1..2), descr.get(2..)) {
            (Some(order), Some(kind), Some(size)) => (order, kind, size),
            _ => return unsupported("no type that is read here"),
        };
        if kind == "O" {
            return unsupported("pickled Python objects are never read");
        }
        if order == ">" {
            return unsupported("big endian; save it with `.astype(array.dtype.newbyteorder('<'))`");
        }
        let size: Option<u32> = if size.bytes().all(|byte| byte.is_ascii_digit()) { size.parse().ok() } else { None };
        match (kind, size) {
            ("f", Some(4)) => Ok(Self::Float32),
            ("u", Some(bytes @ (1 | 2 | 4 | 8))) => Ok(Self::Unsigned(bytes as u8)),
            ("i", Some(bytes @ (1 | 2 | 4 | 8))) => Ok(Self::Signed(bytes as u8)),
            ("U", Some(characters @ 1..=LONGEST_TEXT)) => Ok(Self::Text(characters)),
            _ => unsupported("read are float32, whole numbers of 1 to 8 bytes, and text of up to 255 characters"),
        }
    }
}

impl Header {
    /// Reads it from the beginning of a file of `file_length` bytes, which must be those that it promises.
    ///
    /// # Errors
    /// No such header; an array that is not read; a length that does not fit.
    pub fn read(mut from: impl Read, file_length: u64) -> Result<Self, NpyError> {
        let mut start = [0; 8];
        fill(&mut from, &mut start, NpyError::NotNpy)?;
        let cut_off = || NpyError::Header("the file ends within it".into());
        let (before, text_length) = match (start.strip_prefix(MAGIC), start[6]) {
            (Some(_), 1) => {
                let mut length = [0; 2];
                fill(&mut from, &mut length, cut_off())?;
                (10, u16::from_le_bytes(length).into())
            }
            (Some(_), 2 | 3) => {
                let mut length = [0; 4];
                fill(&mut from, &mut length, cut_off())?;
                (12, u32::from_le_bytes(length))
            }
            _ => return Err(NpyError::NotNpy),
        };
        if text_length > LONGEST_HEADER {
            return Err(NpyError::Header(format!("it has {text_length} bytes, at most {LONGEST_HEADER} are read")));
        }
        let mut text = vec![0; text_length as usize];
        fill(&mut from, &mut text, cut_off())?;
        let header = Self::parse(&text, before + u64::from(text_length))?;
        let promised = header.row_bytes(0).and_then(|bytes| bytes.checked_add(header.length));
        if promised != Some(file_length) {
            let promised = promised.map_or_else(|| "more than there can be".into(), |bytes| bytes.to_string());
            return Err(NpyError::Length { has: file_length, promised });
        }
        Ok(header)
    }

    /// Bytes of what is left when the first `axes` axes are fixed: 0 for the whole array, 1 for a row.
    pub fn row_bytes(&self, axes: usize) -> Option<u64> {
        let sides = self.shape.iter().skip(axes);
        sides.copied().try_fold(self.element.bytes(), u64::checked_mul)
    }

    fn parse(text: &[u8], length: u64) -> Result<Self, NpyError> {
        let text = std::str::from_utf8(text).map_err(|error| NpyError::Header(error.to_string()))?;
        let told = literal::read(text).map_err(NpyError::Header)?;
        let Some(descr) = told.descr else {
            return Err(NpyError::Unsupported("elements of several fields are not read".into()));
        };
        let element = Element::parse(&descr)?;
        if told.fortran_order && told.shape.len() > 1 {
            let how = "the array is in Fortran order; save it with `numpy.ascontiguousarray`";
            return Err(NpyError::Unsupported(how.into()));
        }
        Ok(Self { element, shape: told.shape, length })
    }
}

/// The bytes before the first element of an array of `shape`; their number is a multiple of 64, as the format asks.
pub fn header(element: Element, shape: &[u64]) -> Vec<u8> {
    let axes: String = shape.iter().map(|side| format!("{side}, ")).collect();
    // Python writes a tuple of one with its comma, a longer one without.
    let axes = if shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({axes}), }}", element.descr());
    const BEFORE_TEXT: usize = 10;
    let unpadded = BEFORE_TEXT + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a few axes of at most 20 digits are far below 65,536 bytes");
    [b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
}

/// Fills `bytes`; `cut_off` if the file ends before.
fn fill(from: &mut impl Read, bytes: &mut [u8], cut_off: NpyError) -> Result<(), NpyError> {
    match from.read_exact(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(cut_off),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
