//! Metadata removal from PNG and JPEG: keeps only the parts needed for decoding (an allow-list). Texts, EXIF, colour profiles, thumbnails
//! and data after the end may identify a patient. Nothing is re-encoded, so that pixels are unchanged; an EXIF orientation is kept.

use image::metadata::Orientation;

use super::{
    ImageError,
    jpeg::{Stream, next_marker},
    png, undecodable,
};

/// Chunks that are kept.
const ALLOWED_CHUNKS: [&[u8; 4]; 4] = [b"IHDR", b"PLTE", b"tRNS", b"IDAT"];

/// The PNG with only the allowed chunks, its orientation, and the mark of a synthetic phantom.
pub(super) fn png_file(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let orientation = exif(png::orientation(bytes)?);
    let mut stripped = png::SIGNATURE.to_vec();
    for chunk in png::chunks(bytes).take_while(|chunk| chunk.kind != *b"IEND") {
        if ALLOWED_CHUNKS.contains(&&chunk.kind) || chunk.is_phantom_mark() {
            stripped.extend_from_slice(chunk.whole);
        }
        if let (b"IHDR", Some(exif)) = (&chunk.kind, &orientation) {
            stripped.extend(png::chunk(b"eXIf", exif));
        }
    }
    stripped.extend(png::chunk(b"IEND", &[]));
    Ok(stripped)
}

/// The JPEG with only its tables, frames, scans, orientation, JFIF header and Adobe segment (which defines the colour space).
///
/// # Errors
/// The segments cannot be parsed, or an application or comment segment follows the start of a scan: a decoder may read it as scan data,
/// and would decode a different image without it.
pub(super) fn jpeg_file(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let cut_off = || undecodable("the JPEG is truncated: it has no end marker");
    let orientation = exif(Stream::parse(bytes).orientation.unwrap_or(Orientation::NoTransforms));
    let mut rest = bytes.get(2..).ok_or_else(cut_off)?;
    let mut stripped = vec![0xff, 0xd8];
    if let Some(exif) = &orientation {
        stripped.extend(jpeg_segment(0xe1, &[b"Exif\0\0", &exif[..]].concat()));
    }
    let mut in_scans = false;
    loop {
        // Bytes before the marker: none between segments, the entropy-coded data after a scan header.
        let at = next_marker(rest).ok_or_else(cut_off)?;
        let (data, from) = rest.split_at(at);
        if !in_scans && data.iter().any(|byte| *byte != 0xff) {
            return Err(undecodable("the JPEG has data outside of segments before its first scan"));
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
        in_scans |= marker == 0xda;
        match marker {
            0xe0..=0xef | 0xfe if in_scans => {
                return Err(undecodable("the JPEG has an application or comment segment after the start of a scan"));
            }
            // Version and density, followed by a thumbnail size of 0 x 0.
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

/// TIFF data with only the orientation tag; none if the orientation is the default.
fn exif(orientation: Orientation) -> Option<[u8; 26]> {
    if orientation == Orientation::NoTransforms {
        return None;
    }
    let mut exif = *b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x00\0\0\0\0\0\0";
    exif[19] = orientation.to_exif();
    Some(exif)
}

fn jpeg_segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&[0xff, marker], &length[..], content].concat()
}

#[cfg(test)]
mod tests {
    use jpeg_encoder::{ColorType, Encoder};

    use super::*;
    use crate::imaging::{GreyImage, Limits, decode, encode_png};

    fn decoded(bytes: &[u8]) -> GreyImage {
        decode(bytes, &Limits { max_pixels: 1 << 20 }).unwrap().1
    }

    fn holds(bytes: &[u8], text: &[u8]) -> bool {
        bytes.windows(text.len()).any(|window| window == text)
    }

    /// An EXIF block with orientation 6, followed by identifying text.
    fn exif_with_name() -> Vec<u8> {
        let directory = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        [&directory[..], b"Jane Doe"].concat()
    }

    #[test]
    fn stripping_a_jpeg_removes_texts_and_keeps_the_orientation() {
        let pixels: Vec<u8> = (0..40 * 60).map(|at| (at / 20) as u8).collect();
        let mut plain = Vec::new();
        Encoder::new(&mut plain, 90).encode(&pixels, 40, 60, ColorType::Luma).unwrap();
        let exif = jpeg_segment(0xe1, &[&b"Exif\0\0"[..], &exif_with_name()].concat());
        let named = [&plain[..2], &exif, &jpeg_segment(0xfe, b"Jane Doe"), &plain[2..], b"Jane Doe"].concat();
        let stripped = jpeg_file(&named).unwrap();
        assert!(!holds(&stripped, b"Jane"));
        assert_eq!(decoded(&stripped).width, 60, "rotated");
        assert_eq!(decoded(&stripped), decoded(&named));
        assert!(!holds(&jpeg_file(&plain).unwrap(), b"Exif"));
    }

    #[test]
    fn stripping_a_png_removes_texts_and_keeps_the_orientation() {
        let plain =
            encode_png(&GreyImage { width: 40, height: 60, pixels: (0..2400).map(|at| (at / 20) as u8).collect() });
        let chunks = [png::chunk(b"eXIf", &exif_with_name()), png::chunk(b"tEXt", b"Author\0Jane Doe")].concat();
        let named = [&plain[..33], &chunks, &plain[33..], b"Jane Doe"].concat();
        let stripped = png_file(&named).unwrap();
        assert!(!holds(&stripped, b"Jane"));
        assert_eq!(decoded(&stripped).width, 60, "rotated");
        assert_eq!(decoded(&stripped), decoded(&named));
        assert_eq!(png_file(&plain).unwrap(), plain, "unchanged");
    }

    /// Found by fuzzing: a segment within scan data, and a segment that extends beyond the end of the file.
    #[test]
    fn a_jpeg_with_segments_in_its_scan_is_stored_as_its_decoded_pixels() {
        let pixels: Vec<u8> = (0..64 * 64).map(|at| (at * 7 % 251) as u8).collect();
        let mut plain = Vec::new();
        Encoder::new(&mut plain, 75).encode(&pixels, 64, 64, ColorType::Luma).unwrap();
        let scan = plain.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        for segment in [&[0xff, 0xe4, 0x00, 0x06, 1, 2, 3, 4][..], &[0xff, 0xfe, 0x00, 0x02], &[0xff, 0x81, 0xf0, 0x00]]
        {
            let mut damaged = plain.clone();
            let middle = (scan + plain.len()) / 2;
            damaged.splice(middle..middle, segment.iter().copied());
            let limits = Limits { max_pixels: 1 << 20 };
            let Ok(examined) = crate::imaging::examine(&damaged, &limits) else { continue };
            let (_, stored) = examined.deidentified(&damaged).unwrap();
            assert_eq!(decoded(&stored), examined.image, "{segment:x?}");
        }
        // Stray bytes after a segment that is removed.
        let mut between = plain.clone();
        between.splice(2..2, [0xff, 0xe5, 0x00, 0x04, 1, 2, 0x33, 0x00]);
        if let Ok(examined) = crate::imaging::examine(&between, &Limits { max_pixels: 1 << 20 }) {
            assert_eq!(decoded(&examined.deidentified(&between).unwrap().1), examined.image);
        }
        assert!(jpeg_file(&between).is_err());
        let mut within = plain.clone();
        within.splice(scan + 40..scan + 40, [0xff, 0xe4, 0x00, 0x04, 1, 2]);
        assert!(jpeg_file(&within).is_err() && jpeg_file(&plain).is_ok());
    }
}
