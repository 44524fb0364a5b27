//! Training without a server: runs the worker on a single training run.

use burn::tensor::Device;
use tokio_util::sync::CancellationToken;

use super::{
    AppError, DataFolder,
    device::{self, OpenDevice},
    folder::{self, ServerLock},
    signal::StopSignals,
};
use crate::{
    config::DataConfig,
    domain::{DeviceInfo, RunId},
    nn::DeviceChoice,
    store::{self, StoreError},
    worker::{self, LiveBatches, WorkerContext},
};

/// A locked data folder and a compute device, for training without a server.
pub struct Trainer {
    folder: DataFolder,
    device: Device,
    device_info: DeviceInfo,
    max_pixels: u64,
    batches: LiveBatches,
    signals: StopSignals,
    _lock: ServerLock,
}

impl Trainer {
    /// Opens the folder and the device, and queues the runs that an earlier process left running.
    ///
    /// # Errors
    /// If a server uses the folder, or the folder or the device cannot be opened.
    pub async fn open(data: &DataConfig, device: DeviceChoice, default_folder: &str) -> Result<Self, AppError> {
        let path = data.folder(default_folder);
        let lock = folder::lock(&path)?;
        let folder = DataFolder::open(&path).await?;
        store::runs::requeue_interrupted(&folder.stores.db).await?;
        let OpenDevice { device, info: device_info, .. } = device::open(device, &folder.autotune_cache())?;
        let signals = StopSignals::listen().map_err(AppError::Signals)?;
        let (max_pixels, batches) = (data.max_pixels, LiveBatches::new());
        Ok(Self { folder, device, device_info, max_pixels, batches, signals, _lock: lock })
    }

    /// The data folder.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// The compute device.
    pub fn device(&self) -> &DeviceInfo {
        &self.device_info
    }

    /// Live feed of trained batches.
    pub fn batches(&self) -> &LiveBatches {
        &self.batches
    }

    /// Trains a queued run to its end. On SIGINT or SIGTERM it writes a checkpoint and queues the run again; a second signal
    /// skips the checkpoint.
    ///
    /// # Errors
    /// If the run cannot be claimed. The result of the training is recorded with the run.
    pub async fn train(&mut self, run: RunId) -> Result<(), StoreError> {
        let stop = CancellationToken::new();
        let mut training = std::pin::pin!(worker::train_one(self.context(), run, stop.clone()));
        tokio::select! {
            ended = &mut training => return ended,
            signal = self.signals.next() => tracing::info!(signal, "stopping after the current batch"),
        }
        stop.cancel();
        tokio::select! {
            ended = &mut training => ended,
            signal = self.signals.next() => {
                tracing::warn!(signal, "second signal: stopping without a checkpoint");
                Ok(())
            }
        }
    }

    fn context(&self) -> WorkerContext {
        let (device, info) = (self.device.clone(), self.device_info.clone());
        WorkerContext {
            batches: self.batches.clone(),
            ..WorkerContext::idle(self.folder.stores.clone(), device, info, self.max_pixels)
        }
    }
}
