//! A training plan: what is trained, in which stages and steps, and how its best epoch is chosen.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod options;

use super::{Augmentation, EarlyStopping, MAX_IMAGE_SIZE, Position, RangeTest, Schedule, Split};
pub use options::{ClassWeights, Sampling, WeightAveraging};

/// The network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Architecture {
    /// ResNet-50 (He et al. 2015); the initial weights decide where the stride of 2 stands.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// VGG-16 (Simonyan & Zisserman 2015), its last maps averaged, with the ResNet's head; from random weights only.
    #[serde(rename = "vgg16")]
    Vgg16,
    /// Three convolutions of 3x3 (32, 32, 64), max-pooling, dropout, dense 128, output.
    #[serde(rename = "simple-cnn")]
    SimpleCnn,
}

/// Where the body's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialWeights {
    /// The imported ImageNet weights.
    ImageNet,
    /// Random (He initialisation).
    Random,
}

/// The optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam (Kingma & Ba 2014), beta 0.9 and 0.999, epsilon 1e-7 as in Keras.
    Adam,
}

/// Which parameters a step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The head alone: the body is frozen, batch-norm statistics included.
    Head,
    /// The whole network.
    All,
}

/// The score by which the best epoch of a stage is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// Share of images classified correctly.
    Accuracy,
    /// Unweighted mean of the classes' F1.
    MacroF1,
    /// Mean cross-entropy (lower is better).
    Loss,
}

impl SelectionMetric {
    /// As it is written in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro_f1",
            Self::Loss => "loss",
        }
    }
}

/// How the best epoch of a stage is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Selection {
    /// `validation` is honest; `test` reproduces the report and makes its scores optimistic.
    pub split: Split,
    /// What is compared.
    pub metric: SelectionMetric,
}

/// Epochs with one scope and learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is trained.
    pub scope: Scope,
    /// Learning rate, above 0 and at most 1.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub learning_rate: f64,
    /// Passes over the training split, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub epochs: u32,
    /// How the learning rate goes from the first batch to the last.
    #[serde(default)]
    pub schedule: Schedule,
    /// The head trains at the learning rate, each group of layers below it at this share of the rate of the group above, above 0 and
    /// at most 1. ResNet-50's groups are its four stages and its stem, the small network's its convolutions.
    #[serde(default = "options::default_layer_decay")]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 1.0)]
    pub layer_decay: f64,
    /// Ends the step early; the plan's rule when absent.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// Chooses the learning rate before the step: the rate at which the loss of a throw-away copy of the network falls fastest.
    /// `learning_rate` is then taken only if that loss never falls.
    #[serde(default)]
    pub range_test: Option<RangeTest>,
}

/// Steps at one image size; the best epoch becomes the stage's model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Side of the square input in pixels, 32 to 1024.
    #[schema(minimum = 32, maximum = 1024)]
    pub image_size: u32,
    /// In order.
    pub steps: Vec<Step>,
}

/// A complete plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    /// The network.
    pub architecture: Architecture,
    /// Where its body's weights come from.
    pub initial_weights: InitialWeights,
    /// Images a step, 1 to 512.
    #[schema(minimum = 1, maximum = 512)]
    pub batch_size: u32,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Dropout probability in the head, 0 to below 1.
    #[schema(minimum = 0.0, exclusive_maximum = 1.0)]
    pub dropout: f64,
    /// How the best epoch of a stage is chosen.
    pub selection: Selection,
    /// How long training goes on within an epoch before it writes a checkpoint, in minutes, above 0 and at most 1440; each epoch's end has
    /// one of its own.
    #[serde(default = "default_checkpoint_minutes")]
    #[schema(minimum = 0.0, maximum = 1440.0, default = 10.0)]
    pub checkpoint_minutes: f64,
    /// What the images of each class count in the loss.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Which images an epoch has.
    #[serde(default)]
    pub sampling: Sampling,
    /// What the targets of the loss give away to all classes alike, 0 (off) to 0.5 (Szegedy et al. 2015, arXiv:1512.00567).
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub label_smoothing: f64,
    /// Mixes each image of a batch with another one: `alpha` of mixup's Beta(alpha, alpha), 0 (off) or 0.01 to 10 (Zhang et al. 2017,
    /// arXiv:1710.09412).
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub mixup: f64,
    /// Random changes of the training images; `{}` is none.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Evaluates and keeps a moving average of the weights.
    #[serde(default)]
    pub weight_averaging: Option<WeightAveraging>,
    /// Ends each step early that names no rule of its own.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
    /// In order; each starts from the best epoch of the one before.
    pub stages: Vec<Stage>,
}

/// Of plans that say nothing: little is lost, and writing takes a hundredth of it at most.
pub(super) fn default_checkpoint_minutes() -> f64 {
    10.0
}

/// Fields that replace a recipe's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanOverrides {
    /// Replaces [`TrainingPlan::architecture`].
    pub architecture: Option<Architecture>,
    /// Replaces [`TrainingPlan::initial_weights`].
    pub initial_weights: Option<InitialWeights>,
    /// Replaces [`TrainingPlan::batch_size`].
    pub batch_size: Option<u32>,
    /// Replaces [`TrainingPlan::optimizer`].
    pub optimizer: Option<Optimizer>,
    /// Replaces [`TrainingPlan::dropout`].
    pub dropout: Option<f64>,
    /// Replaces [`TrainingPlan::selection`].
    pub selection: Option<Selection>,
    /// Replaces [`TrainingPlan::checkpoint_minutes`].
    pub checkpoint_minutes: Option<f64>,
    /// Replaces [`TrainingPlan::class_weights`].
    pub class_weights: Option<ClassWeights>,
    /// Replaces [`TrainingPlan::sampling`].
    pub sampling: Option<Sampling>,
    /// Replaces [`TrainingPlan::label_smoothing`].
    pub label_smoothing: Option<f64>,
    /// Replaces [`TrainingPlan::mixup`].
    pub mixup: Option<f64>,
    /// Replaces [`TrainingPlan::augmentation`] as a whole.
    pub augmentation: Option<Augmentation>,
    /// Replaces [`TrainingPlan::weight_averaging`].
    pub weight_averaging: Option<WeightAveraging>,
    /// Replaces [`TrainingPlan::early_stopping`].
    pub early_stopping: Option<EarlyStopping>,
    /// Replaces [`TrainingPlan::stages`] as a whole.
    pub stages: Option<Vec<Stage>>,
}

/// One thing wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanProblem {
    /// JSON pointer (RFC 6901) into the plan.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl TrainingPlan {
    /// Replaces the fields that `overrides` names.
    pub fn with(mut self, overrides: PlanOverrides) -> Self {
        self.architecture = overrides.architecture.unwrap_or(self.architecture);
        self.initial_weights = overrides.initial_weights.unwrap_or(self.initial_weights);
        self.batch_size = overrides.batch_size.unwrap_or(self.batch_size);
        self.optimizer = overrides.optimizer.unwrap_or(self.optimizer);
        self.dropout = overrides.dropout.unwrap_or(self.dropout);
        self.selection = overrides.selection.unwrap_or(self.selection);
        self.class_weights = overrides.class_weights.unwrap_or(self.class_weights);
        self.sampling = overrides.sampling.unwrap_or(self.sampling);
        self.label_smoothing = overrides.label_smoothing.unwrap_or(self.label_smoothing);
        self.mixup = overrides.mixup.unwrap_or(self.mixup);
        self.augmentation = overrides.augmentation.unwrap_or(self.augmentation);
        self.weight_averaging = overrides.weight_averaging.or(self.weight_averaging);
        self.early_stopping = overrides.early_stopping.or(self.early_stopping);
        self.checkpoint_minutes = overrides.checkpoint_minutes.unwrap_or(self.checkpoint_minutes);
        self.stages = overrides.stages.unwrap_or(self.stages);
        self
    }

    /// Epochs over all stages and steps.
    pub fn total_epochs(&self) -> u32 {
        self.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.epochs).sum()
    }

    /// The step that a position is in, or the first one after it.
    pub fn step_from(&mut self, position: Position) -> Option<&mut Step> {
        let stages = self.stages.iter_mut().zip(1u32..).filter(|(_, stage)| *stage >= position.stage);
        let mut steps = stages.flat_map(|(stage, number)| {
            let first = if number == position.stage { position.step as usize - 1 } else { 0 };
            stage.steps.iter_mut().skip(first)
        });
        steps.next()
    }

    /// Everything wrong with the plan, each with its place; empty when it can run.
    pub fn validate(&self) -> Vec<PlanProblem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, pointer: String, detail: &str| {
            if !ok {
                problems.push(PlanProblem { pointer, detail: detail.into() });
            }
        };
        check((1..=512).contains(&self.batch_size), "/batch_size".into(), "must be 1 to 512");
        check((0.0..1.0).contains(&self.dropout), "/dropout".into(), "must be at least 0 and below 1");
        let has_weights = self.architecture == Architecture::ResNet50 || self.initial_weights == InitialWeights::Random;
        check(has_weights, "/initial_weights".into(), "only resnet50 has ImageNet weights: use random");
        check(self.selection.split != Split::Train, "/selection/split".into(), "must be validation or test");
        let minutes = self.checkpoint_minutes;
        check(minutes > 0.0 && minutes <= 1440.0, "/checkpoint_minutes".into(), "must be above 0 and at most 1440");
        self.validate_options(&mut check);
        check((1..=16).contains(&self.stages.len()), "/stages".into(), "must hold 1 to 16 stages");
        for (s, stage) in self.stages.iter().enumerate() {
            let at = format!("/stages/{s}");
            check(
                (32..=MAX_IMAGE_SIZE).contains(&stage.image_size),
                format!("{at}/image_size"),
                "must be 32 to 1024 pixels",
            );
            check((1..=16).contains(&stage.steps.len()), format!("{at}/steps"), "must hold 1 to 16 steps");
            for (t, step) in stage.steps.iter().enumerate() {
                let at = format!("{at}/steps/{t}");
                let rate = step.learning_rate;
                check(rate > 0.0 && rate <= 1.0, format!("{at}/learning_rate"), "must be above 0 and at most 1");
                check((1..=1000).contains(&step.epochs), format!("{at}/epochs"), "must be 1 to 1000");
                step.validate_options(&at, &mut check);
            }
        }
        problems
    }
}
