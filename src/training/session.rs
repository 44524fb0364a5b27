//! What the parts of a run share: the job, the observer and how far it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use parking_lot::Mutex;

use super::{
    Checkpoint, GiveWay, Observer, StageModel, Stop, TrainingError, TrainingJob,
    batches::Place,
    meter::{self, Meter},
};
use crate::{
    domain::{EpochRecord, RunProgress, Split, TrainedBatch},
    nn::{self, Pauses},
};

/// One call of [`super::train`].
pub(super) struct Session<'a> {
    pub(super) job: &'a TrainingJob,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) meter: Meter,
    progress: RunProgress,
    /// Images and time of the current epoch or pass.
    images: usize,
    since: Instant,
    epochs: u32,
    /// When there was a checkpoint last.
    kept: Instant,
    stop: Option<Stop>,
    /// How long predictions went first, in all and when the current epoch or pass began.
    waited: Waited,
    waited_before: Duration,
}

impl<'a> Session<'a> {
    pub(super) fn new(job: &'a TrainingJob, observer: &'a mut dyn Observer) -> Self {
        let (epochs, reading) =
            job.checkpoint.as_ref().map_or_else(Default::default, |from| (from.epochs(), from.meter().clone()));
        let (meter, progress, now) = (Meter::new(job, reading), RunProgress::default(), Instant::now());
        Self {
            job,
            observer,
            meter,
            progress,
            images: 0,
            since: now,
            epochs,
            kept: now,
            stop: None,
            waited: Waited::default(),
            waited_before: Duration::ZERO,
        }
    }

    /// Indices of the samples of a split, in the job's order.
    pub(super) fn split(&self, split: Split) -> Vec<usize> {
        let samples = self.job.samples.iter().enumerate();
        samples.filter(|(_, sample)| sample.split == split).map(|(index, _)| index).collect()
    }

    /// The classes of the samples at `indices`.
    pub(super) fn truth(&self, indices: &[usize]) -> Vec<usize> {
        indices.iter().map(|&index| self.job.samples[index].class).collect()
    }

    pub(super) fn stop_if_asked(&mut self) -> Result<(), TrainingError> {
        self.stop = self.observer.should_stop();
        if self.stop.is_some() { Err(TrainingError::Stopped) } else { Ok(()) }
    }

    /// Whether the run was stopped to go on later.
    pub(super) fn is_interrupted(&self) -> bool {
        self.stop == Some(Stop::ToGoOn)
    }

    /// Share of the time since then in which predictions went first, of the current epoch or pass.
    pub(super) fn serving_wait_share(&self, started: Instant) -> f64 {
        let waited = self.waited.total().saturating_sub(self.waited_before);
        waited.as_secs_f64() / started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Comes before each batch of any kind: stops if asked to and lets predictions go first.
    pub(super) fn before_batch(&mut self) -> Result<(), TrainingError> {
        self.stop_if_asked()?;
        self.waited.during(&self.job.give_way);
        Ok(())
    }

    /// For the passes of one kind, training or not, over one network at one image size: those on a GPU may pause.
    pub(super) fn pauses(&self) -> Option<Pauses> {
        let TrainingJob { device, max_yield, give_way, .. } = self.job;
        let (waited, give_way) = (self.waited.clone(), Arc::clone(give_way));
        let on_gpu = *device != Device::flex();
        on_gpu.then(|| Pauses::new(device, *max_yield, Arc::new(move || waited.during(&give_way))))
    }

    /// An epoch or pass of `batches` batches begins, or goes on after `done` of them; step 0 and epoch 0 come before the first.
    pub(super) fn begin(
        &mut self,
        Place { stage, step, epoch }: Place,
        batches: usize,
        done: usize,
    ) -> Result<(), TrainingError> {
        (self.images, self.since, self.waited_before) = (0, Instant::now(), self.waited.total());
        let (batch, batches) = (done as u32, batches as u32);
        self.progress = RunProgress { stage, step, epoch, batch, batches, ..RunProgress::default() };
        self.report()
    }

    /// A batch of `images` is done.
    pub(super) fn batch_done(&mut self, images: usize) -> Result<(), TrainingError> {
        self.count(images);
        self.report()
    }

    /// The network was trained on a batch of `images`, whose mean loss was `loss` before the update.
    pub(super) fn batch_trained(&mut self, images: usize, loss: f64, learning_rate: f64) -> Result<(), TrainingError> {
        self.count(images);
        let RunProgress { stage, step, epoch, batch, images_per_second, .. } = self.progress;
        self.observer.batch(&TrainedBatch { stage, step, epoch, batch, loss, learning_rate, images_per_second })?;
        self.report()
    }

    fn count(&mut self, images: usize) {
        self.images += images;
        self.progress.batch += 1;
        self.progress.images_per_second = rate(self.images, self.since.elapsed().as_secs_f64());
    }

    /// An epoch is done. Numbers it within the run.
    pub(super) fn number_epoch(&mut self, record: &mut EpochRecord) {
        self.epochs += 1;
        record.sequence = self.epochs;
        self.meter.epoch_done();
    }

    /// Epochs done, and what the meter shows: what a checkpoint keeps of the session.
    pub(super) fn standing(&self) -> (u32, meter::Reading) {
        (self.epochs, self.meter.reading())
    }

    /// Tells the observer of the end of an epoch.
    pub(super) fn keep_epoch(&mut self, record: &EpochRecord, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.epoch(record, checkpoint)?;
        self.kept = Instant::now();
        Ok(())
    }

    /// Tells the observer of the end of a stage.
    pub(super) fn keep_stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.stage(model, checkpoint)?;
        self.kept = Instant::now();
        Ok(())
    }

    /// Gives the observer a checkpoint from within an epoch.
    pub(super) fn keep(&mut self, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.checkpoint(checkpoint)?;
        self.kept = Instant::now();
        Ok(())
    }

    /// Whether an epoch goes on for so long that it needs a checkpoint within it.
    pub(super) fn is_checkpoint_due(&self) -> bool {
        self.kept.elapsed().as_secs_f64() >= 60.0 * self.job.plan.checkpoint_minutes
    }

    fn report(&mut self) -> Result<(), TrainingError> {
        let RunProgress { epoch, batch, batches, .. } = self.progress;
        let current = if epoch == 0 { 0.0 } else { f64::from(batch) / f64::from(batches.max(1)) };
        self.progress.fraction = self.meter.fraction(current);
        self.progress.eta_seconds = self.meter.eta_seconds();
        Ok(self.observer.progress(&self.progress)?)
    }

    /// The last report of a run: everything is done.
    pub(super) fn finish(&mut self) -> Result<(), TrainingError> {
        self.progress.fraction = self.meter.fraction(0.0);
        self.progress.eta_seconds = Some(0.0);
        Ok(self.observer.progress(&self.progress)?)
    }
}

/// Counts how long predictions went first. Clones count together.
#[derive(Clone, Debug, Default)]
struct Waited(Arc<Mutex<Duration>>);

impl Waited {
    fn during(&self, give_way: &GiveWay) {
        let asked = Instant::now();
        give_way();
        *self.0.lock() += asked.elapsed();
    }

    /// Between batches and parts of them, and within the operations of the CPU.
    fn total(&self) -> Duration {
        *self.0.lock() + nn::preempted_time()
    }
}

/// Images per second; 0 before any time has passed.
pub(super) fn rate(images: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { images as f64 / seconds } else { 0.0 }
}
