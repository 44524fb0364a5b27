//! Reads a run's events for one stream: woken by what this process commits, and now and then by the clock.

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
    http::AppState,
    store::{self, Db, StoreError, StoredEvent},
};

/// Events that may wait for a client that reads slowly. What comes beyond is left where it is stored; batches are left out.
pub(super) const AHEAD: usize = 16;

/// Events that are read at once.
const PAGE: u32 = 100;

/// How often it looks without being woken: another process may write into the same database.
const POLL: Duration = Duration::from_millis(1500);

/// A client that takes nothing for so long is let go of; it may come back with the last id it saw.
const PATIENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn Error + Send + Sync>;

/// Where one stream stands.
pub(super) struct Follower {
    db: Db,
    run: RunId,
    /// The last event that was read.
    after: u64,
    read: VecDeque<StoredEvent>,
    /// Whether there may be more to read at once.
    more: bool,
    /// Whether what was read is the last.
    ended: bool,
    changes: watch::Receiver<()>,
    batches: broadcast::Receiver<(RunId, BatchEvent)>,
    poll: Interval,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// Begins after the event `after`, with a first look.
    pub(super) async fn start(
        state: &AppState,
        run: RunId,
        after: u64,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, StoreError> {
        let mut poll = interval_at(Instant::now() + POLL, POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follower = Self {
            db: state.db.clone(),
            run,
            after,
            read: VecDeque::new(),
            more: false,
            ended: false,
            // Before the first look, so that what is written during it wakes.
            changes: state.db.events(),
            batches: state.batches.subscribe(),
            poll,
            shutdown: state.shutdown.clone(),
            _place: place,
        };
        follower.look().await?;
        Ok(follower)
    }

    /// The run has ended and nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.read.is_empty()
    }

    /// Feeds a stream until the run has ended, the server stops, or the client is gone or takes nothing.
    pub(super) async fn feed(mut self, stream: mpsc::Sender<Event>) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = stream.closed() => {}
            fed = self.pass_on(&stream) => if let Err(error) = fed {
                tracing::error!(%error, "a stream of events ends: they cannot be read");
            }
        }
    }

    async fn pass_on(&mut self, stream: &mpsc::Sender<Event>) -> Result<(), Failure> {
        while let Some(event) = self.next().await? {
            let Ok(sent) = timeout(PATIENCE, stream.send(event)).await else {
                tracing::info!(run = %self.run, "a stream of events ends: its client takes nothing");
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
                self.look().await?;
                continue;
            }
            tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => self.look().await?,
                _ = self.poll.tick() => self.look().await?,
                heard = self.batches.recv() => match heard {
                    Ok((run, batch)) if run == self.run => return Ok(Some(super::batch(&batch)?)),
                    // Of another run, or this one was too slow for some.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(None),
                },
            }
        }
    }

    /// Reads what is new.
    async fn look(&mut self) -> Result<(), StoreError> {
        let Some((status, events)) = store::events::follow(&self.db, self.run, self.after, PAGE).await? else {
            // Removed; nothing more will come.
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
