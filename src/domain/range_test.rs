//! Learning-rate range test (Smith 2017, arXiv:1506.01186): a temporary copy of the network trains with rising learning rates, and the
//! course of its loss determines the rate of the step.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::must_be;

/// Smoothing: decay of the moving average of the loss per batch.
const DECAY: f64 = 0.9;

/// The test ends when the smoothed loss exceeds its minimum by this factor.
const DIVERGENCE_FACTOR: f64 = 4.0;

/// Learning-rate range test (Smith 2017, arXiv:1506.01186) before a step. The learning rate rises exponentially from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RangeTest {
    /// Learning rate of the first batch, above 0 and below 1. Default: 1e-7.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1e-7)]
    pub from: f64,
    /// Learning rate of the last batch, above `from` and at most 1. Default: 1.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1.0)]
    pub to: f64,
    /// Number of batches of the test, 20 to 1000. Default: 100.
    #[schema(minimum = 20, maximum = 1000, default = 100)]
    pub batches: u32,
}

impl Default for RangeTest {
    fn default() -> Self {
        Self { from: 1e-7, to: 1.0, batches: 100 }
    }
}

/// Result of the range test of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RangeTestResult {
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Number of the step within the stage, from 1.
    pub step: u32,
    /// Points of the curve, one per batch, until the loss diverged.
    pub curve: Vec<RangeTestPoint>,
    /// Learning rate at which the loss fell fastest, which the step uses; null if the loss never fell.
    pub chosen: Option<f64>,
    /// Learning rate of the plan, which the step uses if `chosen` is null.
    pub planned: f64,
}

/// Point of a range-test curve: one batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RangeTestPoint {
    /// Learning rate of the batch.
    pub learning_rate: f64,
    /// Mean cross-entropy in nats, smoothed by an exponential moving average over the batches so far.
    pub loss: f64,
}

/// Loss curve of a range test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeTestCurve {
    /// Points, one per batch.
    pub points: Vec<RangeTestPoint>,
    /// Exponential moving average of the losses, initially zero.
    average: f64,
}

impl RangeTest {
    /// The learning rate of batch `batch`, counted from 0.
    pub fn learning_rate(self, batch: u32) -> f64 {
        self.from * (self.to / self.from).powf(f64::from(batch) / f64::from(self.batches - 1))
    }

    /// The first invalid field, with its accepted range and the value given.
    pub fn validate(self) -> Option<(&'static str, String)> {
        if !(self.from > 0.0 && self.from < 1.0) {
            return Some(("from", must_be("above 0 and below 1", self.from)));
        }
        if !(self.to > self.from && self.to <= 1.0) {
            return Some(("to", must_be(&format!("above `from` ({}) and at most 1", self.from), self.to)));
        }
        let valid = (20..=1000).contains(&self.batches);
        (!valid).then(|| ("batches", must_be("between 20 and 1000", self.batches)))
    }
}

impl RangeTestCurve {
    /// Adds the loss of a batch. Returns false if the test must end: the loss diverged or is not finite. The moving average is corrected
    /// for its initialisation with zero, like Adam's moments.
    #[must_use]
    pub fn push(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.average = DECAY * self.average + (1.0 - DECAY) * loss;
        let smoothed = self.average / (1.0 - DECAY.powi(self.points.len() as i32 + 1));
        self.points.push(RangeTestPoint { learning_rate: rate, loss: smoothed });
        let minimum = self.points.iter().map(|point| point.loss).fold(f64::INFINITY, f64::min);
        smoothed <= DIVERGENCE_FACTOR * minimum
    }

    /// The learning rate at which the smoothed loss falls fastest with the logarithm of the rate (central difference); none if it never
    /// falls.
    pub fn steepest(&self) -> Option<f64> {
        let slopes = self.points.windows(3).map(|w| (w[1].learning_rate, w[2].loss - w[0].loss));
        let steepest = slopes.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (steepest.1 < 0.0).then_some(steepest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rates_rise_exponentially_from_end_to_end() {
        let test = RangeTest { from: 1e-4, to: 1.0, batches: 5 };
        for (batch, expected) in (0..5).zip([1e-4, 1e-3, 1e-2, 1e-1, 1.0]) {
            assert!((test.learning_rate(batch) / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_first_smoothed_losses_are_bias_corrected_means() {
        let mut curve = RangeTestCurve::default();
        assert!(curve.push(0.1, 2.0) && curve.push(0.2, 1.0));
        // 2, then (0.09 * 2 + 0.1 * 1) / 0.19.
        assert!((curve.points[0].loss - 2.0).abs() < 1e-12 && (curve.points[1].loss - 0.28 / 0.19).abs() < 1e-12);
    }

    #[test]
    fn the_steepest_descent_is_chosen_and_divergence_ends_the_test() {
        let mut curve = RangeTestCurve::default();
        let losses = [1.0, 1.0, 1.0, 0.9, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1];
        for (batch, loss) in losses.into_iter().enumerate() {
            assert!(curve.push(batch as f64, loss));
        }
        assert_eq!(curve.steepest(), Some(4.0));
        let lasted = (10..100).take_while(|batch| curve.push(f64::from(*batch), 100.0)).count();
        assert_eq!(lasted, 0, "one loss of 100 takes the average above four times its lowest");
        assert!(!curve.push(11.0, f64::NAN) && curve.points.len() == 11);
        assert_eq!(curve.steepest(), Some(4.0));
    }

    #[test]
    fn a_loss_that_never_falls_selects_no_rate() {
        let mut curve = RangeTestCurve::default();
        assert!((0..9).all(|batch| curve.push(f64::from(batch), 1.0 + 0.01 * f64::from(batch))));
        assert_eq!(curve.steepest(), None);
        assert_eq!(RangeTestCurve::default().steepest(), None);
    }
}
