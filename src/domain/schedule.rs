//! Learning-rate schedules and early stopping.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::must_be;

/// Learning-rate schedule over the batches of a step. The base rate is the `learning_rate` of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Constant: the base rate for all batches.
    #[default]
    Constant,
    /// Cosine annealing without restarts (Loshchilov & Hutter 2016): from the base rate to `final_fraction` of it.
    Cosine {
        /// Learning rate of the last batch as a fraction of the base rate, 0 to 1. Default: 0.
        #[serde(default)]
        #[schema(minimum = 0.0, maximum = 1.0)]
        final_fraction: f64,
    },
    /// One-cycle policy (Smith 2018, arXiv:1803.09820): cosine warm-up to the base rate, then cosine annealing, as in fastai. The momentum
    /// is not changed.
    OneCycle {
        /// Fraction of the batches of the step that warm up, above 0 and below 1. Default: 0.3.
        #[serde(default = "default_warm_up_fraction")]
        #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0, default = 0.3)]
        warm_up_fraction: f64,
        /// Divisor of the base rate for the first batch, at least 1. Default: 25.
        #[serde(default = "default_start_divisor")]
        #[schema(minimum = 1.0, default = 25.0)]
        start_divisor: f64,
        /// Divisor of the base rate for the last batch, at least 1. Default: 10000.
        #[serde(default = "default_final_divisor")]
        #[schema(minimum = 1.0, default = 10_000.0)]
        final_divisor: f64,
    },
    /// Step decay: the rate is multiplied by `factor` every `epochs` epochs.
    Step {
        /// Factor, above 0 and at most 1.
        #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
        factor: f64,
        /// Number of epochs between reductions, at least 1.
        #[schema(minimum = 1)]
        epochs: u32,
    },
}

/// Position of a batch within its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchIndex {
    /// Index of the batch over all epochs of the step, from 0.
    pub batch: u64,
    /// Number of batches per epoch, at least 1.
    pub batches_per_epoch: u64,
    /// Number of epochs of the step in the plan.
    pub epochs: u64,
}

/// Early stopping: ends a step whose selection metric no longer improves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Number of consecutive epochs without improvement after which the step ends, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub patience: u32,
    /// Minimum improvement over the best metric so far (a fall, for `loss`) that resets the patience, at least 0. Default: 0.
    #[serde(default)]
    #[schema(minimum = 0.0)]
    pub min_delta: f64,
}

impl Schedule {
    /// The learning rate of the batch at `at` for the base rate `base`.
    pub fn learning_rate(self, base: f64, at: BatchIndex) -> f64 {
        let last = (at.batches_per_epoch * at.epochs).saturating_sub(1);
        let progress = if last == 0 { 0.0 } else { at.batch as f64 / last as f64 };
        match self {
            Self::Constant => base,
            Self::Cosine { final_fraction } => anneal(base, base * final_fraction, progress),
            Self::OneCycle { warm_up_fraction, start_divisor, .. } if progress < warm_up_fraction => {
                anneal(base / start_divisor, base, progress / warm_up_fraction)
            }
            Self::OneCycle { warm_up_fraction, final_divisor, .. } => {
                anneal(base, base / final_divisor, (progress - warm_up_fraction) / (1.0 - warm_up_fraction))
            }
            Self::Step { factor, epochs } => {
                let reductions = at.batch / at.batches_per_epoch / u64::from(epochs);
                base * factor.powi(reductions as i32)
            }
        }
    }

    /// The first invalid field, with its accepted range and the value given.
    pub fn validate(self) -> Option<(&'static str, String)> {
        let invalid =
            |valid: bool, field, requirement: &str, value: f64| (!valid).then(|| (field, must_be(requirement, value)));
        match self {
            Self::Constant => None,
            Self::Cosine { final_fraction } => {
                invalid((0.0..=1.0).contains(&final_fraction), "final_fraction", "between 0 and 1", final_fraction)
            }
            Self::OneCycle { warm_up_fraction, start_divisor, final_divisor } => {
                let inside = warm_up_fraction > 0.0 && warm_up_fraction < 1.0;
                let at_least_one = |divisor: f64| divisor >= 1.0 && divisor.is_finite();
                invalid(inside, "warm_up_fraction", "above 0 and below 1", warm_up_fraction)
                    .or(invalid(at_least_one(start_divisor), "start_divisor", "at least 1", start_divisor))
                    .or(invalid(at_least_one(final_divisor), "final_divisor", "at least 1", final_divisor))
            }
            Self::Step { factor, epochs } => invalid(
                factor > 0.0 && factor <= 1.0,
                "factor",
                "above 0 and at most 1",
                factor,
            )
            .or(invalid(epochs >= 1, "epochs", "at least 1", epochs.into())),
        }
    }
}

impl EarlyStopping {
    /// True if a step ends after epochs with these selection scores (one per epoch, higher is better).
    pub fn should_stop(self, scores: &[f64]) -> bool {
        let (mut best, mut epochs_without_improvement) = (f64::NEG_INFINITY, 0);
        for &score in scores {
            if score > best + self.min_delta {
                (best, epochs_without_improvement) = (score, 0);
            } else {
                epochs_without_improvement += 1;
            }
        }
        epochs_without_improvement >= self.patience
    }

    /// The first invalid field, with its accepted range and the value given.
    pub fn validate(self) -> Option<(&'static str, String)> {
        if !(1..=1000).contains(&self.patience) {
            return Some(("patience", must_be("between 1 and 1000", self.patience)));
        }
        let valid = self.min_delta >= 0.0 && self.min_delta.is_finite();
        (!valid).then(|| ("min_delta", must_be("at least 0", self.min_delta)))
    }
}

/// Cosine interpolation from `from` at 0 to `to` at 1.
fn anneal(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
}

fn default_warm_up_fraction() -> f64 {
    0.3
}

fn default_start_divisor() -> f64 {
    25.0
}

fn default_final_divisor() -> f64 {
    1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The learning rates of all batches for a base rate of 0.1.
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
    fn the_constant_schedule_is_exactly_the_base_rate() {
        assert_eq!(rates(Schedule::Constant, 3, 2), [0.1; 6]);
    }

    #[test]
    fn cosine_annealing_falls_from_the_base_rate_to_the_final_fraction() {
        // cos 0, 45, 90, 135 and 180 degrees: 1, 0.7071, 0, -0.7071, -1; from 0.1 to 0.02.
        let expected = [0.1, 0.088284271247, 0.06, 0.031715728753, 0.02];
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.2 }, 5, 1), &expected);
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.2 }, 1, 5), &expected);
    }

    #[test]
    fn one_cycle_rises_to_the_base_rate_and_falls_below_its_start() {
        let schedule = Schedule::OneCycle { warm_up_fraction: 0.5, start_divisor: 10.0, final_divisor: 100.0 };
        // Up from 0.01: 0.01, 0.055, 0.1. Down to 0.001: (0.1 + 0.001) / 2 in the middle.
        assert_close(&rates(schedule, 5, 1), &[0.01, 0.055, 0.1, 0.0505, 0.001]);
    }

    #[test]
    fn step_decay_reduces_the_rate_at_the_first_batch_of_an_epoch() {
        let schedule = Schedule::Step { factor: 0.5, epochs: 2 };
        assert_close(&rates(schedule, 2, 5), &[0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025]);
    }

    #[test]
    fn a_step_of_one_batch_uses_the_first_rate() {
        assert_close(&rates(Schedule::Cosine { final_fraction: 0.0 }, 1, 1), &[0.1]);
        let one_cycle: Schedule = serde_json::from_str(r#"{"kind": "one_cycle"}"#).unwrap();
        assert_close(&rates(one_cycle, 1, 1), &[0.004]);
    }

    #[test]
    fn early_stopping_ends_a_step_when_patience_is_exhausted() {
        let rule = EarlyStopping { patience: 2, min_delta: 0.01 };
        assert!(!rule.should_stop(&[0.5, 0.505]));
        assert!(rule.should_stop(&[0.5, 0.505, 0.51]), "each rise is below min_delta");
        assert!(
            !rule.should_stop(&[0.5, 0.505, 0.52]),
            "the rises together exceed min_delta: the best score does not move with insufficient rises"
        );
        assert!(!rule.should_stop(&[0.5, 0.4, 0.6, 0.5]));
        assert!(rule.should_stop(&[-0.5, -0.6, -0.7]), "scores of a loss are negative");
    }

    #[test]
    fn invalid_fields_are_named() {
        let invalid_field =
            |text: &str| serde_json::from_str::<Schedule>(text).unwrap().validate().map(|(field, _)| field);
        assert_eq!(invalid_field(r#"{"kind": "constant"}"#), None);
        assert_eq!(invalid_field(r#"{"kind": "cosine", "final_fraction": 2}"#), Some("final_fraction"));
        assert_eq!(invalid_field(r#"{"kind": "one_cycle", "warm_up_fraction": 1}"#), Some("warm_up_fraction"));
        assert_eq!(invalid_field(r#"{"kind": "one_cycle", "start_divisor": 0.5}"#), Some("start_divisor"));
        assert_eq!(invalid_field(r#"{"kind": "one_cycle", "final_divisor": 0}"#), Some("final_divisor"));
        assert_eq!(invalid_field(r#"{"kind": "step", "factor": 0, "epochs": 1}"#), Some("factor"));
        assert_eq!(invalid_field(r#"{"kind": "step", "factor": 0.5, "epochs": 0}"#), Some("epochs"));
        assert!(serde_json::from_str::<Schedule>(r#"{"kind": "cosine", "warm_up": 1}"#).is_err());
    }
}
