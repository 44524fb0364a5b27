//! The batches of the run at hand, for those who watch at that moment.

use tokio::sync::broadcast;

use crate::domain::{BatchEvent, RunId};

/// So many batches wait for a slow reader; it then misses the oldest, which is no loss: the curve is stored.
const KEPT: usize = 16;

/// Passes trained batches from the worker to whoever listens; cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveBatches(broadcast::Sender<(RunId, BatchEvent)>);

impl LiveBatches {
    /// One that nobody listens to yet.
    pub fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    /// Tells all who listen.
    pub fn send(&self, run: RunId, batch: BatchEvent) {
        // Fails when nobody listens.
        let _ = self.0.send((run, batch));
    }

    /// Hears of batches from now on.
    pub fn listen(&self) -> broadcast::Receiver<(RunId, BatchEvent)> {
        self.0.subscribe()
    }
}

impl Default for LiveBatches {
    fn default() -> Self {
        Self::new()
    }
}
