//! What the parts of a run share: the job, the observer and how far it is.

use std::time::Instant;

use super::{Observer, TrainingError, TrainingJob, batches::Place, meter::Meter};
use crate::domain::{EpochRecord, RunProgress, Split, TrainedBatch};

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
}

impl<'a> Session<'a> {
    pub(super) fn new(job: &'a TrainingJob, observer: &'a mut dyn Observer) -> Self {
        let progress = RunProgress::default();
        Self { job, observer, meter: Meter::new(job), progress, images: 0, since: Instant::now(), epochs: 0 }
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
        if self.observer.should_stop() { Err(TrainingError::Stopped) } else { Ok(()) }
    }

    /// Comes before each batch of any kind: stops if asked to and lets predictions go first.
    pub(super) fn before_batch(&mut self) -> Result<(), TrainingError> {
        self.stop_if_asked()?;
        self.observer.yield_device();
        Ok(())
    }

    /// An epoch or pass of `batches` batches begins; step 0 and epoch 0 come before the first.
    pub(super) fn begin(&mut self, Place { stage, step, epoch }: Place, batches: usize) -> Result<(), TrainingError> {
        (self.images, self.since) = (0, Instant::now());
        self.progress = RunProgress { stage, step, epoch, batches: batches as u32, ..RunProgress::default() };
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

    /// An epoch is done; numbers it within the run.
    pub(super) fn epoch_done(&mut self, mut record: EpochRecord) -> Result<(), TrainingError> {
        self.epochs += 1;
        record.sequence = self.epochs;
        self.meter.epoch_done();
        Ok(self.observer.epoch(&record)?)
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

/// Images per second; 0 before any time has passed.
pub(super) fn rate(images: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { images as f64 / seconds } else { 0.0 }
}
