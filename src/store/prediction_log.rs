//! Writes predictions in batches, so that no client waits for the disk.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    Db, StoreError,
    predictions::{self, Observed},
    shadows::{self, Shadow},
};

/// Entries that may wait to be written: of about 1 KB each.
const MOST_WAITING: usize = 4096;

/// Entries that are written in one transaction, and how long the first of them waits for company.
const MOST_AT_ONCE: usize = 512;
const COMPANY: Duration = Duration::from_millis(200);

/// How long one who reads waits for what was recorded before.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for a disk that is full.
const RETRY: Duration = Duration::from_secs(1);

/// How often old predictions are removed.
const SWEEP: Duration = Duration::from_secs(3600);

/// A handle to the task that writes.
#[derive(Clone, Debug)]
pub struct PredictionLog(mpsc::Sender<Entry>);

#[derive(Debug)]
enum Entry {
    Prediction(Box<Observed>),
    Shadow(Box<Shadow>),
    /// Answered when all that came before is written.
    Written(oneshot::Sender<()>),
}

/// As many wait to be written as may: the disk is full or too slow, and this one is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

impl PredictionLog {
    /// Starts the task, which ends with the last handle. Predictions are kept for so many days; `None`: for ever.
    pub fn start(db: Db, days: Option<u32>) -> Self {
        let (entries, inbox) = mpsc::channel(MOST_WAITING);
        tokio::spawn(Writer { db, days, inbox }.run());
        Self(entries)
    }

    /// Has a prediction recorded soon, and counted.
    ///
    /// # Errors
    /// [`NotRecorded`].
    pub fn record(&self, observed: Observed) -> Result<(), NotRecorded> {
        self.0.try_send(Entry::Prediction(Box::new(observed))).map_err(|_| NotRecorded)
    }

    /// Has the answer of a challenger recorded soon.
    ///
    /// # Errors
    /// [`NotRecorded`].
    pub fn record_shadow(&self, shadow: Shadow) -> Result<(), NotRecorded> {
        self.0.try_send(Entry::Shadow(Box::new(shadow))).map_err(|_| NotRecorded)
    }

    /// Returns when what was recorded before can be read, or after some seconds if the disk does not take it.
    pub async fn written(&self) {
        let wait = async {
            let (sender, receiver) = oneshot::channel();
            if self.0.send(Entry::Written(sender)).await.is_ok() {
                // An error means that the task is gone, and nothing is left to wait for.
                receiver.await.ok();
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            tracing::warn!("predictions wait for the disk: what is read lacks the newest");
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
    predictions: Vec<Observed>,
    shadows: Vec<Shadow>,
    readers: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Prediction(observed) => self.predictions.push(*observed),
            Entry::Shadow(shadow) => self.shadows.push(*shadow),
            Entry::Written(reader) => self.readers.push(reader),
        }
    }

    /// Whether it is written now: it is large enough, or somebody waits for it.
    fn is_due(&self) -> bool {
        self.predictions.len() + self.shadows.len() >= MOST_AT_ONCE || !self.readers.is_empty()
    }
}

impl Writer {
    async fn run(mut self) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = self.inbox.recv() => match entry {
                    Some(first) => self.write_with_company(first).await,
                    None => return,
                },
                _ = sweep.tick() => self.forget_old().await,
            }
        }
    }

    async fn write_with_company(&mut self, first: Entry) {
        let (mut batch, due) = (Batch::default(), Instant::now() + COMPANY);
        batch.take(first);
        while !batch.is_due() {
            tokio::select! {
                entry = self.inbox.recv() => match entry {
                    Some(entry) => batch.take(entry),
                    None => break,
                },
                () = sleep_until(due) => break,
            }
        }
        self.write_when_possible(&batch).await;
        // Who does not wait any more does not mind.
        batch.readers.into_iter().for_each(|reader| reader.send(()).unwrap_or_default());
    }

    async fn write_when_possible(&self, batch: &Batch) {
        let mut warned = false;
        while let Err(error) = self.write(batch).await {
            let count = batch.predictions.len();
            if !error.is_of_the_disk() {
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

    async fn forget_old(&self) {
        let Some(days) = self.days else { return };
        let then = Timestamp::now() - (i64::from(days) * 24).hours();
        let removed = match predictions::forget_before(&self.db, then).await {
            Ok(removed) => shadows::forget_before(&self.db, then).await.map(|()| removed),
            Err(error) => Err(error),
        };
        match removed {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, days, "old predictions removed"),
            Err(error) => tracing::error!(%error, "old predictions cannot be removed"),
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
    async fn who_waits_reads_what_was_recorded_before() {
        let (_dir, db) = fixtures::db().await;
        let log = PredictionLog::start(db.clone(), None);
        let model = ModelId::new();
        let made: Vec<Observed> = (0..MOST_AT_ONCE + 9).map(|_| fixtures::observed(model, "normal")).collect();
        made.iter().for_each(|observed| log.record(observed.clone()).unwrap());
        let (told, challenger) = (&made[0].prediction, ModelId::new());
        let shadow = Shadow {
            prediction_id: told.id,
            model_id: challenger,
            answered: told.prediction.clone(),
            prediction: "COVID-19".into(),
            probabilities: told.probabilities.clone(),
            created_at: told.created_at,
        };
        log.record_shadow(shadow).unwrap();
        log.written().await;
        let page = Page { limit: 1000, after: None };
        assert_eq!(predictions::list(&db, &page).await.unwrap().len(), made.len());
        let [pair] = &shadows::pairs(&db, challenger).await.unwrap()[..] else { panic!("one pair") };
        assert_eq!((pair.said.as_str(), pair.other.as_str(), pair.count), ("COVID-19", "normal", 1));
        assert_eq!(shadows::disagreements(&db, challenger, 9).await.unwrap(), [told.id]);
        shadows::forget_before(&db, Timestamp::now() + 1.second()).await.unwrap();
        assert_eq!(shadows::pairs(&db, challenger).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_log_that_is_full_says_so_at_once() {
        let (_dir, db) = fixtures::db().await;
        let log = PredictionLog::start(db.clone(), None);
        // Somebody else writes for a while.
        let blocked = db.begin().await.unwrap();
        let mut recorded = 0;
        while log.record(fixtures::observed(ModelId::new(), "normal")).is_ok() {
            recorded += 1;
            tokio::task::yield_now().await;
            assert!(recorded <= 2 * (MOST_WAITING + MOST_AT_ONCE), "it takes no end");
        }
        assert!(recorded >= MOST_WAITING);
        drop(blocked);
        log.written().await;
        assert_eq!(predictions::list(&db, &Page { limit: 10_000, after: None }).await.unwrap().len(), recorded);
    }
}
