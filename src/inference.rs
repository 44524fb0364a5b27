//! Serving: a classifier, and the engine that owns it on a thread of its own.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::{ModelId, ModelSpec},
    imaging::GreyImage,
    nn::NnError,
};

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Requests that may wait; one more is refused.
    pub max_queue: usize,
    /// Images a batch.
    pub max_batch_size: usize,
    /// How long a request waits for company while the engine is busy.
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
    pub spec: std::sync::Arc<ModelSpec>,
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
    /// The network.
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

/// A cloneable handle to the thread that owns the model.
#[derive(Clone, Debug)]
pub struct Engine {
    // channel to the thread, shared state
}

impl Engine {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(_config: EngineConfig, _device: Device) -> Self {
        unimplemented!()
    }

    /// Loads and warms a model, then switches; a failure keeps the old one.
    pub async fn load(&self, _id: ModelId, _bytes: Vec<u8>) -> Result<(), EngineError> {
        unimplemented!()
    }

    /// The model that serves, if any.
    pub fn current(&self) -> Option<(ModelId, std::sync::Arc<ModelSpec>)> {
        unimplemented!()
    }

    /// Resizes (on a blocking thread) and classifies one image. `preprocess_ms` covers the resizing only.
    pub async fn classify(&self, _image: GreyImage) -> Result<Classification, EngineError> {
        unimplemented!()
    }

    /// Blocks while predictions wait or run: the trainer calls it between batches.
    pub fn wait_until_idle(&self) {
        unimplemented!()
    }
}
