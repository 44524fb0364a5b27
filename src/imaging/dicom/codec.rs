//! Encoding of the pixel data: declared by the transfer syntax, and detected from the data.

use dicom_dictionary_std::uids;

use super::{header::PixelData, syntax::BIG_ENDIAN};
use crate::imaging::jpeg::Stream;

/// Encoding of the pixel data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Native,
    Rle,
    Jpeg,
    JpegLs,
    Jpeg2000,
}

/// First bytes of a JPEG 2000 codestream: SOC and SIZ.
pub(super) const CODESTREAM: &[u8] = &[0xff, 0x4f, 0xff, 0x51];
/// First bytes of a JP2 file, whose boxes contain a codestream.
const JP2: &[u8] = b"\0\0\0\x0cjP  ";

/// Length of the header of an RLE frame, which is the offset of its first segment.
const RLE_HEADER: u32 = 64;

impl Codec {
    /// The codec of a transfer syntax; none if it is not supported.
    pub(super) fn declared(uid: &str) -> Option<Self> {
        match uid {
            uids::IMPLICIT_VR_LITTLE_ENDIAN
            | uids::EXPLICIT_VR_LITTLE_ENDIAN
            | uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
            | BIG_ENDIAN => Some(Self::Native),
            uids::RLE_LOSSLESS => Some(Self::Rle),
            uids::JPEG_BASELINE8_BIT | uids::JPEG_EXTENDED12_BIT | uids::JPEG_LOSSLESS | uids::JPEG_LOSSLESS_SV1 => {
                Some(Self::Jpeg)
            }
            uids::JPEGLS_LOSSLESS | uids::JPEGLS_NEAR_LOSSLESS => Some(Self::JpegLs),
            uids::JPEG2000_LOSSLESS | uids::JPEG2000 => Some(Self::Jpeg2000),
            _ => None,
        }
    }

    /// The codec by the first bytes of the pixel data; none if they are of no supported codec.
    pub(super) fn detected(pixels: &PixelData) -> Option<Self> {
        let data = match pixels {
            PixelData::Native { .. } => return Some(Self::Native),
            PixelData::Encapsulated(data) => data,
        };
        if data.starts_with(CODESTREAM) || data.starts_with(JP2) {
            return Some(Self::Jpeg2000);
        }
        if data.starts_with(&[0xff, 0xd8, 0xff]) {
            let is_jpeg_ls = Stream::parse(data).frame.is_some_and(|frame| frame.code == 0xf7);
            return Some(if is_jpeg_ls { Self::JpegLs } else { Self::Jpeg });
        }
        let word = |at: usize| data.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        matches!((word(0), word(4)), (Some(1..=15), Some(RLE_HEADER))).then_some(Self::Rle)
    }
}
