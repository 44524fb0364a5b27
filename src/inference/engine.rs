//! The engine handle: admission control, decoding and resizing on blocking threads, and commands to the thread that owns the models.

use std::{
    sync::{Arc, mpsc},
    thread::available_parallelism,
    time::Instant,
};

use burn::tensor::Device;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore, oneshot};
use utoipa::ToSchema;

use super::{
    Classifier,
    admission::{Admission, Gate, ImagePermit, RequestPermit},
    engine_thread::{Command, EngineThread, Request},
    model_pool::{ModelPool, PoolView},
};
use crate::{
    domain::{ActivationMap, ModelId, ModelSpec},
    imaging::{GreyImage, resize_square},
    metrics::{Outcome, Predictions, Stage},
    nn::{DeviceChoice, NnError},
};

/// Queue slots for commands other than client predictions: loading, unloading and deferred predictions.
const EXTRA_COMMANDS: usize = 34;

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Maximum number of prediction requests in flight. Further requests are refused.
    pub max_concurrent_requests: usize,
    /// Maximum batch size.
    pub max_batch_size: usize,
    /// Maximum batching delay in milliseconds: how long a partial batch of two or more images waits for more.
    pub max_batch_delay_ms: u64,
    /// Maximum number of loaded models, including the serving one.
    pub max_loaded_models: usize,
}

/// Result of a prediction.
#[derive(Clone, Debug)]
pub struct Classification {
    /// Probability of each class, in the order of the class list. They sum to 1.
    pub probabilities: Vec<f32>,
    /// Class activation map of the most probable class, if requested.
    pub activation: Option<ActivationMap>,
    /// The model that made the prediction.
    pub model: ModelId,
    /// Specification of that model.
    pub spec: Arc<ModelSpec>,
    /// Durations of the parts of the request.
    pub timing: Timing,
}

/// Time spent on a prediction, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// Waiting for the engine.
    pub queue_ms: f64,
    /// Decoding and resizing.
    pub preprocess_ms: f64,
    /// Running the network on the whole batch that contained the image.
    pub inference_ms: f64,
}

/// Error of a prediction or of loading a model.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No model is serving (503).
    #[error("no model is loaded")]
    NoModel,
    /// The requested model is not loaded, or no longer loaded.
    #[error("model {0} is not loaded")]
    NotLoaded(ModelId),
    /// Only one model may be loaded, and another one is serving (409).
    #[error("model limit reached (THORAX_MAX_LOADED_MODELS=1) and the serving model cannot be evicted")]
    ModelLimitReached,
    /// The limit of concurrent predictions is reached (429).
    #[error("too many concurrent predictions: retry in {retry_after_seconds} s")]
    QueueFull {
        /// Estimated seconds until the predictions in flight have completed, at the measured throughput.
        retry_after_seconds: u64,
    },
    /// The engine has stopped (503).
    #[error("the server is shutting down")]
    Closed,
    /// The model cannot be loaded (422). A model that was serving before keeps serving.
    #[error(transparent)]
    Model(#[from] NnError),
    /// The network computed a number that is not finite, so that there is no prediction (500).
    #[error("model {0} computed no finite result for the image")]
    NotFinite(ModelId),
    /// The network or its device failed during a prediction (500).
    #[error("prediction failed: {0}")]
    Failed(#[source] NnError),
}

/// GPU memory usage, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Memory used by tensors.
    pub in_use: u64,
    /// Memory reserved by the memory pools from which tensors are allocated.
    pub reserved: u64,
}

/// Cloneable handle to the thread that owns the loaded models.
#[derive(Clone, Debug)]
pub struct Engine {
    admission: Arc<Admission>,
    gate: Arc<Gate>,
    /// Limits decoding and resizing to one task per core.
    preprocessing: Arc<Semaphore>,
    max_batch_size: usize,
    device: Device,
    metrics: Predictions,
    commands: mpsc::SyncSender<Command>,
    models: PoolView,
    /// Serialises loading: each load takes a core and about 100 MB.
    load_lock: Arc<Mutex<()>>,
}

impl Engine {
    /// Starts the engine thread. It stops when the last handle is dropped.
    pub fn start(config: EngineConfig, device: Device) -> Self {
        // The gate bounds the predictions in the channel; the extra slots are for all other commands.
        let (commands, inbox) = mpsc::sync_channel(config.max_concurrent_requests + EXTRA_COMMANDS);
        let (models, metrics) = (PoolView::default(), Predictions::new(config.max_concurrent_requests));
        let pool = ModelPool::new(config.max_loaded_models, models.clone());
        let engine = EngineThread::new(config, pool, metrics.clone(), inbox);
        let thread = std::thread::Builder::new().name("engine".into());
        thread.spawn(move || engine.run()).expect("the system can start a thread at start-up");
        let (admission, gate) = (
            Admission::new(config.max_concurrent_requests, metrics.clone()),
            Gate::new(config.max_concurrent_requests),
        );
        let preprocessing = Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from)));
        let (max_batch_size, load_lock) = (config.max_batch_size, Arc::default());
        Self { admission, gate, preprocessing, max_batch_size, device, metrics, commands, models, load_lock }
    }

    /// Prediction metrics.
    pub fn metrics(&self) -> &Predictions {
        &self.metrics
    }

    /// Memory usage of the GPU; `None` on the CPU. May wait for the device.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        let usage = self.device.memory_pool_usage()?;
        Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
    }

    /// Checks, before anything of a body is read, that a request would be admitted, so that refused requests hold no images in memory.
    ///
    /// # Errors
    /// `QueueFull`, without waiting, when the limit is reached.
    pub fn check_capacity(&self) -> Result<(), EngineError> {
        self.admission.check_capacity().map_err(|retry_after_seconds| EngineError::QueueFull { retry_after_seconds })
    }

    /// Admits a request whose body was received without a permit, because its client was slow. Waits while the limit is reached.
    ///
    /// # Errors
    /// `QueueFull` if too many requests wait, or after 30 seconds.
    pub async fn admit_later(&self) -> Result<RequestPermit, EngineError> {
        let entered = self.admission.enter_later().await;
        entered.map_err(|retry_after_seconds| EngineError::QueueFull { retry_after_seconds })
    }

    /// Admits a request. The caller acquires the permit when the body begins to arrive, gives it up where the rest does not follow soon, and
    /// holds it until the response is complete. One permit covers one image at a time; see [`Engine::admit_another`] for concurrent images
    /// of one request. The trainer does not wait for a request whose body is still being received.
    ///
    /// # Errors
    /// `QueueFull`, without waiting, when the limit is reached.
    pub fn admit(&self) -> Result<RequestPermit, EngineError> {
        self.admission.try_enter().map_err(|retry_after_seconds| EngineError::QueueFull { retry_after_seconds })
    }

    /// An additional permit for a request that holds one, so that it can have another image in flight. `None` once half of the limit is in
    /// use: a request with many images leaves capacity for others.
    pub fn admit_another(&self) -> Option<RequestPermit> {
        self.admission.try_enter_additional()
    }

    /// Maximum batch size. A request gains nothing from having more images in flight.
    pub fn max_batch_size(&self) -> usize {
        self.max_batch_size
    }

    /// Runs decoding or resizing on a blocking thread, at most one task per core. Waiting tasks are dropped when their client hangs up.
    ///
    /// # Errors
    /// `Closed` if `work` panics or the runtime shuts down.
    pub async fn prepare<T: Send + 'static>(
        &self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let permit = Arc::clone(&self.preprocessing).acquire_owned().await.map_err(|_| EngineError::Closed)?;
        let metrics = self.metrics.clone();
        let timed = move || {
            // Owned by the task, not by the caller: a task whose client hung up still occupies its core.
            let _permit = permit;
            let started = Instant::now();
            let outcome = work();
            metrics.stage(stage, started.elapsed());
            outcome
        };
        tokio::task::spawn_blocking(timed).await.map_err(|_| EngineError::Closed)
    }

    /// Loads and warms up a model, then makes it the serving one. On failure the previous one keeps serving.
    ///
    /// # Errors
    /// `Model` if it cannot be loaded; `QueueFull` and `Closed`.
    pub async fn load(&self, id: ModelId, bytes: Vec<u8>) -> Result<(), EngineError> {
        self.replace(id, bytes, async { Ok(()) }).await
    }

    /// Loads and warms up a model, waits for `commit`, then makes the model the serving one. If either fails, the previous one keeps
    /// serving.
    ///
    /// # Errors
    /// Those of [`Engine::load`] and of `commit`.
    pub async fn replace<E: From<EngineError>>(
        &self,
        id: ModelId,
        bytes: Vec<u8>,
        commit: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let _guard = self.load_lock.lock().await;
        let classifier = self.build(id, bytes).await?;
        commit.await?;
        Ok(self.install(classifier, true).await?)
    }

    /// Loads and warms up a model in addition to the serving one, unless it is loaded already. `bytes` is awaited only if the model has to be
    /// loaded, and by one caller at a time. May evict the least recently used model.
    ///
    /// # Errors
    /// Errors of `bytes`, those of [`Engine::load`], and `ModelLimitReached` if only the serving model may be loaded.
    pub async fn ensure_loaded<E: From<EngineError>>(
        &self,
        id: ModelId,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<(), E> {
        if self.is_loaded(id) {
            return Ok(());
        }
        let _guard = self.load_lock.lock().await;
        if !self.is_loaded(id) {
            let classifier = self.build(id, bytes.await?).await?;
            self.install(classifier, false).await?;
        }
        Ok(())
    }

    /// Builds a model file on the CPU and tests it on generated images, without loading it.
    ///
    /// # Errors
    /// `Model` if no network can be built from the file, or if one of its results is not finite; `Closed`.
    pub async fn check(&self, bytes: Bytes) -> Result<ModelSpec, EngineError> {
        let _guard = self.load_lock.lock().await;
        let check = move || -> Result<ModelSpec, NnError> {
            let (device, _) = DeviceChoice::Cpu.open(None)?;
            Ok(Classifier::load(ModelId::new(), &bytes, &device, 1)?.spec().as_ref().clone())
        };
        Ok(tokio::task::spawn_blocking(check).await.map_err(|_| EngineError::Closed)??)
    }

    async fn build(&self, id: ModelId, bytes: Vec<u8>) -> Result<Classifier, EngineError> {
        let (device, max_batch_size) = (self.device.clone(), self.max_batch_size);
        let load = move || Classifier::load(id, &bytes, &device, max_batch_size);
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|_| EngineError::Closed)?;
        self.metrics.model_load(loaded.is_ok());
        Ok(loaded?)
    }

    /// Adds a model to the engine. Waits for a place in the queue, since the caller may have committed to the model.
    async fn install(&self, classifier: Classifier, serve: bool) -> Result<(), EngineError> {
        let (reply, response) = oneshot::channel();
        let commands = self.commands.clone();
        let send = move || commands.send(Command::Install { classifier: Box::new(classifier), serve, reply });
        tokio::task::spawn_blocking(send).await.map_err(|_| EngineError::Closed)?.map_err(|_| EngineError::Closed)?;
        response.await.map_err(|_| EngineError::Closed)?
    }

    /// Unloads a model. If it was the serving one, no model serves afterwards.
    ///
    /// # Errors
    /// `QueueFull` and `Closed`.
    pub async fn unload(&self, id: ModelId) -> Result<(), EngineError> {
        let (reply, response) = oneshot::channel();
        self.send(Command::Unload { id, reply })?;
        response.await.map_err(|_| EngineError::Closed)
    }

    /// The serving model: the one for requests that name none.
    pub fn current(&self) -> Option<(ModelId, Arc<ModelSpec>)> {
        self.models.serving()
    }

    /// True if the model is loaded.
    pub fn is_loaded(&self, id: ModelId) -> bool {
        self.models.spec(id).is_some()
    }

    /// Resizes an image on a blocking thread and classifies it with `model`, or with the serving model if `None`. With `explain`, the
    /// result has a class activation map. `preprocess_ms` of the result covers resizing only.
    ///
    /// # Errors
    /// `NoModel`, `NotLoaded`, `QueueFull`, `Closed`, `NotFinite`, and `Failed` if the network fails.
    pub async fn classify(
        &self,
        image: Arc<GreyImage>,
        model: Option<ModelId>,
        explain: bool,
    ) -> Result<Classification, EngineError> {
        let permit = self.gate.try_enter().ok_or_else(|| self.queue_full())?;
        let started = Instant::now();
        let (request, response) = self.request(image, model, explain, Some(permit)).await?;
        let preprocess_ms = started.elapsed().as_secs_f64() * 1e3;
        self.send(Command::Classify(request))?;
        let mut classification = response.await.map_err(|_| EngineError::Closed)??;
        classification.timing.preprocess_ms = preprocess_ms;
        Ok(classification)
    }

    /// Classifies an image with another model once the engine is idle. Neither clients nor training wait for it. `None` if the request was
    /// dropped in favour of newer ones.
    ///
    /// # Errors
    /// `NotLoaded`, `QueueFull`, `Closed`, `NotFinite`, and `Failed` if the network fails.
    pub async fn classify_when_idle(
        &self,
        image: Arc<GreyImage>,
        model: ModelId,
    ) -> Result<Option<Classification>, EngineError> {
        let (request, response) = self.request(image, Some(model), false, None).await?;
        self.commands.try_send(Command::ClassifyDeferred(request)).map_err(|error| match error {
            // Not counted in the metric of refused requests: no client is refused.
            mpsc::TrySendError::Full(_) => EngineError::QueueFull { retry_after_seconds: 1 },
            mpsc::TrySendError::Disconnected(_) => EngineError::Closed,
        })?;
        response.await.ok().transpose()
    }

    async fn request(
        &self,
        image: Arc<GreyImage>,
        model: Option<ModelId>,
        explain: bool,
        _permit: Option<ImagePermit>,
    ) -> Result<(Request, oneshot::Receiver<Result<Classification, EngineError>>), EngineError> {
        let spec = match model {
            Some(id) => self.models.spec(id).ok_or(EngineError::NotLoaded(id))?,
            None => self.current().ok_or(EngineError::NoModel)?.1,
        };
        let (source, side) = (Arc::clone(&image), spec.image_size);
        let resized = self.prepare(Stage::Resize, move || resize_square(&source, side)).await?;
        let (reply, response) = oneshot::channel();
        Ok((Request { model, original: image, resized, explain, queued: Instant::now(), reply, _permit }, response))
    }

    /// Blocks until no prediction is in flight. The trainer calls it between batches.
    pub fn wait_until_idle(&self) {
        self.gate.wait_until_empty();
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::TrySendError::Full(_)) => Err(self.queue_full()),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(EngineError::Closed),
        }
    }

    fn queue_full(&self) -> EngineError {
        self.metrics.ended(Outcome::Refused);
        EngineError::QueueFull { retry_after_seconds: self.admission.retry_after_seconds() }
    }
}
