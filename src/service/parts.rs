//! The parts that use cases work with. The composition root makes each once; front ends hold clones.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Challenger, Heatmaps};
use crate::{
    dataset::PatientIds,
    domain::{DeviceInfo, ModelId},
    imaging,
    inference::Engine,
    store::{Db, Model, PredictionLog},
    worker::LiveBatches,
};

/// Models in service and what accompanies their predictions; cheap to clone.
#[derive(Clone)]
pub struct Serving {
    /// Inference engine: loads models and classifies images.
    pub engine: Engine,
    /// Challenger model, evaluated in the background on a share of the champion's images.
    pub challenger: Challenger,
    /// Heat maps of the latest explained predictions.
    pub heatmaps: Heatmaps,
    /// Prediction log: records predictions without delaying their responses.
    pub log: PredictionLog,
    /// Record each prediction before its response, so that a response without a record is impossible.
    pub record_before_response: bool,
    /// Models that classified recently, to present their predictions while the database cannot be read.
    pub known_models: KnownModels,
    /// Serialises changes of aliases.
    pub alias_lock: AliasLock,
}

/// Rows of models in memory; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct KnownModels(Arc<parking_lot::Mutex<HashMap<ModelId, Model>>>);

impl KnownModels {
    /// Maximum number of rows: the most that the engine loads.
    const MAX: usize = 64;

    /// Remembers a model.
    pub fn put(&self, model: &Model) {
        let mut known = self.0.lock();
        if known.len() >= Self::MAX {
            known.clear();
        }
        known.insert(model.id, model.clone());
    }

    /// Forgets a model that was deleted.
    pub fn remove(&self, id: ModelId) {
        self.0.lock().remove(&id);
    }

    /// The row as it was last read.
    pub fn get(&self, id: ModelId) -> Option<Model> {
        self.0.lock().get(&id).cloned()
    }
}

impl Serving {
    /// Serving by `engine`. The challenger gets `challenger_share` of the images, 0 to 1; predictions are deleted from the log after
    /// `retention_days`, or never.
    pub fn new(engine: Engine, db: Db, challenger_share: f64, retention_days: Option<u32>) -> Self {
        let log = PredictionLog::start(db, retention_days, engine.metrics().clone());
        Self {
            engine,
            challenger: Challenger::new(challenger_share),
            heatmaps: Heatmaps::default(),
            log,
            record_before_response: false,
            known_models: KnownModels::default(),
            alias_lock: AliasLock::default(),
        }
    }
}

/// Serialises changes of aliases: the engine and the alias's row must end with the same model.
#[derive(Clone, Debug, Default)]
pub struct AliasLock(Arc<Mutex<()>>);

impl AliasLock {
    /// Waits until no other change is in progress.
    pub async fn acquire(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Connection between the front ends and the training worker; cheap to clone.
#[derive(Clone)]
pub struct TrainingControl {
    /// Wakes the worker after a run was queued, paused, resumed or cancelled.
    pub queued: Arc<Notify>,
    /// Live metrics of the batches of the running run.
    pub batches: LiveBatches,
    /// All devices; the one in use is marked.
    pub devices: Arc<[DeviceInfo]>,
}

impl TrainingControl {
    /// Memory in bytes of the device in use, if known.
    pub fn device_memory(&self) -> Option<u64> {
        self.devices.iter().find(|device| device.in_use)?.memory_bytes
    }
}

/// Intake of data: where uploads and imports come from and how their patient ids are stored.
#[derive(Clone)]
pub struct Intake {
    /// Directory below which imports may read; `None` refuses imports by clients.
    pub import_root: Option<PathBuf>,
    /// Name of the data set that receives instances pushed by DICOMweb.
    pub dicomweb_dataset: Arc<str>,
    /// Keyed hash of patient ids.
    pub patient_ids: PatientIds,
    /// Store the names of uploaded PNG and JPEG files. Names of DICOM files are never stored.
    pub keep_file_names: bool,
}

/// Limits on what clients send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum size of a request body and of a file, in bytes.
    pub max_upload_bytes: usize,
    /// Maximum size of an image, in pixels.
    pub max_pixels: u64,
}

impl Limits {
    /// Limits of the image decoders.
    pub fn image(self) -> imaging::Limits {
        imaging::Limits { max_pixels: self.max_pixels }
    }
}

/// Background work and its end; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Background tasks and requests in flight; the shutdown waits for them.
    pub tasks: TaskTracker,
    /// Cancelled when the server shuts down: no new requests are accepted, and streams end.
    pub shutdown: CancellationToken,
}
