//! Follows the events of a run for one stream: woken by commits of this process, and by polling for those of others.

use std::{collections::VecDeque, error::Error, time::Duration};

use axum::response::sse::Event;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{self, error::RecvError},
        mpsc, watch,
    },
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{BatchEvent, RunId},
    http::state::RunEvents,
    store::{self, Db, StoreError, StoredEvent},
};

/// Events buffered for a slow client. Further events stay in the database; batches are dropped.
pub(super) const BUFFERED_EVENTS: usize = 16;

/// Events per query.
const PAGE: u32 = 100;

/// Polling interval: another process may write to the same database.
const POLL_INTERVAL: Duration = Duration::from_millis(1500);

/// A client that reads nothing for this long is disconnected; it may reconnect with the last id it received.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

type Failure = Box<dyn Error + Send + Sync>;

/// State of one stream.
pub(super) struct Follower {
    db: Db,
    run: RunId,
    /// Id of the last event that was read.
    after: u64,
    read: VecDeque<StoredEvent>,
    /// True if more events may be stored already.
    more: bool,
    /// True if no event follows those that were read.
    ended: bool,
    changes: watch::Receiver<()>,
    batches: broadcast::Receiver<(RunId, BatchEvent)>,
    poll: Interval,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// Starts after the event `after` and reads a first page.
    pub(super) async fn start(
        events: &RunEvents,
        run: RunId,
        after: u64,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, StoreError> {
        let mut poll = interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follower = Self {
            db: events.stores.db.clone(),
            run,
            after,
            read: VecDeque::new(),
            more: false,
            ended: false,
            // Subscribed before the first query, so that a commit during it wakes the stream.
            changes: events.stores.db.events(),
            batches: events.training.batches.subscribe(),
            poll,
            shutdown: events.lifecycle.shutdown.clone(),
            _permit: permit,
        };
        follower.read_page().await?;
        Ok(follower)
    }

    /// True if the run has ended and no event follows.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.read.is_empty()
    }

    /// Feeds a stream until the run has ended, the server shuts down, or the client is gone or reads nothing.
    pub(super) async fn feed(mut self, stream: mpsc::Sender<Event>) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = stream.closed() => {}
            sent = self.send_all(&stream) => if let Err(error) = sent {
                tracing::error!(%error, "event stream closed: events cannot be read");
            }
        }
    }

    async fn send_all(&mut self, stream: &mpsc::Sender<Event>) -> Result<(), Failure> {
        while let Some(event) = self.next().await? {
            let Ok(sent) = timeout(SEND_TIMEOUT, stream.send(event)).await else {
                tracing::info!(run = %self.run, "event stream closed: client reads nothing");
                return Ok(());
            };
            if sent.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next event; `None` after the last.
    async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Ok(Some(super::stored(&event)?));
            }
            if self.ended {
                return Ok(None);
            }
            if self.more {
                self.read_page().await?;
                continue;
            }
            tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => self.read_page().await?,
                _ = self.poll.tick() => self.read_page().await?,
                received = self.batches.recv() => match received {
                    Ok((run, batch)) if run == self.run => return Ok(Some(super::batch(&batch)?)),
                    // A batch of another run, or some were missed.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(None),
                },
            }
        }
    }

    /// Reads the next page of events.
    async fn read_page(&mut self) -> Result<(), StoreError> {
        let Some((status, events)) = store::events::follow(&self.db, self.run, self.after, PAGE).await? else {
            // The run was deleted.
            self.ended = true;
            return Ok(());
        };
        self.more = events.len() == PAGE as usize;
        self.ended = status.is_final() && !self.more;
        if let Some(last) = events.last() {
            self.after = last.id;
        }
        self.read = events.into();
        Ok(())
    }
}
