//! Resources of a worker.

use std::{sync::Arc, time::Duration};

use burn::tensor::Device;
use tokio::{runtime::Handle, sync::Notify};

use super::LiveBatches;
use crate::{
    domain::{DeviceInfo, ModelId},
    metrics::Training,
    store::Stores,
    training::WaitUntilIdle,
};

/// Stores, device and hooks of a worker.
#[derive(Clone)]
pub struct WorkerContext {
    /// Runs, data sets, images, models and checkpoints.
    pub stores: Stores,
    /// Device that trains, without autodiff.
    pub device: Device,
    /// Description of the device, recorded with each run.
    pub device_info: DeviceInfo,
    /// Maximum size of an image, in pixels.
    pub max_pixels: u64,
    /// Called by the trainer between batches; blocks while predictions are in flight.
    pub wait_until_idle: WaitUntilIdle,
    /// Maximum time for which training occupies a GPU without a pause.
    pub max_yield: Duration,
    /// Called with a model that became champion, so that it is served. Must not block.
    pub publish: Arc<dyn Fn(ModelId, Vec<u8>) + Send + Sync>,
    /// Receives trained batches, for live views of a run.
    pub batches: LiveBatches,
    /// Metrics of training.
    pub metrics: Training,
    /// Notified after a run was queued, so that the worker need not wait for its next poll.
    pub wake: Arc<Notify>,
    /// Runtime of the worker and of its database calls.
    pub runtime: Handle,
}

impl WorkerContext {
    /// A worker in a process that serves no model: it yields to nothing, publishes nothing, and nobody listens to it.
    pub fn idle(stores: Stores, device: Device, device_info: DeviceInfo, max_pixels: u64) -> Self {
        Self {
            stores,
            device,
            device_info,
            max_pixels,
            wait_until_idle: Arc::new(|| {}),
            max_yield: Duration::MAX,
            publish: Arc::new(|_, _| {}),
            batches: LiveBatches::new(),
            metrics: Training::idle(),
            wake: Arc::new(Notify::new()),
            runtime: Handle::current(),
        }
    }
}
