//! The cloneable handle: admission, decoding and resizing on a few threads, and the way to the one that owns the model.

use std::{
    sync::{Arc, mpsc},
    thread::available_parallelism,
    time::Instant,
};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore, oneshot};
use utoipa::ToSchema;

use super::{
    Classifier,
    admission::{Admission, Admitted, Gate, Place},
    loaded::{Models, Shelf},
    owner::{Command, Owner, Request},
};
use crate::{
    domain::{ActivationMap, ModelId, ModelSpec},
    imaging::{GreyImage, resize_square},
    metrics::{Outcome, Predictions, Stage},
    nn::NnError,
};

/// Commands beside predictions that may wait for the engine's thread.
const BESIDE: usize = 34;

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Requests that may wait or run; one more is refused.
    pub max_queue: usize,
    /// Images a batch.
    pub max_batch_size: usize,
    /// How long a batch that found company waits for more.
    pub max_batch_delay_ms: u64,
    /// Models that are loaded at once, the serving one among them.
    pub max_loaded_models: usize,
}

/// A served answer.
#[derive(Clone, Debug)]
pub struct Classification {
    /// By class, in class-list order; sums to 1.
    pub probabilities: Vec<f32>,
    /// What moved the score of the most probable class, where it was asked for.
    pub activation: Option<ActivationMap>,
    /// The model that answered.
    pub model: ModelId,
    /// Its spec.
    pub spec: Arc<ModelSpec>,
    /// How long it took.
    pub timing: Timing,
}

/// Where the time of a prediction went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// Waiting for the engine.
    pub queue_ms: f64,
    /// Decoding and resizing.
    pub preprocess_ms: f64,
    /// The network, for the whole batch the image was in.
    pub inference_ms: f64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No model serves (503).
    #[error("no model is loaded")]
    NoModel,
    /// That model is not loaded (any more).
    #[error("model {0} is not loaded")]
    NotLoaded(ModelId),
    /// The serving model has the only place (409).
    #[error("there is room for one loaded model, and another one serves")]
    NoRoom,
    /// The queue is full (429).
    #[error("the prediction queue is full")]
    QueueFull {
        /// Until those inside are answered, at the measured rate.
        retry_after_seconds: u64,
    },
    /// The engine has ended (503).
    #[error("the server is shutting down")]
    Closed,
    /// The model cannot be loaded; the old one goes on.
    #[error(transparent)]
    Model(#[from] NnError),
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Taken by tensors.
    pub in_use: u64,
    /// Held by the pools that tensors are made in.
    pub reserved: u64,
}

/// A cloneable handle to the thread that owns the models.
#[derive(Clone, Debug)]
pub struct Engine {
    admission: Arc<Admission>,
    gate: Arc<Gate>,
    /// A permit a core.
    preparers: Arc<Semaphore>,
    max_batch_size: usize,
    device: Device,
    metrics: Predictions,
    commands: mpsc::SyncSender<Command>,
    shelf: Shelf,
    /// One model is loaded at a time: each takes a core and a hundred megabytes.
    loader: Arc<Mutex<()>>,
}

impl Engine {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(config: EngineConfig, device: Device) -> Self {
        // The gate bounds the predictions inside; some more places let models in and out beside them, and what can wait.
        let (commands, inbox) = mpsc::sync_channel(config.max_queue + BESIDE);
        let (shelf, metrics) = (Shelf::default(), Predictions::new(config.max_queue));
        let models = Models::new(config.max_loaded_models, shelf.clone());
        let owner = Owner::new(config, models, metrics.clone(), inbox);
        let thread = std::thread::Builder::new().name("engine".into());
        thread.spawn(move || owner.run()).expect("a thread can be started at start-up");
        let (admission, gate) = (Admission::new(config.max_queue, metrics.clone()), Gate::new(config.max_queue));
        let preparers = Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from)));
        let (max_batch_size, loader) = (config.max_batch_size, Arc::default());
        Self { admission, gate, preparers, max_batch_size, device, metrics, commands, shelf, loader }
    }

    /// What is measured of predictions.
    pub fn metrics(&self) -> &Predictions {
        &self.metrics
    }

    /// Memory of the device where it is known: a GPU's. May wait for the device.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        let usage = self.device.memory_pool_usage()?;
        Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
    }

    /// A place for a request, with one image or with many one after the other (or more with [`Engine::admit_another`]), to be held until it is answered: asked for before its
    /// body is read, so that those who wait hold no images. The trainer does not wait for a request that still sends its body.
    ///
    /// # Errors
    /// `QueueFull`, at once, when all are taken.
    pub fn admit(&self) -> Result<Admitted, EngineError> {
        self.admission.enter().map_err(|retry_after_seconds| EngineError::QueueFull { retry_after_seconds })
    }

    /// One more place for a request that has one, so that another of its images can be under way at the same time. There is none as soon
    /// as half of all places are taken: a long form leaves room for others.
    pub fn admit_another(&self) -> Option<Admitted> {
        self.admission.enter_again()
    }

    /// Images that the network takes at once: one request gains nothing by having more under way.
    pub fn max_batch_size(&self) -> usize {
        self.max_batch_size
    }

    /// Runs decoding or resizing on a blocking thread, a core for each at most; the others wait and are dropped with their clients.
    ///
    /// # Errors
    /// `Closed` when the work panics or the server's runtime ends.
    pub async fn prepare<T: Send + 'static>(
        &self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let permit = Arc::clone(&self.preparers).acquire_owned().await.map_err(|_| EngineError::Closed)?;
        let metrics = self.metrics.clone();
        let timed = move || {
            // Held by the work and not by who waits for it: work whose client hung up still takes its core.
            let _permit = permit;
            let started = Instant::now();
            let outcome = work();
            metrics.stage(stage, started.elapsed());
            outcome
        };
        tokio::task::spawn_blocking(timed).await.map_err(|_| EngineError::Closed)
    }

    /// Loads and warms a model, then lets it serve in place of the one that does; a failure keeps the old one.
    ///
    /// # Errors
    /// `Model` when it cannot be loaded, `QueueFull` and `Closed`.
    pub async fn load(&self, id: ModelId, bytes: Vec<u8>) -> Result<(), EngineError> {
        let _turn = self.loader.lock().await;
        self.install(id, bytes, true).await
    }

    /// Loads and warms a model beside the one that serves, unless it is loaded already; `bytes` are asked for only then, and by one
    /// caller at a time. The least recently used of the others may have to go.
    ///
    /// # Errors
    /// Those of `bytes`, and as [`Engine::load`]; `NoRoom` when there is place for the serving one alone.
    pub async fn load_beside<E: From<EngineError>>(
        &self,
        id: ModelId,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<(), E> {
        if self.is_loaded(id) {
            return Ok(());
        }
        let _turn = self.loader.lock().await;
        if !self.is_loaded(id) {
            self.install(id, bytes.await?, false).await?;
        }
        Ok(())
    }

    async fn install(&self, id: ModelId, bytes: Vec<u8>, serve: bool) -> Result<(), EngineError> {
        let (device, max_batch_size) = (self.device.clone(), self.max_batch_size);
        let load = move || Classifier::load(id, &bytes, &device, max_batch_size);
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|_| EngineError::Closed)?;
        self.metrics.model_load(loaded.is_ok());
        let (reply, answer) = oneshot::channel();
        self.send(Command::Install { classifier: Box::new(loaded?), serve, reply })?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    /// Lets go of a model; nothing serves then if it was the one that does.
    ///
    /// # Errors
    /// `QueueFull` and `Closed`.
    pub async fn unload(&self, id: ModelId) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Unload { id, reply })?;
        answer.await.map_err(|_| EngineError::Closed)
    }

    /// The model that serves whoever names none, if any.
    pub fn current(&self) -> Option<(ModelId, Arc<ModelSpec>)> {
        self.shelf.serving()
    }

    /// Whether a model is loaded.
    pub fn is_loaded(&self, id: ModelId) -> bool {
        self.shelf.spec(id).is_some()
    }

    /// Resizes (on a blocking thread) and classifies one image by a loaded model, or by the one that serves, and explains the answer if
    /// told to. `preprocess_ms` covers the resizing only.
    ///
    /// # Errors
    /// `NoModel` and `NotLoaded`, `QueueFull`, `Closed`, and `Model` when the network fails.
    pub async fn classify(
        &self,
        image: Arc<GreyImage>,
        model: Option<ModelId>,
        explain: bool,
    ) -> Result<Classification, EngineError> {
        let place = self.gate.enter().ok_or_else(|| self.full())?;
        let started = Instant::now();
        let (request, answer) = self.request(image, model, explain, Some(place)).await?;
        let preprocess_ms = started.elapsed().as_secs_f64() * 1e3;
        self.send(Command::Classify(request))?;
        let mut classification = answer.await.map_err(|_| EngineError::Closed)??;
        classification.timing.preprocess_ms = preprocess_ms;
        Ok(classification)
    }

    /// Classifies by another model as soon as the engine has nothing else to do. Nobody waits for it: neither clients nor training.
    /// `None` when it was dropped for newer ones.
    ///
    /// # Errors
    /// `NotLoaded`, `QueueFull`, `Closed`, and `Model` when the network fails.
    pub async fn classify_when_idle(
        &self,
        image: Arc<GreyImage>,
        model: ModelId,
    ) -> Result<Option<Classification>, EngineError> {
        let (request, answer) = self.request(image, Some(model), false, None).await?;
        self.commands.try_send(Command::Later(request)).map_err(|error| match error {
            // Not counted among the refused: no client is.
            mpsc::TrySendError::Full(_) => EngineError::QueueFull { retry_after_seconds: 1 },
            mpsc::TrySendError::Disconnected(_) => EngineError::Closed,
        })?;
        answer.await.ok().transpose()
    }

    async fn request(
        &self,
        image: Arc<GreyImage>,
        model: Option<ModelId>,
        explain: bool,
        _place: Option<Place>,
    ) -> Result<(Request, oneshot::Receiver<Result<Classification, EngineError>>), EngineError> {
        let spec = match model {
            Some(id) => self.shelf.spec(id).ok_or(EngineError::NotLoaded(id))?,
            None => self.current().ok_or(EngineError::NoModel)?.1,
        };
        let (source, side) = (Arc::clone(&image), spec.image_size);
        let square = self.prepare(Stage::Resize, move || resize_square(&source, side)).await?;
        let (reply, answer) = oneshot::channel();
        Ok((Request { model, original: image, square, explain, queued: Instant::now(), reply, _place }, answer))
    }

    /// Blocks while predictions wait or run: the trainer calls it between batches.
    pub fn wait_until_idle(&self) {
        self.gate.wait_until_empty();
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::TrySendError::Full(_)) => Err(self.full()),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(EngineError::Closed),
        }
    }

    fn full(&self) -> EngineError {
        self.metrics.ended(Outcome::Refused);
        EngineError::QueueFull { retry_after_seconds: self.admission.wait_seconds() }
    }
}
