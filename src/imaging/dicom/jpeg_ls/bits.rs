//! The bits of a scan: after a byte of ones the next has a stuffed zero, so that no marker occurs by accident.

use super::undecodable;
use crate::imaging::ImageError;

pub(super) struct Bits<'a> {
    rest: &'a [u8],
    held: u64,
    count: u32,
    after_ones: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(scan: &'a [u8]) -> Self {
        Self { rest: scan, held: 0, count: 0, after_ones: false }
    }

    pub(super) fn one(&mut self) -> Result<bool, ImageError> {
        Ok(self.take(1)? == 1)
    }

    /// At most 32 bits, the first the most significant.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, ImageError> {
        while self.count < count {
            self.fill()?;
        }
        self.count -= count;
        let taken = (self.held >> self.count) & ((1 << count) - 1);
        Ok(taken as u32)
    }

    /// A code of Golomb (A.5.3): so many zeros and a one, then `k` bits; at the limit the value itself.
    pub(super) fn golomb(&mut self, k: u32, limit: u32, value_bits: u32) -> Result<i32, ImageError> {
        let mut zeros = 0;
        while !self.one()? {
            zeros += 1;
            if zeros > limit {
                return Err(undecodable("a JPEG-LS code without end"));
            }
        }
        if zeros < limit.saturating_sub(value_bits + 1) {
            return Ok(((zeros << k) | self.take(k)?) as i32);
        }
        Ok(self.take(value_bits)? as i32 + 1)
    }

    fn fill(&mut self) -> Result<(), ImageError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(|| undecodable("the JPEG-LS data is cut off"))?;
        if self.after_ones && byte >= 0x80 {
            return Err(undecodable("the JPEG-LS data ends before its image does"));
        }
        let bits = if self.after_ones { 7 } else { 8 };
        (self.held, self.count, self.after_ones, self.rest) =
            ((self.held << bits) | u64::from(byte), self.count + bits, byte == 0xff, rest);
        Ok(())
    }
}
