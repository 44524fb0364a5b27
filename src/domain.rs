//! The words of the field, with no dependency on how they are stored, computed or served.

mod augmentation;
mod ids;
mod label;
mod metrics;
mod model;
mod plan;
mod range_test;
mod recipe;
mod run;
mod schedule;

pub use augmentation::Augmentation;
pub use ids::{DatasetId, EvaluationId, ImportId, InvalidId, ModelId, PredictionId, RadiographId, RunId, Sha256};
pub use label::{ClassList, InvalidClasses, NOTICE, Split};
pub use metrics::{Averages, ClassMetrics, ConfusionMatrix};
pub use model::{BlockVariant, DeviceInfo, ModelSpec, Normalisation};
pub use plan::{
    Architecture, ClassWeights, InitialWeights, Optimizer, PlanOverrides, PlanProblem, Sampling, Scope, Selection,
    SelectionMetric, Stage, Step, TrainingPlan, WeightAveraging,
};
pub use range_test::{RangeTest, RateCurve};
pub use recipe::{Recipe, recipe, recipes};
pub use run::{EpochRecord, EpochScores, IllegalMove, RunProgress, RunStatus};
pub use schedule::{BatchIndex, EarlyStopping, Schedule};
