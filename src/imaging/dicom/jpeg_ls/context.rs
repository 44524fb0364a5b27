//! What is learnt of a context as its samples go by (A.6).

/// Of regular mode.
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// Sum of the errors' sizes.
    pub(super) size: i32,
    /// Sum of the errors.
    bias: i32,
    /// What is added to the prediction.
    pub(super) correction: i32,
    pub(super) count: i32,
}

impl Context {
    pub(super) fn new(size: i32) -> Self {
        Self { size, bias: 0, correction: 0, count: 1 }
    }

    /// The error that a code stands for (A.5.2).
    pub(super) fn error(&self, code: i32, k: u32, near: i32) -> i32 {
        let odd = code & 1 == 1;
        if near == 0 && k == 0 && 2 * self.bias <= -self.count {
            if odd { (code - 1) / 2 } else { -(code / 2) - 1 }
        } else if odd {
            -((code + 1) / 2)
        } else {
            code / 2
        }
    }

    pub(super) fn learn(&mut self, error: i32, near: i32, reset: i32) {
        self.bias += error * (2 * near + 1);
        self.size += error.abs();
        if self.count == reset {
            (self.size, self.bias, self.count) = (self.size >> 1, self.bias >> 1, self.count >> 1);
        }
        self.count += 1;
        if self.bias <= -self.count {
            self.bias = (self.bias + self.count).max(1 - self.count);
            self.correction = (self.correction - 1).max(-128);
        } else if self.bias > 0 {
            self.bias = (self.bias - self.count).min(0);
            self.correction = (self.correction + 1).min(127);
        }
    }
}

/// Of the sample that interrupts a run (A.7.2).
#[derive(Clone, Copy)]
pub(super) struct Interruption {
    size: i32,
    count: i32,
    negative: i32,
    /// 1 where the samples left and above agree.
    alike: i32,
}

impl Interruption {
    pub(super) fn new(size: i32, alike: bool) -> Self {
        Self { size, count: 1, negative: 0, alike: alike.into() }
    }

    pub(super) fn k(&self) -> u32 {
        parameter(self.count, self.size + self.alike * (self.count >> 1))
    }

    pub(super) fn error(&self, code: i32, k: u32) -> i32 {
        let code = code + self.alike;
        let odd = code & 1 == 1;
        let size = (code + i32::from(odd)) / 2;
        if (k != 0 || 2 * self.negative >= self.count) == odd { -size } else { size }
    }

    pub(super) fn learn(&mut self, error: i32, code: i32, reset: i32) {
        self.negative += i32::from(error < 0);
        self.size += (code + 1 - self.alike) >> 1;
        if self.count == reset {
            (self.size, self.count, self.negative) = (self.size >> 1, self.count >> 1, self.negative >> 1);
        }
        self.count += 1;
    }
}

/// The smallest k with `count << k >= size` (A.5.1); a stream that asks for more than 24 is none that was encoded.
pub(super) fn parameter(count: i32, size: i32) -> u32 {
    (0..24).find(|k| i64::from(count) << k >= i64::from(size)).unwrap_or(24)
}
