//! Training plans: what is trained, in which stages and steps, and by which score the best epoch of a stage is selected.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

mod options;

use super::{Augmentation, EarlyStopping, MAX_IMAGE_SIZE, Position, RangeTest, Schedule, Split};
pub use options::{ClassWeights, Sampling, WeightAveraging};

/// Network architecture: `resnet50`, `vgg16` or `simple-cnn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Architecture {
    /// ResNet-50 (He et al. 2015). The initial weights decide which convolution of a bottleneck has the stride of 2.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// VGG-16 (Simonyan & Zisserman 2015) with global average pooling and the classification head of the ResNet. Random initial weights
    /// only.
    #[serde(rename = "vgg16")]
    Vgg16,
    /// Small network: three 3x3 convolutions (32, 32, 64 channels), max-pooling, dropout, dense layer of 128, output layer. Random
    /// initial weights only.
    #[serde(rename = "simple-cnn")]
    SimpleCnn,
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 3] = [Self::ResNet50, Self::Vgg16, Self::SimpleCnn];

    /// The name in plans, in the database and in the HTTP API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResNet50 => "resnet50",
            Self::Vgg16 => "vgg16",
            Self::SimpleCnn => "simple-cnn",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Unknown name of an architecture.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("architecture must be resnet50, vgg16 or simple-cnn (got {0:?})")]
pub struct InvalidArchitecture(String);

impl FromStr for Architecture {
    type Err = InvalidArchitecture;

    fn from_str(text: &str) -> Result<Self, InvalidArchitecture> {
        let architecture = Self::ALL.into_iter().find(|architecture| architecture.as_str() == text);
        architecture.ok_or_else(|| InvalidArchitecture(text.to_owned()))
    }
}

/// Origin of the initial weights of the network body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialWeights {
    /// Pretrained ImageNet weights, which must have been imported. ResNet-50 only.
    ImageNet,
    /// Random weights (He initialisation).
    Random,
}

/// Optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam (Kingma & Ba 2014) with β₁ = 0.9, β₂ = 0.999 and ε = 1e-7, as in Keras.
    Adam,
}

/// Parameters that a step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The classification head only. The body is frozen, including its batch-norm statistics.
    Head,
    /// The whole network.
    All,
}

/// Score by which the best epoch of a stage is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// Fraction of correctly classified images; higher is better.
    Accuracy,
    /// Unweighted mean of the per-class F1 scores; higher is better.
    MacroF1,
    /// Mean cross-entropy; lower is better.
    Loss,
}

impl SelectionMetric {
    /// The name in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro_f1",
            Self::Loss => "loss",
        }
    }
}

/// Selection of a stage's best epoch, whose weights become the model of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Selection {
    /// Split on which the metric is computed: `validation`, or `test`. Selecting on `test` reproduces the original report, but makes the
    /// reported test scores optimistic.
    pub split: Split,
    /// Metric that is compared between epochs.
    pub metric: SelectionMetric,
}

/// A step of a stage: a number of epochs that train the same parameters with one learning-rate schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Parameters that the step trains: `head` or `all`.
    pub scope: Scope,
    /// Base learning rate of the schedule, above 0 and at most 1.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub learning_rate: f64,
    /// Number of epochs (passes over the training split), 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub epochs: u32,
    /// Learning-rate schedule over the batches of the step. Default: constant.
    #[serde(default)]
    pub schedule: Schedule,
    /// Layer-wise learning-rate decay, above 0 and at most 1. Default: 1, the same rate for all layers. The head trains at
    /// `learning_rate`, and each layer group below it at `layer_decay` times the rate of the group above. The layer groups of ResNet-50
    /// are its four stages and its stem; those of the small network are its convolutions. Must be 1 in a step of scope `head`.
    #[serde(default = "options::default_layer_decay")]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1.0)]
    pub layer_decay: f64,
    /// Early stopping of this step. Default: the plan's `early_stopping`.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// Learning-rate range test before the step (Smith 2017). Default: none. The test trains a temporary copy of the network, and the
    /// step uses the rate at which its loss falls fastest. If the loss never falls, the step uses `learning_rate`.
    #[serde(default)]
    pub range_test: Option<RangeTest>,
}

/// A stage of a plan: steps at one image size. Its best epoch becomes a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Side of the square input images in pixels, 32 to 1024.
    #[schema(minimum = 32, maximum = 1024)]
    pub image_size: u32,
    /// Steps in the order of training, 1 to 16.
    pub steps: Vec<Step>,
}

/// Training plan: network, optimization, regularization, augmentation and the stages of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// Network architecture.
    pub architecture: Architecture,
    /// Origin of the initial weights of the network body: `imagenet` (ResNet-50 only) or `random`.
    pub initial_weights: InitialWeights,
    /// Batch size in images, 1 to 512; at least 2 for networks with batch normalisation (`resnet50`, `vgg16`).
    #[schema(minimum = 1, maximum = 512)]
    pub batch_size: u32,
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Dropout probability in the classification head, at least 0 and below 1.
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub dropout: f64,
    /// Split and metric by which the best epoch of a stage is selected.
    pub selection: Selection,
    /// Checkpoint interval within an epoch, in minutes of training, above 0 and at most 1440. Default: 10. A checkpoint is also written
    /// at the end of each epoch.
    #[serde(default = "default_checkpoint_minutes")]
    #[schema(minimum = 0.0, maximum = 1440.0, default = 10.0)]
    pub checkpoint_minutes: f64,
    /// Class weights of the loss. Default: `none`.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Sampling of the images of an epoch. Default: `shuffle`.
    #[serde(default)]
    pub sampling: Sampling,
    /// Label smoothing (Szegedy et al. 2015, arXiv:1512.00567): ε, 0 to 0.5, the part of each target distribution that is spread uniformly
    /// over all classes. Default: 0 (off).
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub label_smoothing: f64,
    /// Mixup (Zhang et al. 2018, arXiv:1710.09412): α of λ ~ Beta(α, α), 0.01 to 10, or 0 (off). Default: 0. Each image is mixed with an
    /// image of a shuffled copy of its batch. The training loss is mixed in the same way; training accuracy counts the label with
    /// the larger weight.
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub mixup: f64,
    /// Random augmentation of the training images. Default: `{}` (off).
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Exponential moving average of the weights, which is evaluated and stored in place of the last weights. Default: none.
    #[serde(default)]
    pub weight_averaging: Option<WeightAveraging>,
    /// Early stopping of the steps that have no `early_stopping` of their own. Default: none.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// Stages in the order of training, 1 to 16. Each stage starts from the best epoch of the previous stage.
    pub stages: Vec<Stage>,
}

/// The default of [`TrainingPlan::checkpoint_minutes`]. An interrupted run repeats at most ten minutes, and writing a checkpoint takes at
/// most a hundredth of that.
pub(super) fn default_checkpoint_minutes() -> f64 {
    10.0
}

/// Declares [`PlanOverrides`] with the fields of [`TrainingPlan`] that are read as a whole, and with the stages. A field of the plan that is
/// not listed here does not compile.
macro_rules! plan_overrides {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// Plan fields that replace those of the recipe. Absent fields keep the value of the recipe.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct PlanOverrides {
            $($(#[$doc])* pub $field: Option<$type>,)*
            /// Replaces [`TrainingPlan::stages`] as a whole.
            pub stages: Option<Vec<Stage>>,
        }

        impl PlanOverrides {
            /// Reads each field by `reader`, and the stages, which have fields of their own, by `read_stages`.
            pub fn read<R: FieldReader>(
                reader: &mut R,
                read_stages: impl FnOnce(&mut R) -> Option<Vec<Stage>>,
            ) -> Self {
                Self { $($field: reader.read(stringify!($field)),)* stages: read_stages(reader) }
            }
        }

        impl TrainingPlan {
            /// The plan with the fields of `overrides` replaced.
            pub fn with(self, overrides: PlanOverrides) -> Self {
                Self {
                    $($field: overrides.$field.map_or(self.$field, Into::into),)*
                    stages: overrides.stages.unwrap_or(self.stages),
                }
            }
        }
    };
}

plan_overrides! {
    /// Replaces [`TrainingPlan::architecture`].
    architecture: Architecture,
    /// Replaces [`TrainingPlan::initial_weights`].
    initial_weights: InitialWeights,
    /// Replaces [`TrainingPlan::batch_size`].
    batch_size: u32,
    /// Replaces [`TrainingPlan::optimizer`].
    optimizer: Optimizer,
    /// Replaces [`TrainingPlan::dropout`].
    dropout: f64,
    /// Replaces [`TrainingPlan::selection`].
    selection: Selection,
    /// Replaces [`TrainingPlan::checkpoint_minutes`].
    checkpoint_minutes: f64,
    /// Replaces [`TrainingPlan::class_weights`].
    class_weights: ClassWeights,
    /// Replaces [`TrainingPlan::sampling`].
    sampling: Sampling,
    /// Replaces [`TrainingPlan::label_smoothing`].
    label_smoothing: f64,
    /// Replaces [`TrainingPlan::mixup`].
    mixup: f64,
    /// Replaces [`TrainingPlan::augmentation`] as a whole.
    augmentation: Augmentation,
    /// Replaces [`TrainingPlan::weight_averaging`].
    weight_averaging: WeightAveraging,
    /// Replaces [`TrainingPlan::early_stopping`].
    early_stopping: EarlyStopping,
}

/// Reader of an object's fields that reports a value of the wrong type, so that the others are read as well.
pub trait FieldReader {
    /// The field of that name; `None` if it is absent, null or unreadable.
    fn read<T: DeserializeOwned>(&mut self, name: &str) -> Option<T>;
}

/// An invalid value in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanProblem {
    /// JSON pointer (RFC 6901) to the value within the plan.
    pub pointer: String,
    /// Accepted values and the value given.
    pub detail: String,
}

/// Collects the problems of a plan.
struct Validator {
    problems: Vec<PlanProblem>,
}

impl Validator {
    /// Adds a problem at `pointer` unless `valid`: "must be `requirement` (got `value`)".
    fn require(&mut self, valid: bool, pointer: impl Into<String>, requirement: &str, value: impl Display) {
        if !valid {
            self.add(pointer, must_be(requirement, value));
        }
    }

    /// Adds a problem at `pointer`.
    fn add(&mut self, pointer: impl Into<String>, detail: String) {
        self.problems.push(PlanProblem { pointer: pointer.into(), detail });
    }
}

/// The detail of a [`PlanProblem`]: "must be between 1 and 512 (got 0)".
pub(super) fn must_be(requirement: &str, value: impl Display) -> String {
    format!("must be {requirement} (got {value})")
}

impl TrainingPlan {
    /// Number of epochs over all stages and steps.
    pub fn total_epochs(&self) -> u32 {
        self.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.epochs).sum()
    }

    /// The step that contains `position`, or the first step after it.
    pub fn step_from(&mut self, position: Position) -> Option<&mut Step> {
        let stages = self.stages.iter_mut().zip(1u32..).filter(|(_, stage)| *stage >= position.stage);
        let mut steps = stages.flat_map(|(stage, number)| {
            let first = if number == position.stage { position.step as usize - 1 } else { 0 };
            stage.steps.iter_mut().skip(first)
        });
        steps.next()
    }

    /// All problems of the plan; empty if it can be trained.
    pub fn validate(&self) -> Vec<PlanProblem> {
        let mut validator = Validator { problems: Vec::new() };
        let v = &mut validator;
        v.require((1..=512).contains(&self.batch_size), "/batch_size", "between 1 and 512", self.batch_size);
        if self.batch_size == 1 && self.architecture != Architecture::SimpleCnn {
            let name = self.architecture;
            let detail = format!(
                "must be at least 2 for {name}: batch normalisation in its head needs several images per batch, because the variance \
                 of one value is 0 (got 1)"
            );
            v.add("/batch_size", detail);
        }
        v.require((0.0..1.0).contains(&self.dropout), "/dropout", "at least 0 and below 1", self.dropout);
        if self.architecture != Architecture::ResNet50 && self.initial_weights != InitialWeights::Random {
            let detail = format!("must be random for {}: only resnet50 has ImageNet weights", self.architecture);
            v.add("/initial_weights", detail);
        }
        let split = self.selection.split;
        v.require(split != Split::Train, "/selection/split", "validation or test", split);
        let minutes = self.checkpoint_minutes;
        v.require(minutes > 0.0 && minutes <= 1440.0, "/checkpoint_minutes", "above 0 and at most 1440", minutes);
        self.validate_options(v);
        let stages = self.stages.len();
        v.require((1..=16).contains(&stages), "/stages", "a list of 1 to 16 stages", stages);
        for (index, stage) in self.stages.iter().enumerate() {
            stage.validate(&format!("/stages/{index}"), v);
        }
        validator.problems
    }
}

impl Stage {
    fn validate(&self, pointer: &str, v: &mut Validator) {
        let sizes = 32..=MAX_IMAGE_SIZE;
        let requirement = format!("between {} and {} pixels", sizes.start(), sizes.end());
        v.require(sizes.contains(&self.image_size), format!("{pointer}/image_size"), &requirement, self.image_size);
        let steps = self.steps.len();
        v.require((1..=16).contains(&steps), format!("{pointer}/steps"), "a list of 1 to 16 steps", steps);
        for (index, step) in self.steps.iter().enumerate() {
            let pointer = format!("{pointer}/steps/{index}");
            let rate = step.learning_rate;
            let valid_rate = rate > 0.0 && rate <= 1.0;
            v.require(valid_rate, format!("{pointer}/learning_rate"), "above 0 and at most 1", rate);
            let valid_epochs = (1..=1000).contains(&step.epochs);
            v.require(valid_epochs, format!("{pointer}/epochs"), "between 1 and 1000", step.epochs);
            step.validate_options(&pointer, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::recipe;

    #[test]
    fn a_problem_names_the_accepted_range_and_the_value_given() {
        let mut plan = recipe("covid-resnet").expect("a recipe").plan;
        plan.batch_size = 0;
        plan.stages[0].image_size = 2000;
        let problems = plan.validate();
        let details: Vec<_> = problems.iter().map(|problem| problem.detail.as_str()).collect();
        assert_eq!(details, ["must be between 1 and 512 (got 0)", "must be between 32 and 1024 pixels (got 2000)"]);
    }

    #[test]
    fn batch_normalisation_over_one_value_is_refused() {
        for architecture in Architecture::ALL {
            let mut plan = recipe("simple-cnn").expect("a recipe").plan;
            (plan.architecture, plan.batch_size) = (architecture, 1);
            let pointers: Vec<_> = plan.validate().into_iter().map(|problem| problem.pointer).collect();
            let refused = architecture != Architecture::SimpleCnn;
            assert_eq!(pointers == ["/batch_size"], refused, "{architecture}: {pointers:?}");
        }
    }

    #[test]
    fn the_name_of_an_architecture_is_that_in_plans() {
        for architecture in Architecture::ALL {
            let written = serde_json::to_value(architecture).expect("JSON");
            assert_eq!(written, architecture.as_str());
            assert_eq!(architecture.as_str().parse(), Ok(architecture));
        }
        assert!("resnet18".parse::<Architecture>().is_err());
    }
}
