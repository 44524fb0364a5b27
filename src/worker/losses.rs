//! The losses of a run while it trains: told as they come, kept thinned, and written now and then.

use std::time::{Duration, Instant};

use super::LiveBatches;
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
    pub(super) fn new(db: Db, run: RunId, batches: LiveBatches) -> Self {
        Self { db, run, batches, curve: None, written: Instant::now(), told: None }
    }

    /// Counts a trained batch.
    pub(super) async fn add(&mut self, batch: &TrainedBatch) -> Result<(), StoreError> {
        let steps = self.curve().await?.push(batch.stage, batch.loss);
        if self.told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.batches.send(self.run, BatchEvent { steps, batch: *batch });
            self.told = Some(Instant::now());
        }
        if self.written.elapsed() >= WRITE_INTERVAL {
            self.write().await?;
        }
        Ok(())
    }

    /// How many batches the run has trained.
    pub(super) async fn steps(&mut self) -> Result<u64, StoreError> {
        self.curve().await.map(|curve| curve.steps())
    }

    /// Writes what there is.
    pub(super) async fn write(&mut self) -> Result<(), StoreError> {
        // Before the attempt: a disk that is full is not asked at each batch.
        self.written = Instant::now();
        let (db, run) = (self.db.clone(), self.run);
        let curve = self.curve().await?;
        losses::write(&db, run, curve).await
    }

    /// What was trained so far: read when it is first asked for.
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
    async fn every_batch_counts_and_four_a_second_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (db, run, batches) = (Db::open(folder.path()).await.unwrap(), RunId::new(), LiveBatches::new());
        let mut heard = batches.listen();
        let mut losses = Losses { db, run, batches, curve: None, written: Instant::now(), told: None };
        let started = Instant::now();
        for batch in 1..=1000 {
            let loss = f64::from(batch);
            let (learning_rate, images_per_second) = (0.01, 8.0);
            let batch = TrainedBatch { stage: 1, step: 1, epoch: 1, batch, loss, learning_rate, images_per_second };
            losses.add(&batch).await.unwrap();
        }
        let most = 1 + started.elapsed().as_millis() / TELL_INTERVAL.as_millis();
        let told: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert!((1..=most).contains(&(told.len() as u128)), "{} told, at most {most}", told.len());
        assert!(told.iter().all(|(of, event)| *of == run && event.steps == u64::from(event.batch.batch)));
        assert_eq!(losses.curve.unwrap().steps(), 1000);
    }
}
