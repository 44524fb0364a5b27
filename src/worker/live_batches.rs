//! Broadcast of trained batches, for live views of a run.

use tokio::sync::broadcast;

use crate::domain::{BatchEvent, RunId};

/// Number of batches that are buffered for a slow receiver. It misses the oldest ones; the loss curve is stored anyway.
const CAPACITY: usize = 16;

/// Sends trained batches from the worker to all subscribers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveBatches(broadcast::Sender<(RunId, BatchEvent)>);

impl LiveBatches {
    /// A channel without subscribers.
    pub fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    /// Sends a batch to all subscribers.
    pub fn send(&self, run: RunId, batch: BatchEvent) {
        // Fails if there are no subscribers.
        let _ = self.0.send((run, batch));
    }

    /// Receives batches from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<(RunId, BatchEvent)> {
        self.0.subscribe()
    }
}

impl Default for LiveBatches {
    fn default() -> Self {
        Self::new()
    }
}
