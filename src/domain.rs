//! The words of the field, with no dependency on how they are stored, computed or served.

mod ids;
mod label;
mod metrics;
mod model;
mod plan;
mod recipe;
mod run;

pub use ids::{DatasetId, EvaluationId, ImportId, InvalidId, ModelId, PredictionId, RadiographId, RunId, Sha256};
pub use label::{ClassList, InvalidClasses, NOTICE, Split};
pub use metrics::{Averages, ClassMetrics, ConfusionMatrix, Outcome};
pub use model::{BlockVariant, DeviceInfo, ModelSpec, Normalisation};
pub use plan::{
    Architecture, InitialWeights, Optimizer, PlanOverrides, PlanProblem, Scope, Selection, SelectionMetric, Stage,
    Step, TrainingPlan,
};
pub use recipe::{Recipe, recipe, recipes};
pub use run::{EpochRecord, EpochScores, IllegalMove, Position, RunAction, RunProgress, RunStatus};
