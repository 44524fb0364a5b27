//! What handlers share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Challenger, Heatmaps, Jobs};
use crate::{
    dataset::PatientIds,
    domain::DeviceInfo,
    inference::Engine,
    metrics::{Metrics, Traces},
    store::{Blobs, Caches, CheckpointFiles, Db, PredictionLog},
    worker::LiveBatches,
};

/// Streams of events that are open at once. Each costs a connection, and a question to the database for each change.
pub const MAX_EVENT_STREAMS: usize = 64;

/// Bounds on what clients send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body and file, in bytes.
    pub max_upload_bytes: usize,
    /// Largest image, in pixels.
    pub max_pixels: u64,
}

/// What handlers share; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Where uploads too large for memory are kept while they are read.
    pub incoming: Arc<Path>,
    /// The database.
    pub db: Db,
    /// Images, models and weights.
    pub blobs: Blobs,
    /// Decoded images, by data set.
    pub caches: Caches,
    /// What training runs go on from.
    pub checkpoints: CheckpointFiles,
    /// The serving engine.
    pub engine: Engine,
    /// What `/metrics` answers.
    pub metrics: Metrics,
    /// Scoring in the background.
    pub jobs: Jobs,
    /// Where predictions are recorded.
    pub predictions: PredictionLog,
    /// The model that is tried beside the one that answers.
    pub challenger: Challenger,
    /// Where requests are traced.
    pub traces: Traces,
    /// The explanations that can be drawn.
    pub heatmaps: Heatmaps,
    /// Wakes the worker after a run was queued or cancelled.
    pub run_queued: Arc<Notify>,
    /// The batches of the run that trains.
    pub batches: LiveBatches,
    /// Places for streams of events.
    pub event_streams: Arc<Semaphore>,
    /// All devices, the one in use marked.
    pub devices: Arc<[DeviceInfo]>,
    /// Folder below which imports may read; `None` refuses imports over HTTP.
    pub import_root: Option<PathBuf>,
    /// Name of the data set that takes what is pushed by DICOMweb.
    pub dicomweb_dataset: Arc<str>,
    /// Key that `/v1`, `/v2` and `/dicomweb` ask for; `None` on a loopback server.
    pub admin_key: Option<Arc<str>>,
    /// How patient ids are stored.
    pub patient_ids: PatientIds,
    /// Bounds.
    pub limits: Limits,
    /// Background work and requests that are under way, to wait for at the end.
    pub tasks: TaskTracker,
    /// Set when the server stops: from then on it takes no new requests, and streams end.
    pub shutdown: CancellationToken,
}
