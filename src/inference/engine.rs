//! The cloneable handle: admission, resizing, and the way to the thread that owns the model.

use std::{
    sync::{Arc, PoisonError, RwLock, mpsc},
    time::Instant,
};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::{
    admission::Gate,
    owner::{self, Command, Request},
};
use crate::{
    domain::{ModelId, ModelSpec},
    imaging::{GreyImage, resize_square},
    nn::NnError,
};

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Requests that may wait or run; one more is refused.
    pub max_queue: usize,
    /// Images a batch.
    pub max_batch_size: usize,
    /// How long a batch that found company waits for more.
    pub max_batch_delay_ms: u64,
}

/// A served answer.
#[derive(Clone, Debug)]
pub struct Classification {
    /// By class, in class-list order; sums to 1.
    pub probabilities: Vec<f32>,
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
    /// No model is loaded (503).
    #[error("no model is loaded")]
    NoModel,
    /// The queue is full (429).
    #[error("the prediction queue is full")]
    QueueFull,
    /// The engine has ended (503).
    #[error("the server is shutting down")]
    Closed,
    /// The model cannot be loaded; the old one goes on.
    #[error(transparent)]
    Model(#[from] NnError),
}

/// What the handle and the owning thread both see: the model that serves.
pub(super) type Current = Arc<RwLock<Option<(ModelId, Arc<ModelSpec>)>>>;

/// A cloneable handle to the thread that owns the model.
#[derive(Clone, Debug)]
pub struct Engine {
    gate: Arc<Gate>,
    commands: mpsc::SyncSender<Command>,
    current: Current,
}

impl Engine {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(config: EngineConfig, device: Device) -> Self {
        // The gate bounds the predictions inside; two more places let model loads in beside them.
        let (commands, inbox) = mpsc::sync_channel(config.max_queue + 2);
        let current = Current::default();
        let shared = Arc::clone(&current);
        let thread = std::thread::Builder::new().name("engine".into());
        thread
            .spawn(move || owner::run(&inbox, config, &device, &shared))
            .expect("a thread can be started at start-up");
        Self { gate: Gate::new(config.max_queue), commands, current }
    }

    /// Loads and warms a model, then switches; a failure keeps the old one.
    pub async fn load(&self, id: ModelId, bytes: Vec<u8>) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Load { id, bytes, reply })?;
        Ok(answer.await.map_err(|_| EngineError::Closed)??)
    }

    /// The model that serves, if any.
    pub fn current(&self) -> Option<(ModelId, Arc<ModelSpec>)> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resizes (on a blocking thread) and classifies one image. `preprocess_ms` covers the resizing only.
    pub async fn classify(&self, image: GreyImage) -> Result<Classification, EngineError> {
        let (_, spec) = self.current().ok_or(EngineError::NoModel)?;
        let place = self.gate.enter().ok_or(EngineError::QueueFull)?;
        let started = Instant::now();
        let original = Arc::new(image);
        let source = Arc::clone(&original);
        let resize = move || resize_square(&source, spec.image_size);
        let square = tokio::task::spawn_blocking(resize).await.map_err(|_| EngineError::Closed)?;
        let preprocess_ms = started.elapsed().as_secs_f64() * 1e3;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Classify(Request { original, square, queued: Instant::now(), reply, _place: place }))?;
        let mut classification = answer.await.map_err(|_| EngineError::Closed)??;
        classification.timing.preprocess_ms = preprocess_ms;
        Ok(classification)
    }

    /// Blocks while predictions wait or run: the trainer calls it between batches.
    pub fn wait_until_idle(&self) {
        self.gate.wait_until_empty();
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        match self.commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::TrySendError::Full(_)) => Err(EngineError::QueueFull),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(EngineError::Closed),
        }
    }
}
