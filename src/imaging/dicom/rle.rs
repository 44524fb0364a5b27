//! RLE Lossless decoder (PS3.5, annex G): a header of 64 bytes and one PackBits segment per byte plane.

use super::undecodable;
use crate::imaging::ImageError;

/// Length of the header in bytes.
const HEADER: usize = 64;

/// Decodes `pixels` pixels to little-endian bytes with interleaved samples, as in native pixel data.
pub(super) fn decode(packed: &[u8], pixels: usize, samples: usize, bytes: usize) -> Result<Vec<u8>, ImageError> {
    let header = packed.first_chunk::<HEADER>().ok_or_else(|| undecodable("the RLE header is truncated"))?;
    let numbers: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number) as usize).collect();
    let segments = samples * bytes;
    if numbers[0] != segments || segments > 15 {
        return Err(undecodable(format!("the RLE header announces {} segments instead of {segments}", numbers[0])));
    }
    let mut image = vec![0; pixels * segments];
    for segment in 0..segments {
        let start = numbers[1 + segment];
        let end = if segment + 1 < segments { numbers[2 + segment] } else { packed.len() };
        let packed = packed.get(start..end).ok_or_else(|| undecodable("an RLE segment is outside of the data"))?;
        // The segment of the most significant byte of a sample comes first.
        let (sample, byte) = (segment / bytes, bytes - 1 - segment % bytes);
        let plane = image.iter_mut().skip(sample * bytes + byte).step_by(segments);
        unpack(packed, plane)?;
    }
    Ok(image)
}

/// Decodes a PackBits segment into a plane. Bytes of the segment after the plane is full are padding.
fn unpack<'a>(packed: &[u8], mut plane: impl ExactSizeIterator<Item = &'a mut u8>) -> Result<(), ImageError> {
    let truncated = || undecodable("an RLE segment is truncated");
    let mut rest = packed;
    while plane.len() > 0 {
        let (&head, after) = rest.split_first().ok_or_else(truncated)?;
        rest = match head {
            0..=127 => {
                let (literal, after) = after.split_at_checked(usize::from(head) + 1).ok_or_else(truncated)?;
                plane.by_ref().zip(literal).for_each(|(target, byte)| *target = *byte);
                after
            }
            128 => after,
            _ => {
                let (&byte, after) = after.split_first().ok_or_else(truncated)?;
                plane.by_ref().take(257 - usize::from(head)).for_each(|target| *target = byte);
                after
            }
        };
    }
    Ok(())
}
