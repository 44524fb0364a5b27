//! Monitors requests to stop a run, for the trainer.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{RunId, RunStatus},
    store::{Db, StoreError, runs},
    training::Stop,
};

/// Maximum time until a change by another process is noticed. Changes by this process are noticed at once.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Reason for which training stops early.
#[derive(Debug)]
pub(super) enum StopReason {
    /// A user cancelled or deleted the run.
    Cancelled,
    /// A user paused the run.
    Paused,
    /// The server shuts down.
    Shutdown,
    /// The status of the run cannot be read.
    Store(StoreError),
}

impl StopReason {
    pub(super) fn stop(&self) -> Stop {
        if matches!(self, Self::Cancelled) { Stop::Cancel } else { Stop::Suspend }
    }
}

/// Watches the status of a run without a query for each batch.
pub(super) struct StopMonitor {
    db: Db,
    run: RunId,
    shutdown: CancellationToken,
    /// Changes whenever this process commits events of runs, and so each change of a status.
    events: watch::Receiver<()>,
    polled: Option<Instant>,
    reason: Option<StopReason>,
}

impl StopMonitor {
    pub(super) fn new(db: Db, run: RunId, shutdown: CancellationToken) -> Self {
        let events = db.events();
        Self { db, run, shutdown, events, polled: None, reason: None }
    }

    /// The reason to stop, if there is one. The first one stays.
    pub(super) async fn check(&mut self) -> Option<&StopReason> {
        if self.reason.is_none() && self.is_due() {
            self.events.mark_unchanged();
            self.polled = Some(Instant::now());
            self.reason = self.read().await;
        }
        self.reason.as_ref()
    }

    pub(super) fn into_reason(self) -> Option<StopReason> {
        self.reason
    }

    fn is_due(&self) -> bool {
        // An error means that the database is closed: then the query says so.
        let changed = self.events.has_changed().unwrap_or(true);
        changed || self.shutdown.is_cancelled() || self.polled.is_none_or(|at| at.elapsed() >= POLL_INTERVAL)
    }

    async fn read(&self) -> Option<StopReason> {
        match runs::status(&self.db, self.run).await {
            Ok(Some(RunStatus::Running)) => self.shutdown.is_cancelled().then_some(StopReason::Shutdown),
            // Queued: paused and resumed again before this trainer noticed. The run resumes when it is claimed again.
            Ok(Some(RunStatus::Paused | RunStatus::Queued)) => Some(StopReason::Paused),
            Ok(_) => Some(StopReason::Cancelled),
            Err(error) => Some(StopReason::Store(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain,
        store::{Dataset, Run, datasets},
    };

    async fn running(db: &Db) -> RunId {
        let dataset = Dataset::new("chests");
        datasets::create(db, &dataset).await.unwrap();
        let plan = domain::recipe("simple-cnn").unwrap().plan;
        runs::create(db, &Run::queued(dataset.id, "f".repeat(64), plan, 0)).await.unwrap();
        runs::claim(db, "cpu").await.unwrap().unwrap().id
    }

    #[tokio::test]
    async fn notices_changes_of_this_process_at_once_and_of_another_within_the_interval() {
        let folder = tempfile::tempdir().unwrap();
        let (db, other_process) = (Db::open(folder.path()).await.unwrap(), Db::open(folder.path()).await.unwrap());
        let run = running(&db).await;
        let mut monitor = StopMonitor::new(db.clone(), run, CancellationToken::new());
        assert!(monitor.check().await.is_none());
        runs::pause(&db, run).await.unwrap();
        assert!(matches!(monitor.check().await, Some(StopReason::Paused)));

        runs::resume(&db, run, None).await.unwrap();
        runs::claim(&db, "cpu").await.unwrap().unwrap();
        let mut monitor = StopMonitor::new(db, run, CancellationToken::new());
        assert!(monitor.check().await.is_none());
        let cancelled = Instant::now();
        runs::cancel(&other_process, run).await.unwrap();
        while monitor.check().await.is_none() {
            assert!(cancelled.elapsed() < Duration::from_secs(5));
            tokio::task::yield_now().await;
        }
        assert!(matches!(monitor.into_reason(), Some(StopReason::Cancelled)));
    }

    #[tokio::test]
    async fn reads_the_status_once_an_interval_while_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).await.unwrap();
        let mut monitor = StopMonitor::new(db.clone(), running(&db).await, CancellationToken::new());
        assert!(monitor.check().await.is_none());
        let polled = monitor.polled;
        for _ in 0..100 {
            assert!(monitor.check().await.is_none());
        }
        let late = polled.unwrap().elapsed() >= POLL_INTERVAL;
        assert!(monitor.polled == polled || late);
    }

    #[tokio::test]
    async fn a_shutdown_stops_a_running_run_and_not_the_reason_of_a_user() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).await.unwrap();
        let run = running(&db).await;
        let stop = CancellationToken::new();
        let mut monitors = [(); 2].map(|()| StopMonitor::new(db.clone(), run, stop.clone()));
        for monitor in &mut monitors {
            assert!(monitor.check().await.is_none());
        }
        stop.cancel();
        assert!(matches!(monitors[0].check().await, Some(StopReason::Shutdown)));
        runs::cancel(&db, run).await.unwrap();
        assert!(matches!(monitors[1].check().await, Some(StopReason::Cancelled)));
    }
}
