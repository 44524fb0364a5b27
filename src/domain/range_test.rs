//! The learning-rate range test (Smith 2017, arXiv:1506.01186): a throw-away network trains over rising rates, and its loss tells which
//! rate to take.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What each batch leaves of the smoothed loss.
const LEFT: f64 = 0.9;

/// The test is over when the smoothed loss is so many times its lowest.
const DIVERGED: f64 = 4.0;

/// A test before a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RangeTest {
    /// The first batch's learning rate, above 0.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1e-7)]
    pub from: f64,
    /// The last batch's, above `from` and at most 1; each batch has the same multiple of the one before.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1.0)]
    pub to: f64,
    /// 20 to 1000.
    #[schema(minimum = 20, maximum = 1000, default = 100)]
    pub batches: u32,
}

impl Default for RangeTest {
    fn default() -> Self {
        Self { from: 1e-7, to: 1.0, batches: 100 }
    }
}

/// The learning rate of a step by its range test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RangeTestResult {
    /// Stage, from 1.
    pub stage: u32,
    /// Step within the stage, from 1.
    pub step: u32,
    /// Batch by batch, until the loss ran away.
    pub curve: Vec<RangeTestPoint>,
    /// Where the loss fell fastest, which the step takes; null when it never fell.
    pub chosen: Option<f64>,
    /// The plan's, which the step takes then.
    pub planned: f64,
}

/// A batch of a range test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RangeTestPoint {
    /// It was trained at.
    pub learning_rate: f64,
    /// Mean cross-entropy in nats, smoothed over this batch and those before.
    pub loss: f64,
}

/// What a range test found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeTestCurve {
    /// Batch by batch.
    pub points: Vec<RangeTestPoint>,
    /// The moving average of the losses, which begins at zero.
    average: f64,
}

impl RangeTest {
    /// The learning rate of a batch, from 0.
    pub fn learning_rate(self, batch: u32) -> f64 {
        self.from * (self.to / self.from).powf(f64::from(batch) / f64::from(self.batches - 1))
    }

    /// The first thing wrong with it: the field and what would be right.
    pub fn validate(self) -> Option<(&'static str, &'static str)> {
        if !(self.from > 0.0 && self.from < 1.0) {
            return Some(("from", "must be above 0 and below 1"));
        }
        if !(self.to > self.from && self.to <= 1.0) {
            return Some(("to", "must be above `from` and at most 1"));
        }
        (!(20..=1000).contains(&self.batches)).then_some(("batches", "must be 20 to 1000"))
    }
}

impl RangeTestCurve {
    /// Takes in a batch's loss; false when the test is over because the loss has run away or is none. Smoothed is the moving average,
    /// freed of its beginning at zero as Adam's are.
    #[must_use]
    pub fn push(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.average = LEFT * self.average + (1.0 - LEFT) * loss;
        let smoothed = self.average / (1.0 - LEFT.powi(self.points.len() as i32 + 1));
        self.points.push(RangeTestPoint { learning_rate: rate, loss: smoothed });
        let lowest = self.points.iter().map(|point| point.loss).fold(f64::INFINITY, f64::min);
        smoothed <= DIVERGED * lowest
    }

    /// The rate at which the smoothed loss falls fastest over the logarithm of the rate, by the difference of its two neighbours; none
    /// where it never falls.
    pub fn steepest(&self) -> Option<f64> {
        let slopes = self.points.windows(3).map(|near| (near[1].learning_rate, near[2].loss - near[0].loss));
        let steepest = slopes.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (steepest.1 < 0.0).then_some(steepest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_by_the_same_multiple_from_end_to_end() {
        let test = RangeTest { from: 1e-4, to: 1.0, batches: 5 };
        for (batch, expected) in (0..5).zip([1e-4, 1e-3, 1e-2, 1e-1, 1.0]) {
            assert!((test.learning_rate(batch) / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_first_smoothed_losses_are_weighted_means_of_what_came() {
        let mut curve = RangeTestCurve::default();
        assert!(curve.push(0.1, 2.0) && curve.push(0.2, 1.0));
        // 2, then (0.09 * 2 + 0.1 * 1) / 0.19.
        assert!((curve.points[0].loss - 2.0).abs() < 1e-12 && (curve.points[1].loss - 0.28 / 0.19).abs() < 1e-12);
    }

    #[test]
    fn the_steepest_fall_is_chosen_and_a_runaway_ends_the_test() {
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
    fn a_loss_that_never_falls_chooses_nothing() {
        let mut curve = RangeTestCurve::default();
        assert!((0..9).all(|batch| curve.push(f64::from(batch), 1.0 + 0.01 * f64::from(batch))));
        assert_eq!(curve.steepest(), None);
        assert_eq!(RangeTestCurve::default().steepest(), None);
    }
}
