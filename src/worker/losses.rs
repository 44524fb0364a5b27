//! Losses of a run during training: sent to subscribers, thinned out, and written from time to time.

use std::time::{Duration, Instant};

use super::LiveBatches;
use crate::{
    domain::{BatchEvent, LossCurve, RunId, TrainedBatch},
    store::{Db, StoreError, losses},
};

/// Minimum time between two writes, except at a checkpoint.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Minimum time between two batches that are sent to subscribers.
const SEND_INTERVAL: Duration = Duration::from_millis(250);

/// Loss curve of a run, and the times at which it was written and sent.
pub(super) struct Losses {
    db: Db,
    run: RunId,
    batches: LiveBatches,
    /// Read at the first batch, because a resumed run has one.
    curve: Option<LossCurve>,
    written: Instant,
    sent: Option<Instant>,
}

impl Losses {
    pub(super) fn new(db: Db, run: RunId, batches: LiveBatches) -> Self {
        Self { db, run, batches, curve: None, written: Instant::now(), sent: None }
    }

    /// Adds a trained batch.
    pub(super) async fn add(&mut self, batch: &TrainedBatch) -> Result<(), StoreError> {
        let steps = self.curve().await?.push(batch.stage, batch.loss);
        if self.sent.is_none_or(|at| at.elapsed() >= SEND_INTERVAL) {
            self.batches.send(self.run, BatchEvent { steps, batch: *batch });
            self.sent = Some(Instant::now());
        }
        if self.written.elapsed() >= WRITE_INTERVAL {
            self.write().await?;
        }
        Ok(())
    }

    /// Number of batches that the run has trained.
    pub(super) async fn steps(&mut self) -> Result<u64, StoreError> {
        self.curve().await.map(|curve| curve.steps())
    }

    /// Writes the curve.
    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        // Before the attempt, so that a full disk is not tried at each batch.
        self.written = Instant::now();
        let (db, run) = (self.db.clone(), self.run);
        let curve = self.curve().await?;
        losses::write(&db, run, curve).await
    }

    /// The curve, read from the database at first use.
    async fn curve(&mut self) -> Result<&mut LossCurve, StoreError> {
        let curve = match self.curve.take() {
            Some(curve) => curve,
            None => losses::curve(&self.db, self.run).await?,
        };
        Ok(self.curve.insert(curve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_every_batch_and_sends_four_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let (db, run, batches) = (Db::open(folder.path()).await.unwrap(), RunId::new(), LiveBatches::new());
        let mut receiver = batches.subscribe();
        let mut losses = Losses { db, run, batches, curve: None, written: Instant::now(), sent: None };
        let started = Instant::now();
        for batch in 1..=1000 {
            let loss = f64::from(batch);
            let (learning_rate, images_per_second) = (0.01, 8.0);
            let batch = TrainedBatch { stage: 1, step: 1, epoch: 1, batch, loss, learning_rate, images_per_second };
            losses.add(&batch).await.unwrap();
        }
        let most = 1 + started.elapsed().as_millis() / SEND_INTERVAL.as_millis();
        let sent: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert!((1..=most).contains(&(sent.len() as u128)), "{} sent, at most {most}", sent.len());
        assert!(sent.iter().all(|(of, event)| *of == run && event.steps == u64::from(event.batch.batch)));
        assert_eq!(losses.curve.unwrap().steps(), 1000);
    }
}
