//! PNG and JPEG without what is not needed to decode them: text, EXIF, profiles, thumbnails and what follows the end may name a patient.
//! Nothing is encoded anew, so pixels stay as they are; an EXIF orientation stays, alone.

use image::{
    ImageDecoder,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
    metadata::Orientation,
};

use super::{
    ImageError,
    container::{METADATA_BYTES, PNG_SIGNATURE},
    undecodable,
};

/// The chunks that a decoder needs.
const NEEDED: [&[u8; 4]; 4] = [b"IHDR", b"PLTE", b"tRNS", b"IDAT"];

/// A PNG with the needed chunks alone.
pub(super) fn png(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(METADATA_BYTES);
    let decoder = PngDecoder::with_limits(std::io::Cursor::new(bytes), bounds).map_err(undecodable)?;
    let orientation = exif(decoder)?;
    let mut rest = bytes.get(PNG_SIGNATURE.len()..).unwrap_or_default();
    let mut stripped = PNG_SIGNATURE.to_vec();
    while let Some(head) = rest.first_chunk::<8>() {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((chunk, after)) = length.checked_add(12).and_then(|length| rest.split_at_checked(length)) else {
            break;
        };
        let kind = &chunk[4..8];
        if kind == b"IEND" {
            break;
        }
        if NEEDED.iter().any(|needed| kind == &needed[..]) {
            stripped.extend_from_slice(chunk);
        }
        if let (b"IHDR", Some(exif)) = (kind, &orientation) {
            stripped.extend(png_chunk(b"eXIf", exif));
        }
        rest = after;
    }
    stripped.extend(png_chunk(b"IEND", &[]));
    Ok(stripped)
}

/// A JPEG with tables, frames and scans, the head of its JFIF segment, and Adobe's, which says what its colours are.
///
/// # Errors
/// When its parts cannot be told from each other, or something would have to be taken out behind the beginning of a scan: a decoder may
/// take what looks like a segment there for the scan's data, and see another image without it.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let cut_off = || undecodable("the JPEG is cut off before its end marker");
    let orientation = exif(JpegDecoder::new(std::io::Cursor::new(bytes)).map_err(undecodable)?)?;
    let mut rest = bytes.get(2..).ok_or_else(cut_off)?;
    let mut stripped = vec![0xff, 0xd8];
    if let Some(exif) = &orientation {
        stripped.extend(jpeg_segment(0xe1, &[b"Exif\0\0", &exif[..]].concat()));
    }
    let mut scanned = false;
    loop {
        // Between two segments; after a scan its data ends where a marker stands.
        let at = next_marker(rest).ok_or_else(cut_off)?;
        let (data, from) = rest.split_at(at);
        if !scanned && data.iter().any(|byte| *byte != 0xff) {
            return Err(undecodable("something that is no segment stands before the JPEG's scans"));
        }
        stripped.extend_from_slice(data);
        let marker = from[1];
        if marker == 0xd9 {
            stripped.extend_from_slice(&[0xff, 0xd9]);
            return Ok(stripped);
        }
        if matches!(marker, 0xd0..=0xd8 | 0x01) {
            stripped.extend_from_slice(&from[..2]);
            rest = &from[2..];
            continue;
        }
        let length = from.get(2..4).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
        let (segment, after) = length.and_then(|length| from.split_at_checked(2 + length)).ok_or_else(cut_off)?;
        let content = segment.get(4..).ok_or_else(cut_off)?;
        scanned |= marker == 0xda;
        match marker {
            0xe0..=0xef | 0xfe if scanned => return Err(undecodable("a segment stands within the JPEG's scans")),
            // Density and version; a thumbnail of 0 x 0 pixels.
            0xe0 if content.starts_with(b"JFIF\0") && content.len() >= 14 => {
                stripped.extend(jpeg_segment(0xe0, &[&content[..12], &[0, 0]].concat()));
            }
            0xee if content.starts_with(b"Adobe") && content.len() >= 12 => {
                stripped.extend(jpeg_segment(0xee, &content[..12]));
            }
            0xe0..=0xef | 0xfe => {}
            _ => stripped.extend_from_slice(segment),
        }
        rest = after;
    }
}

/// Where the next marker stands that is neither a stuffed byte of ones nor filling.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair[0] == 0xff && pair[1] != 0x00 && pair[1] != 0xff)
}

/// TIFF data of the orientation alone, if there is one that changes the image.
fn exif(mut decoder: impl ImageDecoder) -> Result<Option<[u8; 26]>, ImageError> {
    let orientation = decoder.orientation().map_err(undecodable)?;
    if orientation == Orientation::NoTransforms {
        return Ok(None);
    }
    let mut exif = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x00\0\0\0\0\0\0";
    exif[19] = orientation.to_exif();
    Ok(Some(exif))
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(kind);
    checksum.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &checksum.finalize().to_be_bytes()].concat()
}

fn jpeg_segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&[0xff, marker], &length[..], content].concat()
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

    use super::*;
    use crate::imaging::{GreyImage, Limits, decode, encode_png};

    fn decoded(bytes: &[u8]) -> GreyImage {
        decode(bytes, &Limits { max_pixels: 1 << 20 }).unwrap().1
    }

    fn holds(bytes: &[u8], text: &[u8]) -> bool {
        bytes.windows(text.len()).any(|window| window == text)
    }

    /// The orientation 6, and after it what an EXIF block may say besides.
    fn exif_with_name() -> Vec<u8> {
        let directory = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        [&directory[..], b"Jane Doe"].concat()
    }

    #[test]
    fn a_jpeg_loses_names_and_keeps_its_orientation() {
        let pixels: Vec<u8> = (0..40 * 60).map(|at| (at / 20) as u8).collect();
        let mut plain = Vec::new();
        JpegEncoder::new_with_quality(&mut plain, 90).encode(&pixels, 40, 60, ExtendedColorType::L8).unwrap();
        let exif = jpeg_segment(0xe1, &[&b"Exif\0\0"[..], &exif_with_name()].concat());
        let named = [&plain[..2], &exif, &jpeg_segment(0xfe, b"Jane Doe"), &plain[2..], b"Jane Doe"].concat();
        let stripped = jpeg(&named).unwrap();
        assert!(!holds(&stripped, b"Jane"));
        assert_eq!(decoded(&stripped).width, 60, "it is turned");
        assert_eq!(decoded(&stripped), decoded(&named));
        assert!(!holds(&jpeg(&plain).unwrap(), b"Exif"));
    }

    #[test]
    fn a_png_loses_names_and_keeps_its_orientation() {
        let plain =
            encode_png(&GreyImage { width: 40, height: 60, pixels: (0..2400).map(|at| (at / 20) as u8).collect() });
        let chunks = [png_chunk(b"eXIf", &exif_with_name()), png_chunk(b"tEXt", b"Author\0Jane Doe")].concat();
        let named = [&plain[..33], &chunks, &plain[33..], b"Jane Doe"].concat();
        let stripped = png(&named).unwrap();
        assert!(!holds(&stripped, b"Jane"));
        assert_eq!(decoded(&stripped).width, 60, "it is turned");
        assert_eq!(decoded(&stripped), decoded(&named));
        assert_eq!(png(&plain).unwrap(), plain, "nothing to take out");
    }

    /// Found by fuzzing: what looks like a segment within a scan, and one that reaches beyond the end.
    #[test]
    fn a_jpeg_that_is_damaged_within_its_scan_is_stored_as_what_is_decoded_of_it() {
        let pixels: Vec<u8> = (0..64 * 64).map(|at| (at * 7 % 251) as u8).collect();
        let mut plain = Vec::new();
        JpegEncoder::new(&mut plain).encode(&pixels, 64, 64, ExtendedColorType::L8).unwrap();
        let scan = plain.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for segment in [&[0xff, 0xe4, 0x00, 0x06, 1, 2, 3, 4][..], &[0xff, 0xfe, 0x00, 0x02], &[0xff, 0x81, 0xf0, 0x00]]
        {
            let mut damaged = plain.clone();
            let middle = (scan + plain.len()) / 2;
            damaged.splice(middle..middle, segment.iter().copied());
            let limits = Limits { max_pixels: 1 << 20 };
            let Ok(examined) = crate::imaging::examine(&damaged, &limits) else { continue };
            let (_, stored) = examined.storable(&damaged).unwrap();
            assert_eq!(decoded(&stored), examined.image, "{segment:x?}");
        }
        // And what is no segment, behind one that goes.
        let mut between = plain.clone();
        between.splice(2..2, [0xff, 0xe5, 0x00, 0x04, 1, 2, 0x33, 0x00]);
        if let Ok(examined) = crate::imaging::examine(&between, &Limits { max_pixels: 1 << 20 }) {
            assert_eq!(decoded(&examined.storable(&between).unwrap().1), examined.image);
        }
        assert!(jpeg(&between).is_err());
        let mut within = plain.clone();
        within.splice(scan + 40..scan + 40, [0xff, 0xe4, 0x00, 0x04, 1, 2]);
        assert!(jpeg(&within).is_err() && jpeg(&plain).is_ok());
    }
}
