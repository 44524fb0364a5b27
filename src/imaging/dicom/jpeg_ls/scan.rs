//! Decoding of the samples of a scan (annex A).

use super::{
    Parameters,
    bits::BitReader,
    context::{Context, RunInterruption, parameter},
    undecodable,
};
use crate::imaging::ImageError;

/// J: bits of the run length by run index (A.7.1).
const RUN_BITS: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// State of the decoder.
struct Scan<'a> {
    parameters: &'a Parameters,
    bits: BitReader<'a>,
    contexts: Vec<Context>,
    interruptions: [RunInterruption; 2],
    run_index: usize,
    /// Number of bits of an uncoded error (qbpp).
    error_bits: u32,
    /// Maximum length of a Golomb code.
    limit: u32,
}

/// Decodes all lines.
pub(super) fn decode(parameters: &Parameters, scan: &[u8]) -> Result<Vec<u16>, ImageError> {
    let mut scan = Scan::new(parameters, scan);
    let width = parameters.width;
    // Lines with one additional sample at either end, as in A.2.1.
    let (mut above, mut line) = (vec![0; width + 2], vec![0; width + 2]);
    let mut samples = Vec::with_capacity(width * parameters.height);
    for _ in 0..parameters.height {
        above[width + 1] = above[width];
        line[0] = above[1];
        scan.line(&above, &mut line)?;
        samples.extend(line[1..=width].iter().map(|sample| *sample as u16));
        std::mem::swap(&mut above, &mut line);
    }
    Ok(samples)
}

impl<'a> Scan<'a> {
    fn new(parameters: &'a Parameters, data: &'a [u8]) -> Self {
        let range = parameters.range();
        let magnitude = ((range + 32) >> 6).max(2);
        let bits_of = |values: i32| 32 - (values - 1).leading_zeros();
        let sample_bits = bits_of(parameters.max + 1).max(2);
        Self {
            parameters,
            bits: BitReader::new(data),
            contexts: vec![Context::new(magnitude); 365],
            interruptions: [RunInterruption::new(magnitude, false), RunInterruption::new(magnitude, true)],
            run_index: 0,
            error_bits: bits_of(range),
            limit: 2 * (sample_bits + sample_bits.max(8)),
        }
    }

    /// Decodes a line.
    fn line(&mut self, above: &[i32], line: &mut [i32]) -> Result<(), ImageError> {
        let mut at = 1;
        while at <= self.parameters.width {
            let [left, corner, up, right] = [line[at - 1], above[at - 1], above[at], above[at + 1]];
            let gradients = [right - up, up - corner, corner - left];
            if gradients.iter().all(|gradient| gradient.abs() <= self.parameters.near) {
                at = self.run(above, line, at)?;
            } else {
                line[at] = self.regular(gradients, predict(left, up, corner))?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Decodes a sample in regular mode (A.4 to A.6).
    fn regular(&mut self, gradients: [i32; 3], predicted: i32) -> Result<i32, ImageError> {
        let index = gradients.into_iter().fold(0, |index, gradient| index * 9 + self.level(gradient));
        let sign = index.signum();
        let Parameters { max, near, reset, .. } = *self.parameters;
        let context = &mut self.contexts[index.unsigned_abs() as usize];
        let predicted = (predicted + sign * context.correction).clamp(0, max);
        let k = parameter(context.count, context.magnitude);
        let code = self.bits.golomb(k, self.limit, self.error_bits)?;
        let error = context.error(code, k, near);
        if error.abs() > self.parameters.range() {
            return Err(undecodable("a JPEG-LS prediction error is out of range"));
        }
        context.update(error, near, reset);
        Ok(self.sample(predicted, sign * error))
    }

    /// Decodes a run of samples equal to their left neighbour and the sample that interrupts it (A.7). Returns the next position.
    fn run(&mut self, above: &[i32], line: &mut [i32], mut at: usize) -> Result<usize, ImageError> {
        let (value, end) = (line[at - 1], self.parameters.width + 1);
        while self.bits.one()? {
            let length = 1 << RUN_BITS[self.run_index];
            let stop = end.min(at + length);
            if stop == at + length {
                self.run_index = (self.run_index + 1).min(31);
            }
            line[at..stop].fill(value);
            at = stop;
            if at == end {
                return Ok(at);
            }
        }
        let length = self.bits.take(RUN_BITS[self.run_index])? as usize;
        if at + length >= end {
            return Err(undecodable("a JPEG-LS run is longer than its line"));
        }
        line[at..at + length].fill(value);
        at += length;
        line[at] = self.interruption(value, above[at])?;
        self.run_index = self.run_index.saturating_sub(1);
        Ok(at + 1)
    }

    /// Decodes the sample that interrupts a run (A.7.2).
    fn interruption(&mut self, left: i32, up: i32) -> Result<i32, ImageError> {
        let agree = (left - up).abs() <= self.parameters.near;
        let context = &mut self.interruptions[usize::from(agree)];
        let k = context.k();
        let limit = self.limit - RUN_BITS[self.run_index] - 1;
        let code = self.bits.golomb(k, limit, self.error_bits)?;
        let error = context.error(code, k);
        if error.abs() > self.parameters.range() {
            return Err(undecodable("a JPEG-LS prediction error is out of range"));
        }
        context.update(error, code, self.parameters.reset);
        let sign = if !agree && left > up { -1 } else { 1 };
        Ok(self.sample(if agree { left } else { up }, sign * error))
    }

    /// The sample of a prediction and an error modulo RANGE (A.4.5).
    fn sample(&self, predicted: i32, error: i32) -> i32 {
        let Parameters { max, near, .. } = *self.parameters;
        let step = 2 * near + 1;
        let sample = predicted + error * step;
        let modulus = self.parameters.range() * step;
        let sample = match sample {
            low if low < -near => low + modulus,
            high if high > max + near => high - modulus,
            in_range => in_range,
        };
        sample.clamp(0, max)
    }

    /// The gradient quantised to nine levels (A.3.3).
    fn level(&self, gradient: i32) -> i32 {
        let [first, second, third] = self.parameters.thresholds;
        let magnitude = gradient.abs();
        let level = match magnitude {
            _ if magnitude <= self.parameters.near => 0,
            _ if magnitude < first => 1,
            _ if magnitude < second => 2,
            _ if magnitude < third => 3,
            _ => 4,
        };
        level * gradient.signum()
    }
}

/// The median edge detector: left, above, or left + above - corner (A.4.1).
fn predict(left: i32, up: i32, corner: i32) -> i32 {
    if corner >= left.max(up) {
        left.min(up)
    } else if corner <= left.min(up) {
        left.max(up)
    } else {
        left + up - corner
    }
}
