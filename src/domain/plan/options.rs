//! Optional parts of a plan: class weights, sampling, weight averaging, label smoothing, mixup, schedules. All default to off.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Scope, Step, TrainingPlan, Validator};
use crate::domain::Schedule;

/// Weights of the classes in the training loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// Every image has weight 1.
    #[default]
    None,
    /// An image of class c has weight n / (k · n_c), for n training images, n_c of them of class c, and k classes. The weights average
    /// to 1, and all classes have the same total weight. The loss is the mean over the images of the batch, not over their weights.
    Balanced,
}

/// Sampling of the training images of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every image once, in random order.
    #[default]
    Shuffle,
    /// Class-balanced sampling: the epoch has as many images as the training split, equally many of each class. Images of rare
    /// classes are repeated; those of frequent classes take turns over the epochs.
    Balanced,
}

/// Exponential moving average (EMA) of the weights over the batches of a step of scope `all`. The averaged weights are evaluated,
/// selected, stored and used as the start of the next step, in place of the weights after the last batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightAveraging {
    /// Decay of the average per batch, above 0 and below 1. The decay of batch n is at most n / (n + 9), so that the initial weights
    /// lose their influence within a few batches.
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub decay: f64,
}

impl WeightAveraging {
    /// The decay at batch `number` of a step, counted from 1.
    pub fn decay_at(self, number: u64) -> f64 {
        self.decay.min(number as f64 / (number as f64 + 9.0))
    }
}

impl TrainingPlan {
    /// True if the training images differ between epochs (augmentation or mixup). The features of a frozen body can then not be cached.
    pub fn augments_images(&self) -> bool {
        self.mixup > 0.0 || !self.augmentation.is_off()
    }

    pub(super) fn validate_options(&self, v: &mut Validator) {
        let smoothing = self.label_smoothing;
        v.require((0.0..=0.5).contains(&smoothing), "/label_smoothing", "between 0 and 0.5", smoothing);
        // Below 0.01 hardly any image is mixed, and sampling from the Beta distribution loses precision.
        let valid_mixup = self.mixup == 0.0 || (0.01..=10.0).contains(&self.mixup);
        v.require(valid_mixup, "/mixup", "0 or between 0.01 and 10", self.mixup);
        for (field, detail) in self.augmentation.validate() {
            v.add(format!("/augmentation/{field}"), detail);
        }
        if let Some(WeightAveraging { decay }) = self.weight_averaging {
            v.require(decay > 0.0 && decay < 1.0, "/weight_averaging/decay", "above 0 and below 1", decay);
        }
        if let Some((field, detail)) = self.early_stopping.and_then(|rule| rule.validate()) {
            v.add(format!("/early_stopping/{field}"), detail);
        }
    }
}

impl Step {
    /// A step with a constant learning rate, the same for all layers, without early stopping and range test.
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

    pub(super) fn validate_options(&self, pointer: &str, v: &mut Validator) {
        if let Some((field, detail)) = self.schedule.validate() {
            v.add(format!("{pointer}/schedule/{field}"), detail);
        }
        let decay = self.layer_decay;
        let at = format!("{pointer}/layer_decay");
        v.require(decay > 0.0 && decay <= 1.0, at.as_str(), "above 0 and at most 1", decay);
        if self.scope == Scope::Head && decay < 1.0 {
            v.add(at, format!("must be 1 in a step of scope head, which trains no layer below the head (got {decay})"));
        }
        if let Some((field, detail)) = self.early_stopping.and_then(|rule| rule.validate()) {
            v.add(format!("{pointer}/early_stopping/{field}"), detail);
        }
        if let Some((field, detail)) = self.range_test.and_then(|test| test.validate()) {
            v.add(format!("{pointer}/range_test/{field}"), detail);
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
    fn a_plan_without_options_has_them_off() {
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
    fn every_invalid_field_is_reported() {
        let mut plan = recipe("covid-resnet").unwrap().plan;
        plan.label_smoothing = 0.6;
        plan.mixup = f64::NAN;
        plan.augmentation = Augmentation { zoom: 0.9, brightness: -1.0, ..Augmentation::default() };
        plan.weight_averaging = Some(WeightAveraging { decay: 1.0 });
        plan.early_stopping = Some(EarlyStopping { patience: 0, min_delta: 0.0 });
        let [head, all] = plan.stages[0].steps.as_mut_slice() else { panic!("two steps") };
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
    fn decay_of_the_average_rises_to_that_of_the_plan() {
        let averaging = WeightAveraging { decay: 0.9 };
        assert_eq!([1, 9, 81, 1000].map(|number| averaging.decay_at(number)), [0.1, 0.5, 0.9, 0.9]);
    }
}
