//! The observer of a run: writes what happens to the store and brings back whether to stop.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{WorkerContext, losses::Losses};
use crate::{
    domain::{
        EpochRecord, EvaluationId, ModelId, Outcome, RateChoice, RunEvent, RunProgress, RunStatus, Sha256, TrainedBatch,
    },
    store::{Evaluated, Evaluation, Model, Run, StoreError, StoredCheckpoint, events, runs},
    training::{
        CacheOrigin, Checkpoint, ImageCache, Observer, ObserverError, SampleOutcome, SplitEvaluation, StageModel, Stop,
    },
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
    context: WorkerContext,
    run: Run,
    synthetic: bool,
    shutdown: CancellationToken,
    stopped: Option<StopReason>,
    written: Option<(RunProgress, Instant)>,
    /// The last checkpoint's number.
    sequence: u32,
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
        let (context, run) = (context.clone(), run.clone());
        let losses = Losses::new(&context, run.id);
        Self { context, run, synthetic, shutdown, stopped: None, written: None, sequence, losses }
    }

    /// Writes what is left to write, however the training ended.
    pub(super) fn close(&mut self) {
        if let Err(error) = self.context.runtime.block_on(self.losses.write()) {
            tracing::error!(run = %self.run.id, %error, "the last losses of a run cannot be recorded");
        }
    }

    /// Why it asked the training to stop, if it did.
    pub(super) fn into_stop_reason(self) -> Option<StopReason> {
        self.stopped
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.context.runtime.block_on(call)
    }

    fn warn(&self, message: String) {
        self.tell(&RunEvent::Warning { message });
    }

    /// Tells those who watch; what cannot be written does not end the run.
    fn tell(&self, event: &RunEvent) {
        if let Err(error) = self.wait(events::append(&self.context.db, self.run.id, event)) {
            tracing::error!(run = %self.run.id, %error, ?event, "an event of a run cannot be recorded");
        }
    }

    fn reason_to_stop(&self) -> Option<StopReason> {
        let run = self.context.runtime.block_on(runs::get(&self.context.db, self.run.id));
        match run.map(|run| run.map(|run| run.status)) {
            Ok(Some(RunStatus::Running)) => self.shutdown.is_cancelled().then_some(StopReason::Shutdown),
            // Resumed before its trainer saw that it was paused: it goes on when its turn comes.
            Ok(Some(RunStatus::Paused | RunStatus::Queued)) => Some(StopReason::Paused),
            Ok(_) => Some(StopReason::Cancelled),
            Err(error) => Some(StopReason::Store(error)),
        }
    }

    /// Writes the file of a checkpoint and then its row, with what it follows. A full disk is waited for.
    fn keep(&mut self, milestone: &Milestone<'_>, checkpoint: &Checkpoint) -> Result<(), ObserverError> {
        let (started, mut waits) = (Instant::now(), false);
        loop {
            match self.try_to_keep(milestone, checkpoint) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_of_the_disk() && started.elapsed() < DISK_PATIENCE => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(run = %self.run.id, %error, "a checkpoint cannot be written: training waits");
                        self.warn(format!("a checkpoint cannot be written, training waits until it can: {error}"));
                    }
                    if self.should_stop().is_some() {
                        return Err(ObserverError(format!(
                            "a checkpoint could not be written before the end: {error}"
                        )));
                    }
                    thread::sleep(DISK_POLL);
                }
                Err(error) if error.is_of_the_disk() => {
                    let problem = format!("{error}: make room on the disk and resume the run");
                    return Err(ObserverError(problem));
                }
                Err(error) => return Err(ObserverError(error.to_string())),
            }
        }
    }

    fn try_to_keep(&mut self, milestone: &Milestone<'_>, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let WorkerContext { db, blobs, checkpoints, .. } = self.context.clone();
        let (id, sequence) = (self.run.id, self.sequence + 1);
        let file = checkpoints.write(id, sequence, &|path| checkpoint.write(path))?;
        let (position, epochs) = (checkpoint.position(), checkpoint.epochs());
        let steps = self.context.runtime.block_on(self.losses.write())?;
        let stored = StoredCheckpoint { sequence, file, position, epochs, steps, created_at: Timestamp::now() };
        let obsolete = match milestone {
            Milestone::None => self.wait(runs::add_checkpoint(&db, id, runs::Milestone::default(), &stored))?,
            Milestone::Epoch(epoch) => {
                let milestone = runs::Milestone { epoch: Some(epoch), ..Default::default() };
                self.wait(runs::add_checkpoint(&db, id, milestone, &stored))?
            }
            Milestone::Stage(stage) => {
                // The blob first and then the rows: a row never points at a missing blob.
                let sha256 = self.wait(blobs.put(stage.bytes.to_vec()))?;
                let model = self.model(stage, ModelId::new(), sha256);
                let evaluated = self.evaluated(stage, model.id)?;
                let milestone = runs::Milestone { stage: Some((&model, &evaluated)), ..Default::default() };
                self.wait(runs::add_checkpoint(&db, id, milestone, &stored))?
            }
        };
        self.sequence = sequence;
        if let Err(error) = self.wait(checkpoints.remove(id, &obsolete)) {
            tracing::warn!(run = %id, %error, "an old checkpoint stays until the next start");
        }
        Ok(())
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

    fn model(&self, model: &StageModel, id: ModelId, sha256: Sha256) -> Model {
        Model {
            id,
            run_id: Some(self.run.id),
            stage: Some(model.stage),
            name: format!("model{}", model.stage),
            sha256,
            byte_length: model.bytes.len() as u64,
            spec: model.spec.clone(),
            synthetic: self.synthetic,
            aliases: Vec::new(),
            created_at: Timestamp::now(),
        }
    }

    fn evaluated(&self, stage: &StageModel, id: ModelId) -> Result<Vec<Evaluated>, StoreError> {
        let evaluated = |of: &SplitEvaluation| {
            let outcomes = of.outcomes.iter().map(outcome).collect::<Result<_, _>>()?;
            Ok(Evaluated { evaluation: self.evaluation(of, stage, id), outcomes })
        };
        stage.evaluations.iter().map(evaluated).collect()
    }

    fn evaluation(&self, of: &SplitEvaluation, model: &StageModel, model_id: ModelId) -> Evaluation {
        Evaluation {
            id: EvaluationId::new(),
            model_id,
            run_id: Some(self.run.id),
            stage: Some(model.stage),
            dataset_id: self.run.dataset_id,
            dataset_fingerprint: self.run.dataset_fingerprint.clone(),
            split: of.split,
            selection_split: Some(self.run.plan.selection.split),
            classes: model.spec.classes.clone(),
            confusion_matrix: of.confusion.clone(),
            loss: of.loss,
            seconds: of.seconds,
            created_at: Timestamp::now(),
        }
    }
}

/// The keys of a run's samples are the hashes of their images.
fn outcome(of: &SampleOutcome) -> Result<Outcome, StoreError> {
    let SampleOutcome { key, truth, predicted, probabilities } = of.clone();
    let sha256 = Sha256::try_from(key).map_err(|error| StoreError::Row(format!("outcomes.sha256: {error}")))?;
    Ok(Outcome { sha256, truth, predicted, probabilities })
}

/// What a checkpoint follows.
enum Milestone<'a> {
    /// Nothing: it is within an epoch.
    None,
    Epoch(&'a EpochRecord),
    Stage(&'a StageModel),
}

impl Observer for Recorder {
    /// What cannot be written now is written half a second later: progress is worth no run.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError> {
        self.context.metrics.progress(progress.fraction, progress.images_per_second, progress.eta_seconds);
        if self.is_due(progress) {
            if let Err(error) = self.wait(runs::set_progress(&self.context.db, self.run.id, progress)) {
                tracing::warn!(run = %self.run.id, %error, "progress cannot be written");
            }
            self.written = Some((progress.clone(), Instant::now()));
        }
        Ok(())
    }

    /// A curve is worth no run: what cannot be written now is written with later losses.
    fn batch(&mut self, batch: &TrainedBatch) -> Result<(), ObserverError> {
        self.context.metrics.batch(batch.loss);
        if let Err(error) = self.context.runtime.block_on(self.losses.add(batch)) {
            tracing::warn!(run = %self.run.id, %error, "losses cannot be written");
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: &Checkpoint) -> Result<(), ObserverError> {
        self.keep(&Milestone::Epoch(epoch), checkpoint)
    }

    fn stage(&mut self, model: StageModel, checkpoint: &Checkpoint) -> Result<(), ObserverError> {
        self.keep(&Milestone::Stage(&model), checkpoint)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), ObserverError> {
        self.keep(&Milestone::None, checkpoint)
    }

    fn image_cache(&mut self, cache: &ImageCache) {
        let ImageCache { side, images, bytes, origin, time } = cache;
        let (run, seconds) = (&self.run.id, time.as_secs_f64());
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
        tracing::info!(run = %self.run.id, images, seconds = time.as_secs_f64(), "features of the frozen body computed");
    }

    fn rate_choice(&mut self, choice: &RateChoice) {
        let (run, RateChoice { stage, step, chosen, planned, .. }) = (&self.run.id, choice);
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

    fn yield_device(&mut self) {
        (self.context.wait_until_idle)();
    }
}
