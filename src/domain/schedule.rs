//! How the learning rate of a step goes from its first batch to its last, and when a step ends early.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The learning rate over a step, from the step's own as the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The same throughout.
    #[default]
    Constant,
    /// From the base down half a cosine (Loshchilov & Hutter 2016, without restarts).
    Cosine {
        /// What the last batch has of the base, 0 to 1.
        #[serde(default)]
        #[schema(minimum = 0.0, maximum = 1.0)]
        final_fraction: f64,
    },
    /// Up to the base and down again over the whole step (Smith 2018, arXiv:1803.09820), each way half a cosine as fastai has it.
    /// The momentum stays as it is.
    OneCycle {
        /// Share of the step's batches on the way up, above 0 and below 1.
        #[serde(default = "thirty_percent")]
        #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0, default = 0.3)]
        warm_up_fraction: f64,
        /// The first batch has the base divided by this, at least 1.
        #[serde(default = "twenty_five")]
        #[schema(minimum = 1.0, default = 25.0)]
        start_divisor: f64,
        /// The last batch has the base divided by this, at least 1.
        #[serde(default = "ten_thousand")]
        #[schema(minimum = 1.0, default = 10_000.0)]
        final_divisor: f64,
    },
    /// Multiplied by a factor every few epochs.
    Step {
        /// Above 0 and at most 1.
        #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
        factor: f64,
        /// After how many epochs each time, at least 1.
        #[schema(minimum = 1)]
        epochs: u32,
    },
}

/// A batch within its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchIndex {
    /// From 0, over all epochs of the step.
    pub batch: u64,
    /// Batches in an epoch, at least 1.
    pub batches_per_epoch: u64,
    /// Epochs of the step as planned.
    pub epochs: u64,
}

/// Ends a step whose selection score no longer rises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Epochs in a row without a rise after which the step ends, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub patience: u32,
    /// By how much the score must rise above the best before to count as a rise, at least 0; a loss must fall by as much.
    #[serde(default)]
    #[schema(minimum = 0.0)]
    pub min_delta: f64,
}

impl Schedule {
    /// The learning rate of a batch.
    pub fn learning_rate(self, base: f64, at: BatchIndex) -> f64 {
        let last = (at.batches_per_epoch * at.epochs).saturating_sub(1);
        let done = if last == 0 { 0.0 } else { at.batch as f64 / last as f64 };
        match self {
            Self::Constant => base,
            Self::Cosine { final_fraction } => between(base, base * final_fraction, done),
            Self::OneCycle { warm_up_fraction, start_divisor, .. } if done < warm_up_fraction => {
                between(base / start_divisor, base, done / warm_up_fraction)
            }
            Self::OneCycle { warm_up_fraction, final_divisor, .. } => {
                between(base, base / final_divisor, (done - warm_up_fraction) / (1.0 - warm_up_fraction))
            }
            Self::Step { factor, epochs } => {
                let falls = at.batch / at.batches_per_epoch / u64::from(epochs);
                base * factor.powi(falls as i32)
            }
        }
    }

    /// The first thing wrong with it: the field and what would be right.
    pub fn validate(self) -> Option<(&'static str, &'static str)> {
        let wrong = |ok: bool, field, detail| (!ok).then_some((field, detail));
        match self {
            Self::Constant => None,
            Self::Cosine { final_fraction } => {
                wrong((0.0..=1.0).contains(&final_fraction), "final_fraction", "must be 0 to 1")
            }
            Self::OneCycle { warm_up_fraction, start_divisor, final_divisor } => {
                let inside = warm_up_fraction > 0.0 && warm_up_fraction < 1.0;
                let at_least_one = |divisor: f64| divisor >= 1.0 && divisor.is_finite();
                wrong(inside, "warm_up_fraction", "must be above 0 and below 1")
                    .or(wrong(at_least_one(start_divisor), "start_divisor", "must be at least 1"))
                    .or(wrong(at_least_one(final_divisor), "final_divisor", "must be at least 1"))
            }
            Self::Step { factor, epochs } => wrong(
                factor > 0.0 && factor <= 1.0,
                "factor",
                "must be above 0 and at most 1",
            )
            .or(wrong(epochs >= 1, "epochs", "must be at least 1")),
        }
    }
}

impl EarlyStopping {
    /// Whether a step with these selection scores (higher is better), one an epoch, is over.
    pub fn should_stop(self, scores: &[f64]) -> bool {
        let (mut best, mut waited) = (f64::NEG_INFINITY, 0);
        for &score in scores {
            if score > best + self.min_delta {
                (best, waited) = (score, 0);
            } else {
                waited += 1;
            }
        }
        waited >= self.patience
    }

    /// The first thing wrong with it: the field and what would be right.
    pub fn validate(self) -> Option<(&'static str, &'static str)> {
        if !(1..=1000).contains(&self.patience) {
            return Some(("patience", "must be 1 to 1000"));
        }
        let right = self.min_delta >= 0.0 && self.min_delta.is_finite();
        (!right).then_some(("min_delta", "must be at least 0"))
    }
}

/// Half a cosine from `from` at 0 to `to` at 1.
fn between(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
}

fn thirty_percent() -> f64 {
    0.3
}

fn twenty_five() -> f64 {
    25.0
}

fn ten_thousand() -> f64 {
    1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of two epochs of five batches, or as many epochs as are named.
    fn rates(schedule: Schedule, batches_per_epoch: u64, epochs: u64) -> Vec<f64> {
        let at = |batch| BatchIndex { batch, batches_per_epoch, epochs };
        (0..batches_per_epoch * epochs).map(|batch| schedule.learning_rate(0.1, at(batch))).collect()
    }

    #[track_caller]
    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
        }
    }

    #[test]
    fn a_constant_rate_is_the_base_to_the_last_bit() {
        assert_eq!(rates(Schedule::Constant, 3, 2), [0.1; 6]);
    }

    #[test]
    fn a_cosine_goes_from_the_base_through_the_middle_to_its_fraction() {
        // cos 0, 45, 90, 135 and 180 degrees: 1, 0.7071, 0, -0.7071, -1; from 0.1 to 0.02.
        let expected = [0.1, 0.088284271247, 0.06, 0.031715728753, 0.02];
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.2 }, 5, 1), &expected);
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.2 }, 1, 5), &expected);
    }

    #[test]
    fn one_cycle_rises_to_the_base_and_falls_below_its_start() {
        let schedule = Schedule::OneCycle { warm_up_fraction: 0.5, start_divisor: 10.0, final_divisor: 100.0 };
        // Up from 0.01: 0.01, 0.055, 0.1. Down to 0.001: (0.1 + 0.001) / 2 in the middle.
        assert_close(&rates(schedule, 5, 1), &[0.01, 0.055, 0.1, 0.0505, 0.001]);
    }

    #[test]
    fn steps_fall_at_the_first_batch_of_their_epoch() {
        let schedule = Schedule::Step { factor: 0.5, epochs: 2 };
        assert_close(&rates(schedule, 2, 5), &[0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025]);
    }

    #[test]
    fn a_step_of_one_batch_has_the_first_rate() {
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.0 }, 1, 1), &[0.1]);
        let one_cycle: Schedule = serde_json::from_str(r#"{"kind": "one_cycle"}"#).unwrap();
        assert_close(&rates(one_cycle, 1, 1), &[0.004]);
    }

    #[test]
    fn a_step_ends_after_its_patience_and_not_before() {
        let rule = EarlyStopping { patience: 2, min_delta: 0.01 };
        assert!(!rule.should_stop(&[0.5, 0.505]));
        assert!(rule.should_stop(&[0.5, 0.505, 0.51]), "by less than the least rise each time");
        assert!(!rule.should_stop(&[0.5, 0.505, 0.52]), "together enough: the best that counts stays where it was");
        assert!(!rule.should_stop(&[0.5, 0.4, 0.6, 0.5]));
        assert!(rule.should_stop(&[-0.5, -0.6, -0.7]), "scores of a loss are below zero");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let wrong = |text: &str| serde_json::from_str::<Schedule>(text).unwrap().validate().map(|(field, _)| field);
        assert_eq!(wrong(r#"{"kind": "constant"}"#), None);
        assert_eq!(wrong(r#"{"kind": "cosine", "final_fraction": 2}"#), Some("final_fraction"));
        assert_eq!(wrong(r#"{"kind": "one_cycle", "warm_up_fraction": 1}"#), Some("warm_up_fraction"));
        assert_eq!(wrong(r#"{"kind": "one_cycle", "start_divisor": 0.5}"#), Some("start_divisor"));
        assert_eq!(wrong(r#"{"kind": "one_cycle", "final_divisor": 0}"#), Some("final_divisor"));
        assert_eq!(wrong(r#"{"kind": "step", "factor": 0, "epochs": 1}"#), Some("factor"));
        assert_eq!(wrong(r#"{"kind": "step", "factor": 0.5, "epochs": 0}"#), Some("epochs"));
        assert!(serde_json::from_str::<Schedule>(r#"{"kind": "cosine", "warm_up": 1}"#).is_err());
    }
}
