//! Writes predictions in batches on a task of its own, so that no client waits for the disk.

use std::{slice, time::Duration};

use jiff::ToSpan;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use super::{
    Db, StorageFault, StoreError, data_folder,
    predictions::{self, ObservedPrediction},
    shadows::{self, Shadow},
};
use crate::metrics::Predictions;

/// Maximum number of queued entries, of about 1 KB each.
const MAX_QUEUED: usize = 4096;

/// Maximum number of entries in one transaction, and maximum time for which the first of them waits for more.
const MAX_BATCH: usize = 512;
const MAX_BATCH_DELAY: Duration = Duration::from_millis(200);

/// Maximum time for which [`PredictionLog::flush`] and [`PredictionLog::record_durably`] wait.
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
    Prediction(Box<ObservedPrediction>, Option<Receipt>),
    Shadow(Box<Shadow>),
    /// Notified when all entries before it are written.
    Flush(oneshot::Sender<()>),
}

/// Notified when the entry is written, or is known not to be.
type Receipt = oneshot::Sender<Result<(), NotRecorded>>;

/// Reason for which a prediction is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    /// The queue is full because the disk is full or too slow.
    #[error("too many predictions wait for the disk")]
    QueueFull,
    /// The database cannot be written now.
    #[error("the database cannot be written")]
    Storage(Option<StorageFault>),
}

impl PredictionLog {
    /// Starts the task, which ends with the last handle. Predictions are deleted after `days`; never if `None`. Predictions that cannot be
    /// recorded are counted in `metrics`.
    pub fn start(db: Db, days: Option<u32>, metrics: Predictions) -> Self {
        let (entries, inbox) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(Writer { db, days, inbox, metrics }.run());
        Self(entries)
    }

    /// Queues a prediction to be recorded and added to the hourly statistics.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn record(&self, observed: ObservedPrediction) -> Result<(), NotRecorded> {
        self.0.try_send(Entry::Prediction(Box::new(observed), None)).map_err(|_| NotRecorded::QueueFull)
    }

    /// Records a prediction and returns when it is durable. Concurrent calls share a transaction.
    ///
    /// # Errors
    /// When it is not recorded within five seconds. It may be recorded later.
    pub async fn record_durably(&self, observed: ObservedPrediction) -> Result<(), NotRecorded> {
        let (receipt, receiver) = oneshot::channel();
        let entry = Entry::Prediction(Box::new(observed), Some(receipt));
        self.0.try_send(entry).map_err(|_| NotRecorded::QueueFull)?;
        match timeout(FLUSH_TIMEOUT, receiver).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) => Err(NotRecorded::Storage(None)),
            Err(_) => Err(NotRecorded::Storage(Some(StorageFault::Locked))),
        }
    }

    /// Queues the prediction of a challenger to be recorded.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn record_shadow(&self, shadow: Shadow) -> Result<(), NotRecorded> {
        self.0.try_send(Entry::Shadow(Box::new(shadow))).map_err(|_| NotRecorded::QueueFull)
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
    metrics: Predictions,
}

#[derive(Default)]
struct Batch {
    predictions: Vec<ObservedPrediction>,
    /// One for each prediction.
    receipts: Vec<Option<Receipt>>,
    shadows: Vec<Shadow>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Prediction(observed, receipt) => {
                self.predictions.push(*observed);
                self.receipts.push(receipt);
            }
            Entry::Shadow(shadow) => self.shadows.push(*shadow),
            Entry::Flush(sender) => self.flushes.push(sender),
        }
    }

    fn is_full(&self) -> bool {
        self.predictions.len() + self.shadows.len() >= MAX_BATCH
    }

    /// True if the batch is to be written now: it is full, or a request waits for it.
    fn is_due(&self) -> bool {
        self.is_full() || !self.flushes.is_empty() || self.receipts.iter().any(Option::is_some)
    }

    fn is_empty(&self) -> bool {
        self.predictions.is_empty() && self.shadows.is_empty()
    }

    /// Removes the predictions whose requests wait for their records, and reports to them that nothing was recorded; returns their number.
    fn refuse_awaited(&mut self, fault: Option<StorageFault>) -> usize {
        let (mut kept, mut refused) = (Vec::new(), 0);
        for (prediction, receipt) in self.predictions.drain(..).zip(self.receipts.drain(..)) {
            match receipt {
                Some(receipt) => {
                    refused += 1;
                    notify(Some(receipt), Err(NotRecorded::Storage(fault)));
                }
                None => kept.push(prediction),
            }
        }
        self.receipts.resize_with(kept.len(), || None);
        self.predictions = kept;
        refused
    }
}

/// Sends the outcome, unless the client no longer waits for it.
fn notify(receipt: Option<Receipt>, outcome: Result<(), NotRecorded>) {
    if let Some(receipt) = receipt {
        receipt.send(outcome).unwrap_or_default();
    }
}

impl Writer {
    async fn run(mut self) {
        self.delete_old().await;
        let mut sweep = interval_at(Instant::now() + DELETE_INTERVAL, DELETE_INTERVAL);
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
        // What waits already shares the transaction, also where it is due.
        while !batch.is_full()
            && let Ok(entry) = self.inbox.try_recv()
        {
            batch.push(entry);
        }
        while !batch.is_due() {
            tokio::select! {
                entry = self.inbox.recv() => match entry {
                    Some(entry) => batch.push(entry),
                    None => break,
                },
                () = sleep_until(due) => break,
            }
        }
        self.write_when_possible(&mut batch).await;
        // Sending fails if the caller of `flush` no longer waits.
        batch.flushes.into_iter().for_each(|sender| sender.send(()).unwrap_or_default());
    }

    /// Writes a batch. While the disk is full or the database locked, predictions that clients have received wait, and those for whose record a
    /// client waits are refused.
    async fn write_when_possible(&self, batch: &mut Batch) {
        let mut warned = false;
        while !batch.is_empty() {
            let error = match self.write(batch).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if !error.may_pass() {
                tracing::warn!(%error, "predictions cannot be recorded together: each is recorded separately");
                return self.write_each(batch).await;
            }
            let refused = batch.refuse_awaited(error.fault());
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(%error, waiting = batch.predictions.len(), refused, "predictions cannot be recorded now");
            }
            if !batch.is_empty() {
                sleep(RETRY).await;
            }
        }
    }

    async fn write(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut tx = self.db.begin().await?;
        predictions::create_in(&mut tx, &batch.predictions).await?;
        shadows::create_in(&mut tx, &batch.shadows).await?;
        tx.commit().await?;
        batch.receipts.drain(..).for_each(|receipt| notify(receipt, Ok(())));
        Ok(())
    }

    /// Writes each entry of a batch of which one cannot be written. Those that cannot are logged and counted.
    async fn write_each(&self, batch: &mut Batch) {
        let receipts = std::mem::take(&mut batch.receipts);
        for (prediction, receipt) in batch.predictions.drain(..).zip(receipts) {
            let id = prediction.prediction.id;
            let outcome = self.write_one(slice::from_ref(&prediction), &[]).await;
            if let Err(error) = &outcome {
                self.db.note_damage(error);
                self.metrics.unrecorded();
                tracing::error!(prediction = %id, %error, "a prediction cannot be recorded");
            }
            notify(receipt, outcome.map_err(|error| NotRecorded::Storage(error.fault())));
        }
        for shadow in batch.shadows.drain(..) {
            if let Err(error) = self.write_one(&[], slice::from_ref(&shadow)).await {
                tracing::error!(prediction = %shadow.prediction_id, %error, "a shadow prediction cannot be recorded");
            }
        }
    }

    async fn write_one(&self, predictions: &[ObservedPrediction], shadows: &[Shadow]) -> Result<(), StoreError> {
        let mut tx = self.db.begin().await?;
        predictions::create_in(&mut tx, predictions).await?;
        shadows::create_in(&mut tx, shadows).await?;
        Ok(tx.commit().await?)
    }

    async fn delete_old(&self) {
        let Some(days) = self.days else { return };
        let deleted = async {
            let then = data_folder::believed_time(&self.db).await? - (i64::from(days) * 24).hours();
            let deleted = predictions::delete_before(&self.db, then).await?;
            shadows::delete_before(&self.db, then).await?;
            Ok::<_, StoreError>(deleted)
        };
        match deleted.await {
            Ok(0) => {}
            Ok(deleted) => {
                self.db.erase_soon();
                tracing::info!(deleted, days, "old predictions deleted");
            }
            Err(error) => tracing::error!(%error, "old predictions cannot be deleted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        domain::ModelId,
        store::{Page, fixtures},
    };

    fn start(db: &Db, days: Option<u32>) -> PredictionLog {
        PredictionLog::start(db.clone(), days, Predictions::new(1))
    }

    async fn recorded(db: &Db) -> usize {
        predictions::list(db, &Page { limit: 10_000, after: None }).await.unwrap().len()
    }

    #[tokio::test]
    async fn one_prediction_that_cannot_be_stored_costs_only_itself_and_is_counted() {
        let (_dir, db) = fixtures::db().await;
        let metrics = Predictions::new(1);
        let log = PredictionLog::start(db.clone(), None, metrics.clone());
        let model = ModelId::new();
        let good = [(); 7].map(|()| fixtures::observed(model, "normal"));
        let mut bad = fixtures::observed(model, "normal");
        bad.prediction.probabilities.insert("normal".into(), f32::NAN);
        for observed in good[..4].iter().chain([&bad]).chain(&good[4..]) {
            log.record(observed.clone()).unwrap();
        }
        log.flush().await;
        assert_eq!((recorded(&db).await, metrics.unrecorded_count()), (7, 1));
        let hours = crate::store::prediction_stats::hours(&db, model, Timestamp::now() - 2.hours()).await.unwrap();
        assert_eq!(hours.iter().map(|(_, counts)| counts.predictions()).sum::<u64>(), 7);
        assert_eq!(log.record_durably(bad).await, Err(NotRecorded::Storage(None)));
    }

    #[tokio::test]
    async fn a_durable_record_can_be_read_when_the_call_returns() {
        let (_dir, db) = fixtures::db().await;
        let log = start(&db, None);
        let record = || log.record_durably(fixtures::observed(ModelId::new(), "normal"));
        let all = futures_util::future::join_all((0..50).map(|_| record())).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(recorded(&db).await, 50);
        db.note_damage(&StoreError::Damaged("by the test".into()));
        assert_eq!(record().await, Err(NotRecorded::Storage(Some(StorageFault::Damaged))));
    }

    #[tokio::test]
    async fn a_clock_that_jumped_ahead_deletes_nothing() {
        let (dir, db) = fixtures::db().await;
        let stores = crate::store::Stores::open(dir.path()).await.unwrap();
        let log = start(&db, None);
        log.record(fixtures::observed(ModelId::new(), "normal")).unwrap();
        log.flush().await;
        // To the database it is as if the clock, which is right, was a year ahead of the prediction and of the last server.
        let then = Timestamp::now() - (24 * 400).hours();
        let (text, first) = (crate::store::columns::time(then), crate::store::columns::first_id(then));
        sqlx::query("update data_folder set seen_at = ?").bind(text).execute(db.write().unwrap()).await.unwrap();
        sqlx::query("update predictions set id = ? || substr(id, 14)")
            .bind(first)
            .execute(db.write().unwrap())
            .await
            .unwrap();
        stores.advance(Duration::ZERO).await;
        let retaining = start(&db, Some(90));
        retaining.flush().await;
        assert_eq!(recorded(&db).await, 1);
        sqlx::query("update data_folder set seen_at = null").execute(db.write().unwrap()).await.unwrap();
        start(&db, Some(90)).flush().await;
        assert_eq!(recorded(&db).await, 0, "without the time of the last server the clock is believed");
    }

    #[tokio::test]
    async fn predictions_can_be_read_after_a_flush() {
        let (_dir, db) = fixtures::db().await;
        let log = start(&db, None);
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
        let log = start(&db, None);
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
