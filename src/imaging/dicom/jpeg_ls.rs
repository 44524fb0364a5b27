//! JPEG-LS of one component, lossless and near-lossless (ITU-T T.87). Names as in the standard, spelled out.

mod bits;
mod context;
mod scan;

use super::undecodable;
use crate::imaging::ImageError;

/// What the headers say of the one scan.
#[derive(Clone, Copy, Debug)]
struct Coding {
    width: usize,
    height: usize,
    /// Largest sample.
    max: i32,
    /// Allowed difference from the original.
    near: i32,
    /// Thresholds of the gradients.
    thresholds: [i32; 3],
    /// Count at which a context halves its sums.
    reset: i32,
}

/// The samples, row by row. `width` and `height` are what the caller has checked and taken memory for.
pub(super) fn decode(bytes: &[u8], width: usize, height: usize) -> Result<Vec<u16>, ImageError> {
    let (coding, scan) = headers(bytes)?;
    if (coding.width, coding.height) != (width, height) {
        let Coding { width: columns, height: rows, .. } = coding;
        return Err(undecodable(format!("the JPEG-LS has {columns} x {rows} pixels, its DICOM {width} x {height}")));
    }
    scan::decode(&coding, scan)
}

/// Walks the marker segments to the scan's data.
fn headers(bytes: &[u8]) -> Result<(Coding, &[u8]), ImageError> {
    let cut_off = || undecodable("the JPEG-LS header is cut off");
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8]).ok_or_else(|| undecodable("not a JPEG-LS stream"))?;
    let (mut frame, mut preset) = (None, [0; 5]);
    loop {
        let &[0xff, marker, high, low, ..] = rest else { return Err(cut_off()) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest[2..].get(2..length).ok_or_else(cut_off)?;
        rest = &rest[2 + length..];
        match (marker, segment) {
            (0xf7, &[bits @ 2..=16, y1, y0, x1, x0, 1, ..]) => {
                let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
                frame = Some((i32::from(bits), size(x1, x0), size(y1, y0)));
            }
            (0xf7, _) => return Err(undecodable("JPEG-LS of several components is not read")),
            (0xf8, &[1, ref words @ ..]) if words.len() >= 10 => {
                for (place, pair) in preset.iter_mut().zip(words.as_chunks::<2>().0) {
                    *place = i32::from(u16::from_be_bytes(*pair));
                }
            }
            (0xf8, _) => return Err(undecodable("a JPEG-LS extension that is not read")),
            (0xdd, _) => return Err(undecodable("JPEG-LS with restart markers is not read")),
            (0xda, &[1, _, 0, near, _, 0]) => {
                let (bits, width, height) = frame.ok_or_else(cut_off)?;
                return Ok((Coding::new(bits, width, height, near.into(), preset)?, rest));
            }
            (0xda, _) => return Err(undecodable("a JPEG-LS scan of a kind that is not read")),
            _ => {}
        }
    }
}

impl Coding {
    /// Presets that are 0 stand for the defaults of annex C.2.4.1.1.
    fn new(bits: i32, width: usize, height: usize, near: i32, preset: [i32; 5]) -> Result<Self, ImageError> {
        let [max, t1, t2, t3, reset] = preset;
        let largest = (1 << bits) - 1;
        let max = if max == 0 { largest } else { max };
        if max > largest || near > 255.min(max / 2) {
            return Err(undecodable("JPEG-LS parameters that contradict each other"));
        }
        let default = default_thresholds(max, near);
        let pick = |given: i32, default: i32| if given == 0 { default } else { given };
        let thresholds = [pick(t1, default[0]), pick(t2, default[1]), pick(t3, default[2])];
        Ok(Self { width, height, max, near, thresholds, reset: pick(reset, 64).max(3) })
    }

    /// Number of values that an error can take.
    fn range(&self) -> i32 {
        (self.max + 2 * self.near) / (2 * self.near + 1) + 1
    }
}

fn default_thresholds(max: i32, near: i32) -> [i32; 3] {
    let clamp = |value: i32, low: i32| if value > max || value < low { low } else { value };
    let [first, second, third] = if max >= 128 {
        let factor = (max.min(4095) + 128) / 256;
        [factor + 2 + 3 * near, factor * 4 + 3 + 5 * near, factor * 17 + 4 + 7 * near]
    } else {
        let factor = 256 / (max + 1);
        [(3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4)]
    };
    let first = clamp(first, near + 1);
    let second = clamp(second, first);
    [first, second, clamp(third, second)]
}
