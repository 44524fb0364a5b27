//! The losses of a run while it trains: told as they come, kept thinned, and written now and then.

use std::time::{Duration, Instant};

use super::{LiveBatches, WorkerContext};
use crate::{
    domain::{BatchEvent, LossCurve, RunId, TrainedBatch},
    store::{Db, StoreError, losses},
};

/// They are written at most this often, but for the end of an epoch.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Batches are told at most this often: four a second.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

/// What was trained so far, and what of it was written and told.
pub(super) struct Losses {
    db: Db,
    run: RunId,
    batches: LiveBatches,
    /// Read at the first batch: a run that goes on has one.
    curve: Option<LossCurve>,
    written: Instant,
    told: Option<Instant>,
}

impl Losses {
    pub(super) fn new(context: &WorkerContext, run: RunId) -> Self {
        let (db, batches) = (context.db.clone(), context.batches.clone());
        Self { db, run, batches, curve: None, written: Instant::now(), told: None }
    }

    /// Counts a trained batch.
    pub(super) async fn add(&mut self, batch: &TrainedBatch) -> Result<(), StoreError> {
        let curve = match &mut self.curve {
            Some(curve) => curve,
            None => self.curve.insert(losses::curve(&self.db, self.run).await?),
        };
        let steps = curve.push(batch.stage, batch.loss);
        if self.told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.batches.send(self.run, BatchEvent { steps, batch: *batch });
            self.told = Some(Instant::now());
        }
        if self.written.elapsed() >= WRITE_INTERVAL { self.write().await } else { Ok(()) }
    }

    /// Writes what there is.
    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        if let Some(curve) = &self.curve {
            losses::write(&self.db, self.run, curve).await?;
        }
        self.written = Instant::now();
        Ok(())
    }
}
