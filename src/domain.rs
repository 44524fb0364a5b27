//! The words of the field, with no dependency on how they are stored, computed or served.

mod event;
mod ids;
mod label;
mod losses;
mod metrics;
mod model;
mod plan;
mod queue;
mod recipe;
mod run;
mod work;

pub use event::{BatchEvent, RunEvent, ScoresOfEpoch, TrainedBatch};
pub use ids::{DatasetId, EvaluationId, ImportId, InvalidId, ModelId, PredictionId, RadiographId, RunId, Sha256};
pub use label::{ClassList, InvalidClasses, NOTICE, Split};
pub use losses::{LossCurve, LossPoint, MOST_LOSS_POINTS};
pub use metrics::{Averages, ClassMetrics, ConfusionMatrix, Outcome};
pub use model::{BlockVariant, DeviceInfo, ModelSpec, Normalisation};
pub use plan::{
    Architecture, InitialWeights, Optimizer, PlanOverrides, PlanProblem, Scope, Selection, SelectionMetric, Stage,
    Step, TrainingPlan,
};
pub use queue::{Slot, slots};
pub use recipe::{Recipe, recipe, recipes};
pub use run::{EpochRecord, EpochScores, IllegalMove, Position, RunAction, RunProgress, RunStatus};
pub use work::{FORWARD_AND_BACKWARD, ImageCounts, pixels};
