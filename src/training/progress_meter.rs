//! Progress and remaining time of a run, from measured work.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::TrainingJob;
use crate::domain::{BodyMode, ImageCounts, Split, pixels};

/// Measures work in forward passes over one pixel, so that stages with different image sizes are comparable. Epochs on precomputed features
/// count as no work: compared with the pass of the body they take negligible time.
pub(super) struct ProgressMeter {
    started: Instant,
    images: ImageCounts,
    total: f64,
    epochs: u32,
    reading: MeterReading,
}

/// State of the meter, for checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MeterReading {
    /// Work done.
    done: f64,
    /// Work of epochs that are left out because of early stopping.
    skipped: f64,
    epochs_done: u32,
    /// Wall time of earlier parts of the run.
    seconds: f64,
}

impl ProgressMeter {
    /// Continues from an earlier reading.
    pub(super) fn new(job: &TrainingJob, reading: MeterReading) -> Self {
        let count = |split| job.samples.iter().filter(|sample| sample.split == split).count() as f64;
        let images = ImageCounts {
            train: count(Split::Train),
            selection: count(job.plan.selection.split),
            all: job.samples.len() as f64,
        };
        let (total, epochs) = (job.plan.cost(images), job.plan.total_epochs());
        Self { started: Instant::now(), images, total, epochs, reading }
    }

    pub(super) fn reading(&self) -> MeterReading {
        MeterReading { seconds: self.seconds(), ..self.reading }
    }

    fn seconds(&self) -> f64 {
        self.reading.seconds + self.started.elapsed().as_secs_f64()
    }

    /// Records a forward pass over `images` at `side` pixels.
    pub(super) fn forward(&mut self, images: usize, side: u32) {
        self.reading.done += images as f64 * pixels(side);
    }

    /// Records training on `images` at `side` pixels.
    pub(super) fn trained(&mut self, body: BodyMode, images: usize, side: u32) {
        self.reading.done += body.passes_per_training_image() * images as f64 * pixels(side);
    }

    /// Records an evaluation of the selection split with `images` at `side` pixels.
    pub(super) fn scored(&mut self, body: BodyMode, images: usize, side: u32) {
        self.reading.done += body.passes_per_selection_image() * images as f64 * pixels(side);
    }

    pub(super) fn epoch_done(&mut self) {
        self.reading.epochs_done += 1;
    }

    /// Leaves out `epochs` epochs of a step that stops early: the epochs count as done, and their work is subtracted from the total.
    pub(super) fn skip(&mut self, body: BodyMode, epochs: u32, side: u32) {
        self.reading.epochs_done += epochs;
        self.reading.skipped += f64::from(epochs) * body.passes_per_epoch(self.images) * pixels(side);
    }

    /// Fraction of the epochs of the run that is done; `current` is the fraction of the running epoch.
    pub(super) fn fraction(&self, current: f64) -> f64 {
        (f64::from(self.reading.epochs_done) + current) / f64::from(self.epochs.max(1))
    }

    /// Estimated seconds to the end of the run, at the average speed so far.
    pub(super) fn eta_seconds(&self) -> Option<f64> {
        let MeterReading { done, skipped, .. } = self.reading;
        (done > 0.0).then(|| self.seconds() / done * (self.total - skipped - done).max(0.0))
    }
}
