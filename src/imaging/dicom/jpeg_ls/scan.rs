//! The samples of a scan (annex A).

use super::{
    Coding,
    bits::Bits,
    context::{Context, Interruption, parameter},
    undecodable,
};
use crate::imaging::ImageError;

/// Bits of a run's length, by the run index (A.7.1).
const RUN_BITS: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

struct Scan<'a> {
    coding: &'a Coding,
    bits: Bits<'a>,
    contexts: Vec<Context>,
    interruptions: [Interruption; 2],
    run_index: usize,
    /// Bits of an error as it is.
    error_bits: u32,
    limit: u32,
}

pub(super) fn decode(coding: &Coding, scan: &[u8]) -> Result<Vec<u16>, ImageError> {
    let mut scan = Scan::new(coding, scan);
    let width = coding.width;
    // A sample beyond either end, as the standard extends a line.
    let (mut above, mut line) = (vec![0; width + 2], vec![0; width + 2]);
    let mut samples = Vec::with_capacity(width * coding.height);
    for _ in 0..coding.height {
        above[width + 1] = above[width];
        line[0] = above[1];
        scan.line(&above, &mut line)?;
        samples.extend(line[1..=width].iter().map(|sample| *sample as u16));
        std::mem::swap(&mut above, &mut line);
    }
    Ok(samples)
}

impl<'a> Scan<'a> {
    fn new(coding: &'a Coding, data: &'a [u8]) -> Self {
        let range = coding.range();
        let size = ((range + 32) >> 6).max(2);
        let bits_of = |values: i32| 32 - (values - 1).leading_zeros();
        let sample_bits = bits_of(coding.max + 1).max(2);
        Self {
            coding,
            bits: Bits::new(data),
            contexts: vec![Context::new(size); 365],
            interruptions: [Interruption::new(size, false), Interruption::new(size, true)],
            run_index: 0,
            error_bits: bits_of(range),
            limit: 2 * (sample_bits + sample_bits.max(8)),
        }
    }

    fn line(&mut self, above: &[i32], line: &mut [i32]) -> Result<(), ImageError> {
        let mut at = 1;
        while at <= self.coding.width {
            let [left, corner, up, right] = [line[at - 1], above[at - 1], above[at], above[at + 1]];
            let gradients = [right - up, up - corner, corner - left];
            if gradients.iter().all(|gradient| gradient.abs() <= self.coding.near) {
                at = self.run(above, line, at)?;
            } else {
                line[at] = self.regular(gradients, predict(left, up, corner))?;
                at += 1;
            }
        }
        Ok(())
    }

    fn regular(&mut self, gradients: [i32; 3], predicted: i32) -> Result<i32, ImageError> {
        let place = gradients.into_iter().fold(0, |place, gradient| place * 9 + self.level(gradient));
        let sign = place.signum();
        let Coding { max, near, reset, .. } = *self.coding;
        let context = &mut self.contexts[place.unsigned_abs() as usize];
        let predicted = (predicted + sign * context.correction).clamp(0, max);
        let k = parameter(context.count, context.size);
        let code = self.bits.golomb(k, self.limit, self.error_bits)?;
        let error = context.error(code, k, near);
        if error.abs() > self.coding.range() {
            return Err(undecodable("a JPEG-LS error out of its range"));
        }
        context.learn(error, near, reset);
        Ok(self.sample(predicted, sign * error))
    }

    /// A run of samples like the one on its left, and the sample that ends it; where the line goes on.
    fn run(&mut self, above: &[i32], line: &mut [i32], mut at: usize) -> Result<usize, ImageError> {
        let (like, end) = (line[at - 1], self.coding.width + 1);
        while self.bits.one()? {
            let length = 1 << RUN_BITS[self.run_index];
            let stop = end.min(at + length);
            if stop == at + length {
                self.run_index = (self.run_index + 1).min(31);
            }
            line[at..stop].fill(like);
            at = stop;
            if at == end {
                return Ok(at);
            }
        }
        let length = self.bits.take(RUN_BITS[self.run_index])? as usize;
        if at + length >= end {
            return Err(undecodable("a JPEG-LS run that is longer than its line"));
        }
        line[at..at + length].fill(like);
        at += length;
        line[at] = self.interruption(like, above[at])?;
        self.run_index = self.run_index.saturating_sub(1);
        Ok(at + 1)
    }

    fn interruption(&mut self, left: i32, up: i32) -> Result<i32, ImageError> {
        let alike = (left - up).abs() <= self.coding.near;
        let context = &mut self.interruptions[usize::from(alike)];
        let k = context.k();
        let limit = self.limit - RUN_BITS[self.run_index] - 1;
        let code = self.bits.golomb(k, limit, self.error_bits)?;
        let error = context.error(code, k);
        if error.abs() > self.coding.range() {
            return Err(undecodable("a JPEG-LS error out of its range"));
        }
        context.learn(error, code, self.coding.reset);
        let sign = if !alike && left > up { -1 } else { 1 };
        Ok(self.sample(if alike { left } else { up }, sign * error))
    }

    /// Prediction and error, which counts modulo the range (A.4.5).
    fn sample(&self, predicted: i32, error: i32) -> i32 {
        let Coding { max, near, .. } = *self.coding;
        let step = 2 * near + 1;
        let sample = predicted + error * step;
        let around = self.coding.range() * step;
        let sample = match sample {
            low if low < -near => low + around,
            high if high > max + near => high - around,
            within => within,
        };
        sample.clamp(0, max)
    }

    /// The gradient in nine levels (A.3.3).
    fn level(&self, gradient: i32) -> i32 {
        let [first, second, third] = self.coding.thresholds;
        let size = gradient.abs();
        let level = match size {
            _ if size <= self.coding.near => 0,
            _ if size < first => 1,
            _ if size < second => 2,
            _ if size < third => 3,
            _ => 4,
        };
        level * gradient.signum()
    }
}

/// Left, above, or the plane through both and the corner (A.4.1).
fn predict(left: i32, up: i32, corner: i32) -> i32 {
    if corner >= left.max(up) {
        left.min(up)
    } else if corner <= left.min(up) {
        left.max(up)
    } else {
        left + up - corner
    }
}
