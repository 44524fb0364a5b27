//! JPEG-LS decoder for one component, lossless and near-lossless (ITU-T T.87).

mod bits;
mod context;
mod scan;

use super::undecodable;
use crate::imaging::ImageError;

/// Parameters of the scan.
#[derive(Clone, Copy, Debug)]
struct Parameters {
    width: usize,
    height: usize,
    /// Bits per sample.
    precision: u16,
    /// MAXVAL: maximum sample value.
    max: i32,
    /// NEAR: maximum difference from the original; 0 is lossless.
    near: i32,
    /// T1, T2, T3: quantisation thresholds of the gradients.
    thresholds: [i32; 3],
    /// RESET: count at which a context halves its statistics.
    reset: i32,
}

/// Decodes the samples in row-major order, and returns them with the bits per sample. `width` and `height` are the size that the caller
/// checked against the limits.
pub(super) fn decode(bytes: &[u8], width: usize, height: usize) -> Result<(Vec<u16>, u16), ImageError> {
    let (parameters, scan) = headers(bytes)?;
    if (parameters.width, parameters.height) != (width, height) {
        let Parameters { width: columns, height: rows, .. } = parameters;
        return Err(undecodable(format!(
            "the embedded JPEG-LS has {columns} x {rows} pixels, but the DICOM header announces {width} x {height}"
        )));
    }
    Ok((scan::decode(&parameters, scan)?, parameters.precision))
}

/// Parses the marker segments up to the data of the scan.
fn headers(bytes: &[u8]) -> Result<(Parameters, &[u8]), ImageError> {
    let truncated = || undecodable("the JPEG-LS header is truncated");
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8]).ok_or_else(|| undecodable("not a JPEG-LS stream"))?;
    let (mut frame, mut preset) = (None, [0; 5]);
    loop {
        // Any number of fill bytes may precede a marker (ITU-T T.81, B.1.1.2).
        while rest.starts_with(&[0xff, 0xff]) {
            rest = &rest[1..];
        }
        let &[0xff, marker, high, low, ..] = rest else { return Err(truncated()) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = rest[2..].get(2..length).ok_or_else(truncated)?;
        rest = &rest[2 + length..];
        match (marker, segment) {
            (0xf7, &[bits @ 2..=16, y1, y0, x1, x0, 1, ..]) => {
                let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
                frame = Some((i32::from(bits), size(x1, x0), size(y1, y0)));
            }
            (0xf7, _) => return Err(undecodable("JPEG-LS with several components is not supported")),
            (0xf8, &[1, ref words @ ..]) if words.len() >= 10 => {
                for (target, pair) in preset.iter_mut().zip(words.as_chunks::<2>().0) {
                    *target = i32::from(u16::from_be_bytes(*pair));
                }
            }
            (0xf8, _) => return Err(undecodable("this JPEG-LS extension is not supported")),
            (0xdd, _) => return Err(undecodable("JPEG-LS with restart markers is not supported")),
            (0xda, &[1, _, 0, near, _, 0]) => {
                let (bits, width, height) = frame.ok_or_else(truncated)?;
                return Ok((Parameters::new(bits, width, height, near.into(), preset)?, rest));
            }
            (0xda, _) => return Err(undecodable("this kind of JPEG-LS scan is not supported")),
            _ => {}
        }
    }
}

impl Parameters {
    /// Parameters that are 0 in the preset take the defaults of C.2.4.1.1.
    fn new(bits: i32, width: usize, height: usize, near: i32, preset: [i32; 5]) -> Result<Self, ImageError> {
        let [max, t1, t2, t3, reset] = preset;
        let max_by_bits = (1 << bits) - 1;
        let max = if max == 0 { max_by_bits } else { max };
        if max > max_by_bits || near > 255.min(max / 2) {
            return Err(undecodable("the JPEG-LS parameters contradict each other"));
        }
        let default = default_thresholds(max, near);
        let pick = |given: i32, default: i32| if given == 0 { default } else { given };
        let thresholds = [pick(t1, default[0]), pick(t2, default[1]), pick(t3, default[2])];
        Ok(Self { width, height, precision: bits as u16, max, near, thresholds, reset: pick(reset, 64).max(3) })
    }

    /// RANGE: number of values that a prediction error can take (A.2.1).
    fn range(&self) -> i32 {
        (self.max + 2 * self.near) / (2 * self.near + 1) + 1
    }
}

/// The default thresholds T1, T2, T3 (C.2.4.1.1.1).
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
