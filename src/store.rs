//! The database and the blobs: one file a table, free async functions that take and return the field's words.
//! Times are RFC 3339 UTC.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::*;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or is gone.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A file could not be written or read.
    #[error("blob: {0}")]
    Blob(String),
    /// A row that this version cannot read.
    #[error("row: {0}")]
    Row(String),
    /// A unique name is taken.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// Something still refers to it.
    #[error("{0}")]
    InUse(&'static str),
    /// The run's state does not allow the move.
    #[error(transparent)]
    IllegalMove(#[from] IllegalMove),
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Identifier.
    pub id: DatasetId,
    /// Unique name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Output order of the networks trained on it.
    pub classes: ClassList,
    /// Drawn by `thorax demo`; no real patient.
    pub synthetic: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Counts by split and class; `distribution.images.train.normal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Distribution {
    /// Images. Split `unassigned` and class `unlabelled` collect the rest.
    pub images: BTreeMap<String, BTreeMap<String, u64>>,
    /// Unique patients.
    pub patients: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A stored radiograph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Radiograph {
    /// Identifier.
    pub id: RadiographId,
    /// Its data set.
    pub dataset_id: DatasetId,
    /// Of the uploaded bytes.
    pub sha256: Sha256,
    /// As uploaded.
    pub file_name: String,
    /// Class, if known.
    pub label: Option<String>,
    /// Patient, a keyed hash when the server has a patient key.
    pub patient_id: Option<String>,
    /// Origin.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `png` or `jpeg`.
    pub format: String,
    /// Size of the upload.
    pub byte_length: u64,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Filter of a radiograph list; absent fields do not filter.
#[derive(Clone, Debug, Default)]
pub struct RadiographFilter {
    /// Split.
    pub split: Option<Split>,
    /// Class.
    pub label: Option<String>,
    /// Origin.
    pub source: Option<String>,
}

/// Changes to a radiograph; absent fields stay.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RadiographPatch {
    /// Class.
    pub label: Option<String>,
    /// Patient.
    pub patient_id: Option<String>,
    /// Origin.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
}

/// A background import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Import {
    /// Identifier.
    pub id: ImportId,
    /// Into which data set.
    pub dataset_id: DatasetId,
    /// Folder, relative to the import root over HTTP.
    pub path: String,
    /// `running`, `succeeded` or `failed`.
    pub status: String,
    /// Rows or files found.
    pub total: u64,
    /// New radiographs.
    pub created: u64,
    /// Already there.
    pub duplicates: u64,
    /// Bad rows and files.
    pub rejected: u64,
    /// Why it failed as a whole.
    pub error: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// One rejected row or file of an import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportRejection {
    /// The split file or image, relative to the folder.
    pub file: String,
    /// Line of the split file, from 1.
    pub line: Option<u32>,
    /// Why.
    pub reason: String,
}

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Identifier.
    pub id: RunId,
    /// Data.
    pub dataset_id: DatasetId,
    /// The data's content when the run was submitted.
    pub dataset_fingerprint: String,
    /// Free name.
    pub name: Option<String>,
    /// Recipe it came from.
    pub recipe: Option<String>,
    /// Complete plan.
    pub plan: TrainingPlan,
    /// Seed of shuffling, initialisation and dropout.
    pub seed: u32,
    /// State.
    pub status: RunStatus,
    /// How far.
    pub progress: RunProgress,
    /// Device it ran on.
    pub device: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Identifier.
    pub id: ModelId,
    /// Run it came from.
    pub run_id: Option<RunId>,
    /// Stage of that run, from 1.
    pub stage: Option<u32>,
    /// `model1`, `model2`, ...
    pub name: String,
    /// Of the safetensors file.
    pub sha256: Sha256,
    /// Its size.
    pub byte_length: u64,
    /// What the tensors are.
    pub spec: ModelSpec,
    /// Trained on drawn phantoms.
    pub synthetic: bool,
    /// Aliases that point at it.
    pub aliases: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// An evaluation of a model on a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// Identifier.
    pub id: EvaluationId,
    /// The model.
    pub model_id: ModelId,
    /// Its run.
    pub run_id: Option<RunId>,
    /// Its stage.
    pub stage: Option<u32>,
    /// Data.
    pub dataset_id: DatasetId,
    /// The data's content.
    pub dataset_fingerprint: String,
    /// Which split.
    pub split: Split,
    /// The split that chose the epoch; scores on that same split are optimistic.
    pub selection_split: Option<Split>,
    /// Order of rows and columns.
    pub classes: ClassList,
    /// Counts.
    pub confusion_matrix: ConfusionMatrix,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Wall time.
    pub seconds: f64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A recorded prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// Identifier.
    pub id: PredictionId,
    /// Model that answered.
    pub model_id: ModelId,
    /// Of the uploaded bytes, which are not kept.
    pub input_sha256: Sha256,
    /// Most probable class.
    pub prediction: String,
    /// By class.
    pub probabilities: BTreeMap<String, f32>,
    /// `{queue_ms, preprocess_ms, inference_ms}`.
    pub timing: serde_json::Value,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Imported ImageNet weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Weights {
    /// Of the converted file.
    pub sha256: Sha256,
    /// Where the stride stands.
    pub variant: BlockVariant,
    /// What it was converted from.
    pub origin: String,
    /// Its size.
    pub byte_length: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A page of a list: items after a cursor.
#[derive(Clone, Debug)]
pub struct Page {
    /// 1 to 200.
    pub limit: u32,
    /// The id of the last item seen.
    pub after: Option<String>,
}

/// Pools on one SQLite file (WAL): many readers, one writer whose transactions begin immediate.
#[derive(Clone, Debug)]
pub struct Db {
    // private pools
}

/// Content-addressed files below the data folder, written by temporary name, fsync and rename.
#[derive(Clone, Debug)]
pub struct Blobs {
    // private object_store
}

impl Db {
    /// Opens or creates `<data_dir>/thorax.sqlite` and migrates it.
    pub async fn open(_data_dir: &Path) -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// Checkpoints and closes.
    pub async fn close(&self) {
        unimplemented!()
    }
}

impl Blobs {
    /// Creates `<data_dir>/blobs`.
    pub fn open(_data_dir: &Path) -> Result<Self, StoreError> {
        unimplemented!()
    }
    /// Stores the bytes under their hash; durable when it returns. Storing twice is fine.
    pub async fn put(&self, _bytes: Vec<u8>) -> Result<Sha256, StoreError> {
        unimplemented!()
    }
    /// Reads and verifies the hash.
    pub async fn get(&self, _hash: &Sha256) -> Result<Vec<u8>, StoreError> {
        unimplemented!()
    }
    /// Removes; a missing blob is fine.
    pub async fn remove(&self, _hash: &Sha256) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// The file of a blob, for readers outside async (the trainer).
    pub fn path(&self, _hash: &Sha256) -> std::path::PathBuf {
        unimplemented!()
    }
}

macro_rules! stubs { ($($(#[$m:meta])* fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty;)*) => { $(
    $(#[$m])* #[allow(unused_variables, clippy::too_many_arguments)]
    pub async fn $name($($arg: $t),*) -> Result<$r, StoreError> { unimplemented!() } )* } }

/// Data sets.
pub mod datasets {
    use super::*;
    stubs! {
        /// `Exists` when the name is taken.
        fn create(db: &Db, dataset: &Dataset) -> ();
        /// One.
        fn get(db: &Db, id: DatasetId) -> Option<Dataset>;
        /// By its unique name.
        fn find_by_name(db: &Db, name: &str) -> Option<Dataset>;
        /// A page in order of creation.
        fn list(db: &Db, page: &Page) -> Vec<Dataset>;
        /// Removes it with its rows; true if it was there; the hashes no row names any more go to the caller.
        fn delete(db: &Db, id: DatasetId) -> Option<Vec<Sha256>>;
        /// Images and unique patients by split and class.
        fn distribution(db: &Db, id: DatasetId) -> Distribution;
        /// SHA-256 over image hashes, labels and splits in a fixed order.
        fn fingerprint(db: &Db, id: DatasetId) -> String;
        /// Patients in more than one split: (patient, splits).
        fn patients_in_several_splits(db: &Db, id: DatasetId) -> Vec<(String, Vec<Split>)>;
    }
}
/// Radiographs.
pub mod radiographs {
    use super::*;
    stubs! {
        /// Inserts; the radiograph already there with the same hash in the same data set, if any, and then nothing changes.
        fn insert(db: &Db, radiograph: &Radiograph) -> Option<Radiograph>;
        /// One.
        fn get(db: &Db, id: RadiographId) -> Option<Radiograph>;
        /// By content.
        fn find(db: &Db, dataset: DatasetId, sha256: &Sha256) -> Option<Radiograph>;
        /// A page.
        fn list(db: &Db, dataset: DatasetId, filter: &RadiographFilter, page: &Page) -> Vec<Radiograph>;
        /// All that have a label and a split, ordered by sha256 (a stable order across imports).
        fn labelled(db: &Db, dataset: DatasetId) -> Vec<Radiograph>;
        /// All, ordered by sha256.
        fn all(db: &Db, dataset: DatasetId) -> Vec<Radiograph>;
        /// Changes named fields.
        fn patch(db: &Db, id: RadiographId, patch: &RadiographPatch) -> Option<Radiograph>;
        /// Sets many splits in one transaction.
        fn assign_splits(db: &Db, splits: &[(RadiographId, Split)]) -> ();
        /// Removes; the hash if no other row names it.
        fn delete(db: &Db, id: RadiographId) -> Option<Option<Sha256>>;
    }
}
/// Imports.
pub mod imports {
    use super::*;
    stubs! {
        /// A running one.
        fn create(db: &Db, import: &Import) -> ();
        /// One.
        fn get(db: &Db, id: ImportId) -> Option<Import>;
        /// Rejected rows in order.
        fn rejections(db: &Db, id: ImportId) -> Vec<ImportRejection>;
        /// Writes counts, status and new rejections.
        fn update(db: &Db, import: &Import, new_rejections: &[ImportRejection]) -> ();
        /// Marks imports left `running` by a dead process as failed; how many.
        fn fail_orphans(db: &Db, why: &str) -> u64;
    }
}
/// Training runs and their epochs.
pub mod runs {
    use super::*;
    stubs! {
        /// A queued one.
        fn create(db: &Db, run: &Run) -> ();
        /// One.
        fn get(db: &Db, id: RunId) -> Option<Run>;
        /// A page, oldest first; optionally of one state.
        fn list(db: &Db, status: Option<RunStatus>, page: &Page) -> Vec<Run>;
        /// The oldest queued run, now running on `device`.
        fn claim(db: &Db, device: &str) -> Option<Run>;
        /// queued becomes cancelled, running becomes cancelling; the run afterwards. `IllegalMove` from final states.
        fn cancel(db: &Db, id: RunId) -> Option<Run>;
        /// Ends it; `IllegalMove` when the state does not allow it.
        fn finish(db: &Db, id: RunId, status: RunStatus, error: Option<&str>) -> ();
        /// Writes progress.
        fn set_progress(db: &Db, id: RunId, progress: &RunProgress) -> ();
        /// Adds an epoch.
        fn add_epoch(db: &Db, id: RunId, epoch: &EpochRecord) -> ();
        /// Epochs with a greater sequence.
        fn epochs(db: &Db, id: RunId, after: u32) -> Vec<EpochRecord>;
        /// Marks runs left running or cancelling by a dead process as failed; how many.
        fn fail_orphans(db: &Db, why: &str) -> u64;
        /// How many runs on this data set are not final.
        fn active_on(db: &Db, dataset: DatasetId) -> u64;
        /// Removes a final run with its epochs and evaluations; `IllegalMove`-like `InUse` otherwise.
        fn delete(db: &Db, id: RunId) -> Option<()>;
    }
}
/// Models and aliases.
pub mod models {
    use super::*;
    stubs! {
        /// A model with its evaluations, in one transaction.
        fn create(db: &Db, model: &Model, evaluations: &[Evaluation]) -> ();
        /// One.
        fn get(db: &Db, id: ModelId) -> Option<Model>;
        /// A page; optionally of one run.
        fn list(db: &Db, run: Option<RunId>, page: &Page) -> Vec<Model>;
        /// Removes; `InUse` while an alias points at it; the hash if no other row names it.
        fn delete(db: &Db, id: ModelId) -> Option<Option<Sha256>>;
        /// Points an alias.
        fn set_alias(db: &Db, alias: &str, id: ModelId) -> ();
        /// The model behind an alias.
        fn by_alias(db: &Db, alias: &str) -> Option<Model>;
    }
}
/// Evaluations.
pub mod evaluations {
    use super::*;
    stubs! {
        /// Adds one with its per-class rows.
        fn create(db: &Db, evaluation: &Evaluation) -> ();
        /// One.
        fn get(db: &Db, id: EvaluationId) -> Option<Evaluation>;
        /// Of a run, by stage and split.
        fn of_run(db: &Db, run: RunId, stage: Option<u32>, split: Option<Split>) -> Vec<Evaluation>;
        /// Of a model.
        fn of_model(db: &Db, model: ModelId) -> Vec<Evaluation>;
    }
}
/// Predictions.
pub mod predictions {
    use super::*;
    stubs! {
        /// Records one.
        fn create(db: &Db, prediction: &Prediction) -> ();
        /// One.
        fn get(db: &Db, id: PredictionId) -> Option<Prediction>;
        /// A page.
        fn list(db: &Db, page: &Page) -> Vec<Prediction>;
    }
}
/// ImageNet weights.
pub mod weights {
    use super::*;
    stubs! {
        /// Adds; adding the same file twice is fine.
        fn create(db: &Db, weights: &Weights) -> ();
        /// Newest first.
        fn list(db: &Db) -> Vec<Weights>;
    }
}
