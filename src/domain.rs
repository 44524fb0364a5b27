//! The words of the field, with no dependency on how they are stored, computed or served.

mod activation;
mod augmentation;
mod event;
mod grouping;
mod ids;
mod label;
mod leakage;
mod live;
mod look;
mod losses;
mod metrics;
mod model;
mod plan;
mod queue;
mod radiograph;
mod range_test;
mod recipe;
mod run;
mod schedule;
mod work;

pub use activation::ActivationMap;
pub use augmentation::Augmentation;
pub use event::{BatchEvent, RunEvent, ScoresOfEpoch, TrainedBatch};
pub use grouping::Grouping;
pub use ids::{
    DatasetId, EvaluationId, ImportId, InvalidId, ModelId, PredictionId, PredictionJobId, RadiographId, RunId, Sha256,
};
pub use label::{ClassList, InvalidClasses, NOTICE, Split};
pub use leakage::{LeakageFinding, LeakageKind};
pub use live::{Histogram, InputCounts, InputStatistics, LiveCounts, Statistic};
pub use look::{LOOK_SIDE, Look};
pub use losses::{LossCurve, LossPoint, MOST_LOSS_POINTS};
pub use metrics::{Averages, ClassMetrics, ConfusionMatrix, Outcome};
pub use model::{BlockVariant, DeviceInfo, LARGEST_SIDE, ModelSpec, Normalisation};
pub use plan::{
    Architecture, ClassWeights, InitialWeights, Optimizer, PlanOverrides, PlanProblem, Sampling, Scope, Selection,
    SelectionMetric, Stage, Step, TrainingPlan, WeightAveraging,
};
pub use queue::{Slot, slots};
pub use radiograph::{DicomAttributes, Flag, is_lateral};
pub use range_test::{RangeTest, RateChoice, RateCurve, RatePoint};
pub use recipe::{Recipe, recipe, recipes};
pub use run::{EpochRecord, EpochScores, IllegalMove, Position, RunAction, RunProgress, RunStatus};
pub use schedule::{BatchIndex, EarlyStopping, Schedule};
pub use work::{BodyWork, ImageCounts, pixels};
