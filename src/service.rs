//! The application layer: one function a use case, shared by the front ends (HTTP and the command line). A front end parses its input,
//! calls one function of this module and renders the result. Nothing here knows HTTP or a terminal.
//!
//! Failures are typed ([`Error`]). Invalid input is reported whole: one [`FieldError`] for each wrong field, named by a JSON pointer.

mod challenger;
mod comparison;
mod datasets;
mod error;
mod evaluations;
mod feedback;
mod fields;
mod gate;
mod heatmaps;
mod idempotency;
mod imports;
mod live;
mod models;
mod parts;
mod plain_words;
mod prediction_jobs;
mod predictor;
mod repeat;
mod report;
mod schedule;
mod scores;
mod submission;
mod uploads;
mod weights;

pub use challenger::{CHALLENGER, Challenger};
pub use comparison::{MAX_COMPARED_RUNS, compare};
pub use datasets::{delete_dataset, delete_radiograph, find_dataset, find_radiograph};
pub use error::{Error, FieldError};
pub use evaluations::{NewEvaluation, group};
pub use feedback::{FeedbackImage, set_feedback, set_feedback_with_image};
pub use fields::{Fields, JsonObject, into_result};
pub use gate::{Gate, GateComparison};
pub use heatmaps::{Explained, Heatmaps};
pub use idempotency::{Attempt, IdempotencyKeys, PreviousResponse, RepeatableResponse, RequestDigest, Reservation};
pub use imports::{ImportSpec, Imports, NewGeneration, NewImport};
pub use live::input_baseline;
pub use models::Models;
pub use parts::{AliasLock, Intake, KnownModels, Lifecycle, Limits, Serving, TrainingControl};
pub use plain_words::value_error;
pub use prediction_jobs::{ArchiveUpload, JobQueue, PredictionJobs};
pub use predictor::{Content, DecodedImage, ModelSelection, NewPrediction, Predictor};
pub use repeat::repeat;
pub use report::report;
pub use schedule::{TrainingRun, schedule, schedule_all};
pub use scores::complete_scores;
pub use submission::{DEFAULT_RECIPE, RunRequest, read_plan_overrides, submit};
pub use uploads::Uploads;
pub use weights::import_weights;

use crate::store::Stores;
