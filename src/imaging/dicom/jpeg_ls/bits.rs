//! Bit reader for scan data. A byte 0xff is followed by a stuffed zero bit, so that no marker occurs by accident.

use super::undecodable;
use crate::imaging::ImageError;

pub(super) struct BitReader<'a> {
    rest: &'a [u8],
    buffer: u64,
    count: u32,
    after_ff: bool,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(scan: &'a [u8]) -> Self {
        Self { rest: scan, buffer: 0, count: 0, after_ff: false }
    }

    /// Reads one bit.
    pub(super) fn one(&mut self) -> Result<bool, ImageError> {
        Ok(self.take(1)? == 1)
    }

    /// Reads at most 32 bits, most significant bit first.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, ImageError> {
        while self.count < count {
            self.fill()?;
        }
        self.count -= count;
        let bits = (self.buffer >> self.count) & ((1 << count) - 1);
        Ok(bits as u32)
    }

    /// Reads a limited-length Golomb code (A.5.3): a unary prefix, then `k` bits; at the limit, the value itself in `value_bits` bits.
    pub(super) fn golomb(&mut self, k: u32, limit: u32, value_bits: u32) -> Result<i32, ImageError> {
        let mut zeros = 0;
        while !self.one()? {
            zeros += 1;
            if zeros > limit {
                return Err(undecodable("a JPEG-LS code exceeds its maximum length"));
            }
        }
        if zeros < limit.saturating_sub(value_bits + 1) {
            return Ok(((zeros << k) | self.take(k)?) as i32);
        }
        Ok(self.take(value_bits)? as i32 + 1)
    }

    fn fill(&mut self) -> Result<(), ImageError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(|| undecodable("the JPEG-LS data is truncated"))?;
        if self.after_ff && byte >= 0x80 {
            return Err(undecodable("the JPEG-LS data ends before the image is complete"));
        }
        let bits = if self.after_ff { 7 } else { 8 };
        (self.buffer, self.count, self.after_ff, self.rest) =
            ((self.buffer << bits) | u64::from(byte), self.count + bits, byte == 0xff, rest);
        Ok(())
    }
}
