//! Domain types: data sets, radiographs, training plans, runs, models, metrics. Independent of storage, computation and HTTP.

mod activation;
mod augmentation;
mod cost;
mod disjoint_set;
mod event;
mod fingerprint;
mod groups;
mod ids;
mod label;
mod leakage;
mod losses;
mod memory;
mod metrics;
mod model;
mod plan;
mod prediction_stats;
mod radiograph;
mod range_test;
mod recipe;
mod run;
mod schedule;
mod scores;
mod slot;
mod status;

pub use activation::ActivationMap;
pub use augmentation::Augmentation;
pub use cost::{BodyMode, ImageCounts, pixels};
pub use disjoint_set::DisjointSet;
pub use event::{BatchEvent, RunEvent, SplitScores, TrainedBatch};
pub use fingerprint::{FINGERPRINT_SIDE, Fingerprint};
pub use groups::GroupAttribute;
pub use ids::{
    DatasetId, EvaluationId, ImportId, InvalidId, ModelId, PredictionId, PredictionJobId, RadiographId, RunId, Sha256,
};
pub use label::{ClassList, InvalidClasses, InvalidSplit, MAX_TEXT_LENGTH, NOTICE, Split};
pub use leakage::{LeakageFinding, LeakageKind};
pub use losses::{LossCurve, LossPoint, MAX_LOSS_POINTS};
pub use memory::MemoryEstimate;
pub use metrics::{Averages, ClassMetrics, ConfusionMatrix, EvaluatedImage};
pub use model::{BlockVariant, DeviceInfo, MAX_IMAGE_SIZE, ModelSpec, Normalisation};
pub use plan::{
    Architecture, ClassWeights, FieldReader, InitialWeights, InvalidArchitecture, Optimizer, PlanOverrides,
    PlanProblem, Sampling, Scope, Selection, SelectionMetric, Stage, Step, TrainingPlan, WeightAveraging,
};
pub use prediction_stats::{Histogram, InputHistograms, InputStatistics, PredictionStats, Statistic};
pub use radiograph::{DicomAttributes, GreyRange, QualityFlag, RadiographField, is_lateral};
pub use range_test::{RangeTest, RangeTestCurve, RangeTestPoint, RangeTestResult};
pub use recipe::{Recipe, recipe, recipes};
pub use run::{EpochRecord, EpochScores, InvalidTransition, Position, RunAction, RunProgress, RunStatus};
pub use schedule::{BatchIndex, EarlyStopping, Schedule};
pub use scores::{AverageScores, ClassScores, Score, Scores};
pub use slot::{Slot, estimate_slots};
pub use status::{ImportStatus, PredictionJobStatus};
