//! The observer of a run: writes what happens to the store and brings back whether to stop.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    WorkerContext,
    keeper::{Keeper, Keepsake, Milestone, UnderWay},
    losses::Losses,
};
use crate::{
    domain::{EpochRecord, RangeTestResult, RunEvent, RunId, RunProgress, RunStatus, TrainedBatch},
    store::{Db, Run, StoreError, events, runs},
    training::{CacheOrigin, Checkpoint, ImageCache, Observer, ObserverError, StageModel, Stop},
};

/// Progress is written at most this often, but for changes of stage, step and epoch.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long training waits for a disk that is full or fails before the run ends, to be resumed by hand.
const DISK_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// How often it tries the disk meanwhile.
const DISK_POLL: Duration = Duration::from_secs(2);

/// Why the training was asked to stop.
#[derive(Debug)]
pub(super) enum StopReason {
    /// A user cancelled the run, or removed it.
    Cancelled,
    /// A user paused the run.
    Paused,
    /// The server ends.
    Shutdown,
    /// Whether the run is to stop cannot be read.
    Store(StoreError),
}

impl StopReason {
    fn stop(&self) -> Stop {
        if matches!(self, Self::Cancelled) { Stop::ForGood } else { Stop::ToGoOn }
    }
}

/// Lives on the training thread.
pub(super) struct Recorder {
    keeper: Keeper,
    shutdown: CancellationToken,
    stopped: Option<StopReason>,
    written: Option<(RunProgress, Instant)>,
    /// The last checkpoint's number.
    sequence: u32,
    under_way: Option<UnderWay>,
    losses: Losses,
}

impl Recorder {
    /// `sequence` is the number of the checkpoint that training goes on from, or 0.
    pub(super) fn new(
        context: &WorkerContext,
        run: &Run,
        synthetic: bool,
        sequence: u32,
        shutdown: CancellationToken,
    ) -> Self {
        let losses = Losses::new(context, run.id);
        let keeper = Keeper { context: context.clone(), run: run.clone(), synthetic };
        Self { keeper, shutdown, stopped: None, written: None, sequence, under_way: None, losses }
    }

    /// Writes what is left to write, however the training ended.
    ///
    /// # Errors
    /// When the last checkpoint cannot be kept.
    pub(super) fn close(&mut self) -> Result<(), ObserverError> {
        let settled = self.settle();
        if let Err(error) = self.runtime().block_on(self.losses.write()) {
            tracing::error!(run = %self.run(), %error, "the last losses of a run cannot be recorded");
        }
        settled
    }

    /// Why it asked the training to stop, if it did.
    pub(super) fn into_stop_reason(self) -> Option<StopReason> {
        self.stopped
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.runtime().block_on(call)
    }

    fn runtime(&self) -> Handle {
        self.keeper.context.runtime.clone()
    }

    fn db(&self) -> &Db {
        &self.keeper.context.db
    }

    fn run(&self) -> RunId {
        self.keeper.run.id
    }

    fn warn(&self, message: String) {
        self.tell(&RunEvent::Warning { message });
    }

    /// Tells those who watch; what cannot be written does not end the run.
    fn tell(&self, event: &RunEvent) {
        if let Err(error) = self.wait(events::append(self.db(), self.run(), event)) {
            tracing::error!(run = %self.run(), %error, ?event, "an event of a run cannot be recorded");
        }
    }

    fn reason_to_stop(&self) -> Option<StopReason> {
        let run = self.wait(runs::get(self.db(), self.run()));
        match run.map(|run| run.map(|run| run.status)) {
            Ok(Some(RunStatus::Running)) => self.shutdown.is_cancelled().then_some(StopReason::Shutdown),
            // Resumed before its trainer saw that it was paused: it goes on when its turn comes.
            Ok(Some(RunStatus::Paused | RunStatus::Queued)) => Some(StopReason::Paused),
            Ok(_) => Some(StopReason::Cancelled),
            Err(error) => Some(StopReason::Store(error)),
        }
    }

    /// Begins to keep a checkpoint, once the one before is kept; training goes on meanwhile.
    fn keep(&mut self, milestone: Milestone, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.settle()?;
        let steps = self.runtime().block_on(self.losses.steps()).map_err(|error| ObserverError(error.to_string()))?;
        self.sequence += 1;
        let keepsake = Keepsake { milestone, checkpoint, sequence: self.sequence, steps };
        // The losses first: those after a checkpoint are known by their number.
        match self.runtime().block_on(self.losses.write()) {
            Ok(()) => self.under_way = Some(self.keeper.begin(keepsake)),
            Err(error) => self.insist(&keepsake, error)?,
        }
        Ok(())
    }

    /// Waits for the checkpoint that is being written, if there is one; where it could not be, training waits until it can.
    fn settle(&mut self) -> Result<(), ObserverError> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        match under_way.wait(&self.runtime()) {
            Ok(()) => Ok(()),
            Err(failed) => {
                let (keepsake, error) = *failed;
                self.insist(&keepsake, error)
            }
        }
    }

    /// Tries to keep what could not be kept. A full disk is waited for.
    fn insist(&mut self, keepsake: &Keepsake, mut error: StoreError) -> Result<(), ObserverError> {
        let (started, mut waits) = (Instant::now(), false);
        while error.is_of_the_disk() {
            if started.elapsed() >= DISK_PATIENCE {
                return Err(ObserverError(format!("{error}: make room on the disk and resume the run")));
            }
            if !std::mem::replace(&mut waits, true) {
                tracing::warn!(run = %self.run(), %error, "a checkpoint cannot be written: training waits");
                self.warn(format!("a checkpoint cannot be written, training waits until it can: {error}"));
            }
            if self.should_stop().is_some() {
                return Err(ObserverError(format!("a checkpoint could not be written before the end: {error}")));
            }
            thread::sleep(DISK_POLL);
            error = match self.runtime().block_on(self.losses.write()).and_then(|()| self.keeper.write(keepsake)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
        }
        Err(ObserverError(error.to_string()))
    }

    fn is_due(&self, progress: &RunProgress) -> bool {
        let place = |progress: &RunProgress| (progress.stage, progress.step, progress.epoch);
        match &self.written {
            Some((last, at)) => {
                place(last) != place(progress) || at.elapsed() >= PROGRESS_INTERVAL || progress.fraction >= 1.0
            }
            None => true,
        }
    }
}

impl Observer for Recorder {
    /// What cannot be written now is written half a second later: progress is worth no run. A checkpoint that cannot be is another thing.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError> {
        if self.under_way.as_ref().is_some_and(UnderWay::is_done) {
            self.settle()?;
        }
        self.keeper.context.metrics.progress(progress.fraction, progress.images_per_second, progress.eta_seconds);
        if self.is_due(progress) {
            if let Err(error) = self.wait(runs::set_progress(self.db(), self.run(), progress)) {
                tracing::warn!(run = %self.run(), %error, "progress cannot be written");
            }
            self.written = Some((progress.clone(), Instant::now()));
        }
        Ok(())
    }

    /// A curve is worth no run: what cannot be written now is written with later losses.
    fn batch(&mut self, batch: &TrainedBatch) -> Result<(), ObserverError> {
        self.keeper.context.metrics.batch(batch.loss);
        if let Err(error) = self.runtime().block_on(self.losses.add(batch)) {
            tracing::warn!(run = %self.run(), %error, "losses cannot be written");
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.keep(Milestone::Epoch(epoch.clone()), checkpoint)
    }

    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.keep(Milestone::Stage(model), checkpoint)
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.keep(Milestone::None, checkpoint)
    }

    fn image_cache(&mut self, cache: &ImageCache) {
        let ImageCache { side, images, bytes, origin, time } = cache;
        let (run, seconds) = (self.run(), time.as_secs_f64());
        match origin {
            CacheOrigin::Reused => tracing::info!(%run, side, images, bytes, seconds, "image cache checked"),
            CacheOrigin::Made { damage: None } => {
                tracing::info!(%run, side, images, bytes, seconds, "image cache made")
            }
            CacheOrigin::Made { damage: Some(damage) } => {
                tracing::warn!(%run, side, images, bytes, seconds, damage, "image cache was damaged and is made anew");
                self.warn(format!("the image cache of {side} px was damaged and was made anew: {damage}"));
            }
        }
    }

    fn body_pass(&mut self, images: usize, time: Duration) {
        tracing::info!(run = %self.run(), images, seconds = time.as_secs_f64(), "features of the frozen body computed");
    }

    fn rate_choice(&mut self, choice: &RangeTestResult) {
        let (run, RangeTestResult { stage, step, chosen, planned, .. }) = (self.run(), choice);
        match chosen {
            Some(rate) => tracing::info!(%run, stage, step, rate, "learning rate chosen by its range test"),
            None => {
                tracing::warn!(%run, stage, step, rate = planned, "the loss never falls in the range test: the plan's rate")
            }
        }
        self.tell(&RunEvent::RangeTest(choice.clone()));
    }

    /// Reads the run's state each time: a run that is cancelled or paused ends within one batch.
    fn should_stop(&mut self) -> Option<Stop> {
        if self.stopped.is_none() {
            self.stopped = self.reason_to_stop();
        }
        self.stopped.as_ref().map(StopReason::stop)
    }
}
