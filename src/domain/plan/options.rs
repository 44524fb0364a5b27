//! How the batches of a plan are trained: what is drawn, what it counts, what is averaged. All of it is off where nobody asks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Scope, Step, TrainingPlan};
use crate::domain::Schedule;

/// What the images of each class count in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// Every image the same.
    #[default]
    None,
    /// Those of a class n / (k · n_c), with n training images, n_c of the class and k classes: 1 on average, and each class as much in
    /// sum. The loss is the mean over the batch's images, not over their weights.
    Balanced,
}

/// Which images an epoch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Each once.
    #[default]
    Shuffle,
    /// As many in all, every class equally often: images of a rare class come several times, those of a frequent one by turns.
    Balanced,
}

/// An exponential moving average of the weights over the batches of a step that trains the whole network. It is evaluated, selected
/// and trained on from in place of the last batch's weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightAveraging {
    /// What a batch leaves of the average, above 0 and below 1. The n-th batch leaves at most n / (n + 9), so that the first weights
    /// are soon forgotten.
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub decay: f64,
}

/// Takes each thing that must hold, where it stands, and what would be right.
pub(super) type Check<'a> = &'a mut dyn FnMut(bool, String, &str);

impl WeightAveraging {
    /// What batch `number` of a step, from 1, leaves of the average.
    pub fn decay_at(self, number: u64) -> f64 {
        self.decay.min(number as f64 / (number as f64 + 9.0))
    }
}

impl TrainingPlan {
    /// Whether the training images differ from epoch to epoch. What a frozen body makes of them then cannot be kept.
    pub fn augments_images(&self) -> bool {
        self.mixup > 0.0 || !self.augmentation.is_off()
    }

    pub(super) fn validate_options(&self, check: Check<'_>) {
        check((0.0..=0.5).contains(&self.label_smoothing), "/label_smoothing".into(), "must be 0 to 0.5");
        // Below a hundredth hardly any image is mixed, and the draws lose their precision.
        let mixup = self.mixup == 0.0 || (0.01..=10.0).contains(&self.mixup);
        check(mixup, "/mixup".into(), "must be 0 or 0.01 to 10");
        for (field, detail) in self.augmentation.validate() {
            check(false, format!("/augmentation/{field}"), &detail);
        }
        if let Some(WeightAveraging { decay }) = self.weight_averaging {
            check(decay > 0.0 && decay < 1.0, "/weight_averaging/decay".into(), "must be above 0 and below 1");
        }
        if let Some((field, detail)) = self.early_stopping.and_then(|rule| rule.validate()) {
            check(false, format!("/early_stopping/{field}"), detail);
        }
    }
}

impl Step {
    /// A step at a constant rate, the same for all layers, for all its epochs.
    pub fn new(scope: Scope, learning_rate: f64, epochs: u32) -> Self {
        let schedule = Schedule::Constant;
        Self {
            scope,
            learning_rate,
            epochs,
            schedule,
            layer_decay: default_layer_decay(),
            early_stopping: None,
            range_test: None,
        }
    }

    pub(super) fn validate_options(&self, at: &str, check: Check<'_>) {
        if let Some((field, detail)) = self.schedule.validate() {
            check(false, format!("{at}/schedule/{field}"), detail);
        }
        let decay = self.layer_decay;
        check(decay > 0.0 && decay <= 1.0, format!("{at}/layer_decay"), "must be above 0 and at most 1");
        let of_a_head = self.scope == Scope::Head && decay < 1.0;
        check(
            !of_a_head,
            format!("{at}/layer_decay"),
            "must be 1 in a head step, which trains no layer below the head",
        );
        if let Some((field, detail)) = self.early_stopping.and_then(|rule| rule.validate()) {
            check(false, format!("{at}/early_stopping/{field}"), detail);
        }
        if let Some((field, detail)) = self.range_test.and_then(|test| test.validate()) {
            check(false, format!("{at}/range_test/{field}"), detail);
        }
    }
}

/// The default of [`Step::layer_decay`].
pub(super) fn default_layer_decay() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Augmentation, EarlyStopping, RangeTest, recipe};

    #[test]
    fn a_plan_that_was_stored_before_reads_with_all_of_it_off() {
        let stored = r#"{"architecture": "simple-cnn", "initial_weights": "random", "batch_size": 8, "optimizer": "adam",
            "dropout": 0.5, "selection": {"split": "validation", "metric": "accuracy"},
            "stages": [{"image_size": 64, "steps": [{"scope": "all", "learning_rate": 0.001, "epochs": 6}]}]}"#;
        let plan: TrainingPlan = serde_json::from_str(stored).unwrap();
        assert_eq!((plan.class_weights, plan.sampling), (ClassWeights::None, Sampling::Shuffle));
        assert_eq!((plan.label_smoothing, plan.weight_averaging, plan.early_stopping), (0.0, None, None));
        assert!(!plan.augments_images());
        assert_eq!(plan.stages[0].steps[0], Step::new(Scope::All, 0.001, 6));
        assert_eq!(plan.validate(), []);
    }

    #[test]
    fn each_wrong_field_is_named() {
        let mut plan = recipe("covid-resnet").unwrap().plan;
        plan.label_smoothing = 0.6;
        plan.mixup = f64::NAN;
        plan.augmentation = Augmentation { zoom: 0.9, brightness: -1.0, ..Augmentation::default() };
        plan.weight_averaging = Some(WeightAveraging { decay: 1.0 });
        plan.early_stopping = Some(EarlyStopping { patience: 0, min_delta: 0.0 });
        let [head, all] = plan.stages[0].steps.as_mut_slice() else { panic!("a step of each scope") };
        head.layer_decay = 0.5;
        head.schedule = Schedule::Cosine { final_fraction: 1.5 };
        all.layer_decay = 0.0;
        all.early_stopping = Some(EarlyStopping { patience: 1, min_delta: -1.0 });
        all.range_test = Some(RangeTest { from: 0.1, to: 0.01, ..RangeTest::default() });
        let pointers: Vec<_> = plan.validate().into_iter().map(|problem| problem.pointer).collect();
        let expected = [
            "/label_smoothing",
            "/mixup",
            "/augmentation/zoom",
            "/augmentation/brightness",
            "/weight_averaging/decay",
            "/early_stopping/patience",
            "/stages/0/steps/0/schedule/final_fraction",
            "/stages/0/steps/0/layer_decay",
            "/stages/0/steps/1/layer_decay",
            "/stages/0/steps/1/early_stopping/min_delta",
            "/stages/0/steps/1/range_test/to",
        ];
        assert_eq!(pointers, expected);
    }

    #[test]
    fn the_average_forgets_its_beginning_at_first_and_then_as_the_plan_says() {
        let averaging = WeightAveraging { decay: 0.9 };
        assert_eq!([1, 9, 81, 1000].map(|number| averaging.decay_at(number)), [0.1, 0.5, 0.9, 0.9]);
    }
}
