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
        self.add_at(batch, Instant::now()).await
    }

    /// The same, with the time of the batch.
    async fn add_at(&mut self, batch: &TrainedBatch, now: Instant) -> Result<(), StoreError> {
        let steps = self.curve().await?.push(batch.stage, batch.loss);
        if self.sent.is_none_or(|sent| now.duration_since(sent) >= SEND_INTERVAL) {
            self.batches.send(self.run, BatchEvent { steps, batch: *batch });
            self.sent = Some(now);
        }
        if now.duration_since(self.written) >= WRITE_INTERVAL {
            self.write_at(now).await?;
        }
        Ok(())
    }

    /// Number of batches that the run has trained.
    pub(super) async fn steps(&mut self) -> Result<u64, StoreError> {
        self.curve().await.map(|curve| curve.steps())
    }

    /// Writes the curve.
    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        self.write_at(Instant::now()).await
    }

    async fn write_at(&mut self, now: Instant) -> Result<(), StoreError> {
        // Before the attempt, so that a full disk is not tried at each batch.
        self.written = now;
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
    use crate::{
        domain::{self, DatasetId},
        store::{self, Run},
    };

    #[tokio::test]
    async fn counts_every_batch_and_sends_four_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let (db, batches) = (Db::open(folder.path()).await.unwrap(), LiveBatches::new());
        let plan = domain::recipe("simple-cnn").unwrap().plan;
        let queued = Run::queued(DatasetId::new(), "f".repeat(64), plan, 1);
        store::runs::create(&db, &queued).await.unwrap();
        let run = queued.id;
        let mut receiver = batches.subscribe();
        let mut losses = Losses::new(db, run, batches);
        let started = Instant::now();
        // A batch every 10 ms, and a batch event every 250 ms.
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        for batch in 1..=1000 {
            let loss = f64::from(batch);
            let (learning_rate, images_per_second) = (0.01, 8.0);
            let batch = TrainedBatch { stage: 1, step: 1, epoch: 1, batch, loss, learning_rate, images_per_second };
            losses.add_at(&batch, started + 10 * Duration::from_millis(batch.batch.into())).await.unwrap();
            if batch.batch % 25 == 1 {
                expected.push((run, BatchEvent { steps: batch.batch.into(), batch }));
            }
            sent.extend(std::iter::from_fn(|| receiver.try_recv().ok()));
        }
        assert_eq!(sent, expected);
        assert_eq!(losses.curve.unwrap().steps(), 1000);
    }
}
