//! RLE Lossless (PS3.5, annex G): a header of 64 bytes, and a PackBits segment for each byte of each sample.

use super::undecodable;
use crate::imaging::ImageError;

const HEADER: usize = 64;

/// The bytes of `pixels` pixels as the plain little-endian syntaxes have them, samples interleaved.
pub(super) fn decode(packed: &[u8], pixels: usize, samples: usize, bytes: usize) -> Result<Vec<u8>, ImageError> {
    let header = packed.first_chunk::<HEADER>().ok_or_else(|| undecodable("the RLE header is cut off"))?;
    let numbers: Vec<usize> =
        header.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number) as usize).collect();
    let segments = samples * bytes;
    if numbers[0] != segments || segments > 15 {
        return Err(undecodable(format!("{} RLE segments where {segments} are needed", numbers[0])));
    }
    let mut image = vec![0; pixels * segments];
    for segment in 0..segments {
        let start = numbers[1 + segment];
        let end = if segment + 1 < segments { numbers[2 + segment] } else { packed.len() };
        let packed = packed.get(start..end).ok_or_else(|| undecodable("an RLE segment lies outside the data"))?;
        // Segments have the most significant byte of a sample first.
        let (sample, byte) = (segment / bytes, bytes - 1 - segment % bytes);
        let place = image.iter_mut().skip(sample * bytes + byte).step_by(segments);
        unpack(packed, place)?;
    }
    Ok(image)
}

/// Fills the whole plane; what the segment has beyond it is padding.
fn unpack<'a>(packed: &[u8], mut plane: impl ExactSizeIterator<Item = &'a mut u8>) -> Result<(), ImageError> {
    let cut_off = || undecodable("an RLE segment is cut off");
    let mut rest = packed;
    while plane.len() > 0 {
        let (&head, after) = rest.split_first().ok_or_else(cut_off)?;
        rest = match head {
            0..=127 => {
                let (literal, after) = after.split_at_checked(usize::from(head) + 1).ok_or_else(cut_off)?;
                plane.by_ref().zip(literal).for_each(|(place, byte)| *place = *byte);
                after
            }
            128 => after,
            _ => {
                let (&byte, after) = after.split_first().ok_or_else(cut_off)?;
                plane.by_ref().take(257 - usize::from(head)).for_each(|place| *place = byte);
                after
            }
        };
    }
    Ok(())
}
