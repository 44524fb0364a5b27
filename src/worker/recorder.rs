//! The observer of a run: writes what happens to the store and brings back whether to stop.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::WorkerContext;
use crate::{
    domain::{EpochRecord, EvaluationId, ModelId, RunProgress, RunStatus},
    store::{Evaluation, Model, Run, StoreError, models, runs},
    training::{CacheOrigin, ImageCache, Observer, ObserverError, RateChoice, SplitEvaluation, StageModel},
};

/// Progress is written at most this often, but for changes of stage, step and epoch.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Why the training was asked to stop.
#[derive(Debug)]
pub(super) enum StopReason {
    /// A user cancelled the run.
    Cancelled,
    /// The server ends.
    Shutdown,
    /// Whether the run is to stop cannot be read.
    Store(StoreError),
}

/// Lives on the training thread.
pub(super) struct Recorder {
    context: WorkerContext,
    run: Run,
    synthetic: bool,
    shutdown: CancellationToken,
    stopped: Option<StopReason>,
    written: Option<(RunProgress, Instant)>,
}

impl Recorder {
    pub(super) fn new(context: &WorkerContext, run: &Run, synthetic: bool, shutdown: CancellationToken) -> Self {
        let (context, run) = (context.clone(), run.clone());
        Self { context, run, synthetic, shutdown, stopped: None, written: None }
    }

    /// Why it asked the training to stop, if it did.
    pub(super) fn into_stop_reason(self) -> Option<StopReason> {
        self.stopped
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, ObserverError> {
        self.context.runtime.block_on(call).map_err(|error| ObserverError(error.to_string()))
    }

    fn reason_to_stop(&self) -> Option<StopReason> {
        let run = self.context.runtime.block_on(runs::get(&self.context.db, self.run.id));
        match run {
            Ok(Some(run)) if run.status == RunStatus::Cancelling => Some(StopReason::Cancelled),
            Err(error) => Some(StopReason::Store(error)),
            Ok(_) => self.shutdown.is_cancelled().then_some(StopReason::Shutdown),
        }
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

    fn model(&self, model: &StageModel, id: ModelId, sha256: crate::domain::Sha256) -> Model {
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

impl Observer for Recorder {
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError> {
        if self.is_due(progress) {
            self.wait(runs::set_progress(&self.context.db, self.run.id, progress))?;
            self.written = Some((progress.clone(), Instant::now()));
        }
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord) -> Result<(), ObserverError> {
        self.wait(runs::add_epoch(&self.context.db, self.run.id, epoch))
    }

    /// The blob first and then the rows: a row never points at a missing blob.
    fn stage(&mut self, model: StageModel) -> Result<(), ObserverError> {
        let sha256 = self.wait(self.context.blobs.put(model.bytes.clone()))?;
        let id = ModelId::new();
        let row = self.model(&model, id, sha256);
        let evaluations: Vec<_> = model.evaluations.iter().map(|of| self.evaluation(of, &model, id)).collect();
        self.wait(models::create(&self.context.db, &row, &evaluations))
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
            }
        }
    }

    fn body_pass(&mut self, images: usize, time: Duration) {
        tracing::info!(run = %self.run.id, images, seconds = time.as_secs_f64(), "features of the frozen body computed");
    }

    fn rate_choice(&mut self, choice: &RateChoice) {
        let RateChoice { stage, step, curve, found, planned } = choice;
        let (run, curve) = (&self.run.id, format!("{curve:?}"));
        match found {
            Some(rate) => tracing::info!(%run, stage, step, rate, curve, "learning rate chosen by its range test"),
            None => {
                tracing::warn!(%run, stage, step, rate = planned, curve, "the loss never falls in the range test: the plan's rate");
            }
        }
    }

    /// Reads the run's state each time: a cancelled run ends within one batch.
    fn should_stop(&mut self) -> bool {
        if self.stopped.is_none() {
            self.stopped = self.reason_to_stop();
        }
        self.stopped.is_some()
    }

    fn yield_device(&mut self) {
        (self.context.wait_until_idle)();
    }
}
