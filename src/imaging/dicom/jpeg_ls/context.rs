//! Adaptive statistics of the coding contexts (A.6).

/// Context of regular mode.
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// A: sum of the absolute errors.
    pub(super) magnitude: i32,
    /// B: sum of the errors.
    bias: i32,
    /// C: correction of the prediction.
    pub(super) correction: i32,
    /// N: number of samples.
    pub(super) count: i32,
}

impl Context {
    pub(super) fn new(magnitude: i32) -> Self {
        Self { magnitude, bias: 0, correction: 0, count: 1 }
    }

    /// The prediction error of a code (A.5.2).
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

    /// Updates the statistics with an error (A.6).
    pub(super) fn update(&mut self, error: i32, near: i32, reset: i32) {
        self.bias += error * (2 * near + 1);
        self.magnitude += error.abs();
        if self.count == reset {
            (self.magnitude, self.bias, self.count) = (self.magnitude >> 1, self.bias >> 1, self.count >> 1);
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

/// Context of the sample that interrupts a run (A.7.2).
#[derive(Clone, Copy)]
pub(super) struct RunInterruption {
    magnitude: i32,
    count: i32,
    /// Nn: number of negative errors.
    negative: i32,
    /// RItype: 1 if the samples to the left and above agree, else 0.
    ri_type: i32,
}

impl RunInterruption {
    pub(super) fn new(magnitude: i32, neighbours_agree: bool) -> Self {
        Self { magnitude, count: 1, negative: 0, ri_type: neighbours_agree.into() }
    }

    /// The Golomb parameter (A.7.2.1).
    pub(super) fn k(&self) -> u32 {
        parameter(self.count, self.magnitude + self.ri_type * (self.count >> 1))
    }

    /// The prediction error of a code (A.7.2.2).
    pub(super) fn error(&self, code: i32, k: u32) -> i32 {
        let code = code + self.ri_type;
        let odd = code & 1 == 1;
        let magnitude = (code + i32::from(odd)) / 2;
        if (k != 0 || 2 * self.negative >= self.count) == odd { -magnitude } else { magnitude }
    }

    /// Updates the statistics with an error (A.7.2.2).
    pub(super) fn update(&mut self, error: i32, code: i32, reset: i32) {
        self.negative += i32::from(error < 0);
        self.magnitude += (code + 1 - self.ri_type) >> 1;
        if self.count == reset {
            (self.magnitude, self.count, self.negative) = (self.magnitude >> 1, self.count >> 1, self.negative >> 1);
        }
        self.count += 1;
    }
}

/// The Golomb parameter: the smallest k with `count << k >= magnitude` (A.5.1), at most 24, which no valid stream exceeds.
pub(super) fn parameter(count: i32, magnitude: i32) -> u32 {
    (0..24).find(|k| i64::from(count) << k >= i64::from(magnitude)).unwrap_or(24)
}
