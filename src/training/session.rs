//! State shared by all parts of a run: the job, the observer and the progress.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use parking_lot::Mutex;

use super::{
    Checkpoint, Observer, StageModel, Stop, TrainingError, TrainingJob, WaitUntilIdle,
    position::EpochIndex,
    progress_meter::{MeterReading, ProgressMeter},
};
use crate::{
    domain::{EpochRecord, RunProgress, Split, TrainedBatch},
    nn::{self, Pauses},
};

/// The run of one call of [`super::train`].
pub(super) struct Session<'a> {
    pub(super) job: &'a TrainingJob,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) meter: ProgressMeter,
    progress: RunProgress,
    /// Images of the current pass so far, and its start.
    images: usize,
    since: Instant,
    /// Number of finished epochs of the run.
    epochs: u32,
    last_checkpoint: Instant,
    stop: Option<Stop>,
    /// Time spent waiting for predictions: in all, and until the current pass began.
    yielded: YieldTimer,
    yielded_before: Duration,
}

impl<'a> Session<'a> {
    pub(super) fn new(job: &'a TrainingJob, observer: &'a mut dyn Observer) -> Self {
        let (epochs, reading) =
            job.checkpoint.as_ref().map_or_else(Default::default, |from| (from.epochs(), from.meter().clone()));
        let (meter, progress, now) = (ProgressMeter::new(job, reading), RunProgress::default(), Instant::now());
        Self {
            job,
            observer,
            meter,
            progress,
            images: 0,
            since: now,
            epochs,
            last_checkpoint: now,
            stop: None,
            yielded: YieldTimer::default(),
            yielded_before: Duration::ZERO,
        }
    }

    /// Indices of the samples of a split, in the job's order.
    pub(super) fn split_indices(&self, split: Split) -> Vec<usize> {
        let samples = self.job.samples.iter().enumerate();
        samples.filter(|(_, sample)| sample.split == split).map(|(index, _)| index).collect()
    }

    /// Labels of the samples at `indices`.
    pub(super) fn labels(&self, indices: &[usize]) -> Vec<usize> {
        indices.iter().map(|&index| self.job.samples[index].class).collect()
    }

    /// Ends the run with [`TrainingError::Stopped`] if the observer requests it.
    pub(super) fn check_stop(&mut self) -> Result<(), TrainingError> {
        self.stop = self.observer.should_stop();
        if self.stop.is_some() { Err(TrainingError::Stopped) } else { Ok(()) }
    }

    /// True if the run was stopped with [`Stop::Suspend`].
    pub(super) fn is_suspended(&self) -> bool {
        self.stop == Some(Stop::Suspend)
    }

    /// Fraction of the current pass, which began at `started`, that was spent waiting for predictions.
    pub(super) fn serving_wait_share(&self, started: Instant) -> f64 {
        let yielded = self.yielded.total().saturating_sub(self.yielded_before);
        yielded.as_secs_f64() / started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Called before each batch of any pass: stops the run if requested, and waits for predictions.
    pub(super) fn before_batch(&mut self) -> Result<(), TrainingError> {
        self.check_stop()?;
        self.yielded.measure(&self.job.wait_until_idle);
        Ok(())
    }

    /// Pauses for passes of one kind (training or inference) over one network at one image size. `None` on the CPU, where kernels yield by
    /// themselves.
    pub(super) fn pauses(&self) -> Option<Pauses> {
        let TrainingJob { device, max_yield, wait_until_idle, .. } = self.job;
        let (yielded, wait_until_idle) = (self.yielded.clone(), Arc::clone(wait_until_idle));
        let on_gpu = *device != Device::flex();
        on_gpu.then(|| Pauses::new(device, *max_yield, Arc::new(move || yielded.measure(&wait_until_idle))))
    }

    /// Starts a pass of `batches` batches, or resumes it after `done` of them. Step 0 and epoch 0 stand for what comes before the first one.
    pub(super) fn begin_pass(
        &mut self,
        EpochIndex { stage, step, epoch }: EpochIndex,
        batches: usize,
        done: usize,
    ) -> Result<(), TrainingError> {
        (self.images, self.since, self.yielded_before) = (0, Instant::now(), self.yielded.total());
        let (batch, batches) = (done as u32, batches as u32);
        self.progress = RunProgress { stage, step, epoch, batch, batches, ..RunProgress::default() };
        self.report_progress()
    }

    /// Records a batch of `images` without training.
    pub(super) fn batch_done(&mut self, images: usize) -> Result<(), TrainingError> {
        self.count(images);
        self.report_progress()
    }

    /// Records a training batch of `images` with mean loss `loss` before the update.
    pub(super) fn batch_trained(&mut self, images: usize, loss: f64, learning_rate: f64) -> Result<(), TrainingError> {
        self.count(images);
        let RunProgress { stage, step, epoch, batch, images_per_second, .. } = self.progress;
        self.observer.batch(&TrainedBatch { stage, step, epoch, batch, loss, learning_rate, images_per_second })?;
        self.report_progress()
    }

    fn count(&mut self, images: usize) {
        self.images += images;
        self.progress.batch += 1;
        self.progress.images_per_second = rate(self.images, self.since.elapsed().as_secs_f64());
    }

    /// Records a finished epoch and sets its sequence number within the run.
    pub(super) fn number_epoch(&mut self, record: &mut EpochRecord) {
        self.epochs += 1;
        record.sequence = self.epochs;
        self.meter.epoch_done();
    }

    /// Number of finished epochs and reading of the meter, for a checkpoint.
    pub(super) fn progress_state(&self) -> (u32, MeterReading) {
        (self.epochs, self.meter.reading())
    }

    /// Reports a finished epoch to the observer.
    pub(super) fn report_epoch(&mut self, record: &EpochRecord, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.epoch(record, checkpoint)?;
        self.last_checkpoint = Instant::now();
        Ok(())
    }

    /// Reports a finished stage to the observer.
    pub(super) fn report_stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.stage(model, checkpoint)?;
        self.last_checkpoint = Instant::now();
        Ok(())
    }

    /// Reports a checkpoint within an epoch to the observer.
    pub(super) fn report_checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), TrainingError> {
        self.observer.checkpoint(checkpoint)?;
        self.last_checkpoint = Instant::now();
        Ok(())
    }

    /// True if the checkpoint interval of the plan has passed since the last checkpoint.
    pub(super) fn is_checkpoint_due(&self) -> bool {
        self.last_checkpoint.elapsed().as_secs_f64() >= 60.0 * self.job.plan.checkpoint_minutes
    }

    fn report_progress(&mut self) -> Result<(), TrainingError> {
        let RunProgress { epoch, batch, batches, .. } = self.progress;
        let current = if epoch == 0 { 0.0 } else { f64::from(batch) / f64::from(batches.max(1)) };
        self.progress.fraction = self.meter.fraction(current);
        self.progress.eta_seconds = self.meter.eta_seconds();
        Ok(self.observer.progress(&self.progress)?)
    }

    /// Reports the end of the run.
    pub(super) fn finish(&mut self) -> Result<(), TrainingError> {
        self.progress.fraction = self.meter.fraction(0.0);
        self.progress.eta_seconds = Some(0.0);
        Ok(self.observer.progress(&self.progress)?)
    }
}

/// Measures the time spent waiting for predictions. Clones share the total.
#[derive(Clone, Debug, Default)]
struct YieldTimer(Arc<Mutex<Duration>>);

impl YieldTimer {
    fn measure(&self, wait_until_idle: &WaitUntilIdle) {
        let started = Instant::now();
        wait_until_idle();
        *self.0.lock() += started.elapsed();
    }

    /// Total time: between batches, between parts of a batch, and within the kernels of the CPU.
    fn total(&self) -> Duration {
        *self.0.lock() + nn::preempted_time()
    }
}

/// Images per second; 0 before any time has passed.
pub(super) fn rate(images: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { images as f64 / seconds } else { 0.0 }
}
