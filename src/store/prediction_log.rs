//! Writes predictions in batches on a task of its own, so that no client waits for the disk.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    Db, StoreError,
    predictions::{self, ObservedPrediction},
    shadows::{self, Shadow},
};

/// Maximum number of queued entries, of about 1 KB each.
const MAX_QUEUED: usize = 4096;

/// Maximum number of entries in one transaction, and maximum time for which the first of them waits for more.
const MAX_BATCH: usize = 512;
const MAX_BATCH_DELAY: Duration = Duration::from_millis(200);

/// Maximum time for which [`PredictionLog::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two attempts to write to a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// Time between two deletions of old predictions.
const DELETE_INTERVAL: Duration = Duration::from_secs(3600);

/// Handle of the task that writes predictions.
#[derive(Clone, Debug)]
pub struct PredictionLog(mpsc::Sender<Entry>);

#[derive(Debug)]
enum Entry {
    Prediction(Box<ObservedPrediction>),
    Shadow(Box<Shadow>),
    /// Notified when all entries before it are written.
    Flush(oneshot::Sender<()>),
}

/// The queue is full because the disk is full or too slow. The prediction is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl PredictionLog {
    /// Starts the task, which ends with the last handle. Predictions are deleted after `days`; never if `None`.
    pub fn start(db: Db, days: Option<u32>) -> Self {
        let (entries, inbox) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(Writer { db, days, inbox }.run());
        Self(entries)
    }

    /// Queues a prediction to be recorded and added to the hourly statistics.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn record(&self, observed: ObservedPrediction) -> Result<(), QueueFull> {
        self.0.try_send(Entry::Prediction(Box::new(observed))).map_err(|_| QueueFull)
    }

    /// Queues the prediction of a challenger to be recorded.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn record_shadow(&self, shadow: Shadow) -> Result<(), QueueFull> {
        self.0.try_send(Entry::Shadow(Box::new(shadow))).map_err(|_| QueueFull)
    }

    /// Waits until all predictions that were queued before can be read, but at most five seconds.
    pub async fn flush(&self) {
        let wait = async {
            let (sender, receiver) = oneshot::channel();
            if self.0.send(Entry::Flush(sender)).await.is_ok() {
                // An error means that the task has ended.
                receiver.await.ok();
            }
        };
        if timeout(FLUSH_TIMEOUT, wait).await.is_err() {
            tracing::warn!("predictions wait for the disk: the newest ones cannot be read yet");
        }
    }
}

struct Writer {
    db: Db,
    days: Option<u32>,
    inbox: mpsc::Receiver<Entry>,
}

#[derive(Default)]
struct Batch {
    predictions: Vec<ObservedPrediction>,
    shadows: Vec<Shadow>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Prediction(observed) => self.predictions.push(*observed),
            Entry::Shadow(shadow) => self.shadows.push(*shadow),
            Entry::Flush(sender) => self.flushes.push(sender),
        }
    }

    /// True if the batch is to be written now: it is full, or a flush waits for it.
    fn is_due(&self) -> bool {
        self.predictions.len() + self.shadows.len() >= MAX_BATCH || !self.flushes.is_empty()
    }
}

impl Writer {
    async fn run(mut self) {
        let mut sweep = interval(DELETE_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = self.inbox.recv() => match entry {
                    Some(first) => self.write_batch_from(first).await,
                    None => return,
                },
                _ = sweep.tick() => self.delete_old().await,
            }
        }
    }

    async fn write_batch_from(&mut self, first: Entry) {
        let (mut batch, due) = (Batch::default(), Instant::now() + MAX_BATCH_DELAY);
        batch.push(first);
        while !batch.is_due() {
            tokio::select! {
                entry = self.inbox.recv() => match entry {
                    Some(entry) => batch.push(entry),
                    None => break,
                },
                () = sleep_until(due) => break,
            }
        }
        self.write_when_possible(&batch).await;
        // Sending fails if the caller of `flush` no longer waits.
        batch.flushes.into_iter().for_each(|sender| sender.send(()).unwrap_or_default());
    }

    async fn write_when_possible(&self, batch: &Batch) {
        let mut warned = false;
        while let Err(error) = self.write(batch).await {
            let count = batch.predictions.len();
            if !error.is_disk_error() {
                return tracing::error!(%error, count, "predictions cannot be recorded and are lost");
            }
            if !warned {
                tracing::warn!(%error, count, "predictions wait for the disk");
            }
            warned = true;
            sleep(RETRY).await;
        }
    }

    async fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.predictions.is_empty() && batch.shadows.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        predictions::create_in(&mut tx, &batch.predictions).await?;
        shadows::create_in(&mut tx, &batch.shadows).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn delete_old(&self) {
        let Some(days) = self.days else { return };
        let then = Timestamp::now() - (i64::from(days) * 24).hours();
        let deleted = match predictions::delete_before(&self.db, then).await {
            Ok(deleted) => shadows::delete_before(&self.db, then).await.map(|()| deleted),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, days, "old predictions deleted"),
            Err(error) => tracing::error!(%error, "old predictions cannot be deleted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ModelId,
        store::{Page, fixtures},
    };

    #[tokio::test]
    async fn predictions_can_be_read_after_a_flush() {
        let (_dir, db) = fixtures::db().await;
        let log = PredictionLog::start(db.clone(), None);
        let model = ModelId::new();
        let made: Vec<ObservedPrediction> = (0..MAX_BATCH + 9).map(|_| fixtures::observed(model, "normal")).collect();
        made.iter().for_each(|observed| log.record(observed.clone()).unwrap());
        let (first, challenger) = (&made[0].prediction, ModelId::new());
        let shadow = Shadow {
            prediction_id: first.id,
            model_id: challenger,
            answered: first.prediction.clone(),
            prediction: "COVID-19".into(),
            probabilities: first.probabilities.clone(),
            created_at: first.created_at,
        };
        log.record_shadow(shadow).unwrap();
        log.flush().await;
        let page = Page { limit: 1000, after: None };
        assert_eq!(predictions::list(&db, &page).await.unwrap().len(), made.len());
        let [pair] = &shadows::pairs(&db, challenger).await.unwrap()[..] else { panic!("one pair") };
        assert_eq!((pair.said.as_str(), pair.other.as_str(), pair.count), ("COVID-19", "normal", 1));
        assert_eq!(shadows::disagreements(&db, challenger, 9).await.unwrap(), [first.id]);
        shadows::delete_before(&db, Timestamp::now() + 1.second()).await.unwrap();
        assert_eq!(shadows::pairs(&db, challenger).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_predictions_at_once() {
        let (_dir, db) = fixtures::db().await;
        let log = PredictionLog::start(db.clone(), None);
        // Another transaction holds the write lock.
        let blocked = db.begin().await.unwrap();
        let mut recorded = 0;
        while log.record(fixtures::observed(ModelId::new(), "normal")).is_ok() {
            recorded += 1;
            tokio::task::yield_now().await;
            assert!(recorded <= 2 * (MAX_QUEUED + MAX_BATCH), "the queue is not bounded");
        }
        assert!(recorded >= MAX_QUEUED);
        drop(blocked);
        log.flush().await;
        assert_eq!(predictions::list(&db, &Page { limit: 10_000, after: None }).await.unwrap().len(), recorded);
    }
}
