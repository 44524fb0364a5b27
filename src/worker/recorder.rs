//! Observer of a run: records its progress, losses, epochs and checkpoints, and stops it on request.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    WorkerContext,
    checkpoint_writer::{CheckpointTrigger, CheckpointWriter, PendingCheckpoint, WriteHandle},
    losses::Losses,
    stop_monitor::{StopMonitor, StopReason},
};
use crate::{
    domain::{EpochRecord, RangeTestResult, RunEvent, RunId, RunProgress, TrainedBatch},
    metrics::Training,
    store::{Db, Run, StoreError, Stores, events, runs},
    training::{CacheOrigin, Checkpoint, ImageCache, Observer, ObserverError, StageModel, Stop},
};

/// Minimum time between two writes of progress within an epoch. A change of stage, step or epoch is written at once.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time for which training waits for a full or failing disk. Then the run fails, to be resumed by hand.
const DISK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Time between two attempts to write to the disk meanwhile.
const DISK_RETRY: Duration = Duration::from_secs(2);

/// The observer of a run. Used on the training thread, so that its methods may block.
pub(super) struct Recorder {
    writer: CheckpointWriter,
    stop: StopMonitor,
    losses: Losses,
    metrics: Training,
    /// Progress that was written last.
    written: Option<(RunProgress, Instant)>,
    /// Number of the last checkpoint.
    sequence: u32,
    /// The checkpoint that is being written.
    writing: Option<WriteHandle>,
}

impl Recorder {
    /// `sequence` is the number of the checkpoint from which training resumes, or 0.
    pub(super) fn new(
        context: &WorkerContext,
        run: &Run,
        synthetic: bool,
        sequence: u32,
        shutdown: CancellationToken,
    ) -> Self {
        let WorkerContext { stores, runtime, batches, metrics, .. } = context.clone();
        let Stores { db, blobs, checkpoints, .. } = stores;
        let writer =
            CheckpointWriter { db: db.clone(), blobs, files: checkpoints, runtime, run: run.clone(), synthetic };
        let (stop, losses) = (StopMonitor::new(db.clone(), run.id, shutdown), Losses::new(db, run.id, batches));
        Self { writer, stop, losses, metrics, written: None, sequence, writing: None }
    }

    /// Writes what is left to write, however training ended.
    ///
    /// # Errors
    /// When the last checkpoint cannot be written.
    pub(super) fn close(&mut self) -> Result<(), ObserverError> {
        let finished = self.finish_writing();
        if let Err(error) = self.runtime().block_on(self.losses.write()) {
            tracing::error!(run = %self.run(), %error, "the last losses of a run cannot be recorded");
        }
        finished
    }

    /// The reason for which the run was stopped early, if it was.
    pub(super) fn into_stop_reason(self) -> Option<StopReason> {
        self.stop.into_reason()
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.runtime().block_on(call)
    }

    fn runtime(&self) -> Handle {
        self.writer.runtime.clone()
    }

    fn db(&self) -> &Db {
        &self.writer.db
    }

    fn run(&self) -> RunId {
        self.writer.run.id
    }

    fn warn(&self, message: String) {
        self.emit(&RunEvent::Warning { message });
    }

    /// Records an event. A failure does not end the run.
    fn emit(&self, event: &RunEvent) {
        if let Err(error) = self.wait(events::append(self.db(), self.run(), event)) {
            tracing::error!(run = %self.run(), %error, ?event, "an event of a run cannot be recorded");
        }
    }

    /// Starts writing a checkpoint, once the previous one is written. Training continues meanwhile.
    fn write(&mut self, trigger: CheckpointTrigger, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.finish_writing()?;
        let steps = self.runtime().block_on(self.losses.steps()).map_err(|error| ObserverError(error.to_string()))?;
        self.sequence += 1;
        let pending = PendingCheckpoint { trigger, checkpoint, sequence: self.sequence, steps };
        // The losses first: a rewind to this checkpoint keeps those up to `steps`.
        match self.runtime().block_on(self.losses.write()) {
            Ok(()) => self.writing = Some(self.writer.start(pending)),
            Err(error) => self.retry(&pending, error)?,
        }
        Ok(())
    }

    /// Waits for the checkpoint that is being written, if there is one, and retries a write that failed.
    fn finish_writing(&mut self) -> Result<(), ObserverError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        match writing.wait(&self.runtime()) {
            Ok(()) => Ok(()),
            Err(failed) => {
                let (pending, error) = *failed;
                self.retry(&pending, error)
            }
        }
    }

    /// Retries a write while the disk is full or fails. Training waits meanwhile.
    fn retry(&mut self, pending: &PendingCheckpoint, mut error: StoreError) -> Result<(), ObserverError> {
        let (started, mut warned) = (Instant::now(), false);
        while error.may_pass() {
            if started.elapsed() >= DISK_TIMEOUT {
                return Err(ObserverError(format!("{error}: free disk space and resume the run")));
            }
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(run = %self.run(), %error, "a checkpoint cannot be written: training waits");
                self.warn(format!("a checkpoint cannot be written, training waits until it can: {error}"));
            }
            if self.should_stop().is_some() {
                return Err(ObserverError(format!("a checkpoint could not be written before the run ended: {error}")));
            }
            thread::sleep(DISK_RETRY);
            error = match self.runtime().block_on(self.losses.write()).and_then(|()| self.writer.write(pending)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
        }
        Err(ObserverError(error.to_string()))
    }

    fn is_due(&self, progress: &RunProgress) -> bool {
        let position = |progress: &RunProgress| (progress.stage, progress.step, progress.epoch);
        match &self.written {
            Some((last, at)) => {
                position(last) != position(progress) || at.elapsed() >= PROGRESS_INTERVAL || progress.fraction >= 1.0
            }
            None => true,
        }
    }
}

impl Observer for Recorder {
    /// A failure to write progress does not end the run; the next write tries again.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError> {
        if self.writing.as_ref().is_some_and(WriteHandle::is_finished) {
            self.finish_writing()?;
        }
        self.metrics.progress(progress.fraction, progress.images_per_second, progress.eta_seconds);
        if self.is_due(progress) {
            if let Err(error) = self.wait(runs::set_progress(self.db(), self.run(), progress)) {
                tracing::warn!(run = %self.run(), %error, "progress cannot be written");
            }
            self.written = Some((progress.clone(), Instant::now()));
        }
        Ok(())
    }

    /// A failure to write losses does not end the run; the next write includes them.
    fn batch(&mut self, batch: &TrainedBatch) -> Result<(), ObserverError> {
        self.metrics.batch(batch.loss);
        if let Err(error) = self.runtime().block_on(self.losses.add(batch)) {
            tracing::warn!(run = %self.run(), %error, "losses cannot be written");
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.write(CheckpointTrigger::Epoch(epoch.clone()), checkpoint)
    }

    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.write(CheckpointTrigger::Stage(model), checkpoint)
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.write(CheckpointTrigger::Interval, checkpoint)
    }

    fn image_cache(&mut self, cache: &ImageCache) {
        let ImageCache { side, images, bytes, origin, time } = cache;
        let (run, seconds) = (self.run(), time.as_secs_f64());
        match origin {
            CacheOrigin::Reused => tracing::info!(%run, side, images, bytes, seconds, "image cache checked"),
            CacheOrigin::Created { damage: None } => {
                tracing::info!(%run, side, images, bytes, seconds, "image cache created")
            }
            CacheOrigin::Created { damage: Some(damage) } => {
                tracing::warn!(%run, side, images, bytes, seconds, damage, "image cache was damaged and is created again");
                self.warn(format!("the image cache of {side} px was damaged and was created again: {damage}"));
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
                tracing::warn!(%run, stage, step, rate = planned, "the loss never falls in the range test: using the learning rate of the plan")
            }
        }
        self.emit(&RunEvent::RangeTest(choice.clone()));
    }

    fn should_stop(&mut self) -> Option<Stop> {
        let runtime = self.runtime();
        runtime.block_on(self.stop.check()).map(StopReason::stop)
    }
}
