//! Training without a server: the same worker, on one run.

use burn::tensor::Device;
use tokio_util::sync::CancellationToken;

use super::{
    AppError, DataFolder,
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

/// A data folder and a device that no server has meanwhile.
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
    /// Opens the folder and the device. Runs that an earlier process left behind are queued again, and stay so.
    ///
    /// # Errors
    /// When a server has the folder, or folder or device are not to be had.
    pub async fn open(data: &DataConfig, device: DeviceChoice, default_folder: &str) -> Result<Self, AppError> {
        let path = data.folder(default_folder);
        let lock = folder::lock(&path)?;
        let folder = DataFolder::open(&path).await?;
        store::runs::requeue_interrupted(&folder.stores.db).await?;
        let (device, device_info) = device.open(Some(&folder.tuning()))?;
        let signals = StopSignals::listen().map_err(AppError::Serve)?;
        let (max_pixels, batches) = (data.max_pixels, LiveBatches::new());
        Ok(Self { folder, device, device_info, max_pixels, batches, signals, _lock: lock })
    }

    /// Its data.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Where it trains.
    pub fn device(&self) -> &DeviceInfo {
        &self.device_info
    }

    /// Told of trained batches.
    pub fn batches(&self) -> &LiveBatches {
        &self.batches
    }

    /// Trains a queued run to its end. SIGINT or SIGTERM lets it write a checkpoint and puts it back into the queue; a second signal
    /// does not wait for that.
    ///
    /// # Errors
    /// When the run cannot be taken from the queue. How it ends is recorded with the run.
    pub async fn train(&mut self, run: RunId) -> Result<(), StoreError> {
        let stop = CancellationToken::new();
        let mut training = std::pin::pin!(worker::train_one(self.context(), run, stop.clone()));
        tokio::select! {
            ended = &mut training => return ended,
            signal = self.signals.next() => tracing::info!(signal, "stopping at the next batch"),
        }
        stop.cancel();
        tokio::select! {
            ended = &mut training => ended,
            signal = self.signals.next() => {
                tracing::warn!(signal, "not waiting for the checkpoint at a second signal");
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
