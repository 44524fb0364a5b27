//! How far a run is and how long it will take, from what was measured.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::TrainingJob;
use crate::domain::{BodyMode, ImageCounts, Split, pixels};

/// Counts work in forward passes over one pixel, so that stages of different sizes compare. Epochs on features that are kept count
/// nothing: beside the one pass of the body they take no time worth estimating.
pub(super) struct Meter {
    started: Instant,
    images: ImageCounts,
    total: f64,
    epochs: u32,
    reading: Reading,
}

/// What it shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    done: f64,
    /// Work of epochs that will never be, since their step ended early.
    skipped: f64,
    epochs_done: u32,
    /// Wall time up to [`Meter::started`].
    seconds: f64,
}

impl Meter {
    /// Goes on from what it showed last.
    pub(super) fn new(job: &TrainingJob, reading: Reading) -> Self {
        let count = |split| job.samples.iter().filter(|sample| sample.split == split).count() as f64;
        let images = ImageCounts {
            train: count(Split::Train),
            selection: count(job.plan.selection.split),
            all: job.samples.len() as f64,
        };
        let (total, epochs) = (job.plan.cost(images), job.plan.total_epochs());
        Self { started: Instant::now(), images, total, epochs, reading }
    }

    pub(super) fn reading(&self) -> Reading {
        Reading { seconds: self.seconds(), ..self.reading }
    }

    fn seconds(&self) -> f64 {
        self.reading.seconds + self.started.elapsed().as_secs_f64()
    }

    /// `images` went forward at `side` pixels.
    pub(super) fn forward(&mut self, images: usize, side: u32) {
        self.reading.done += images as f64 * pixels(side);
    }

    /// An epoch trained on `images` at `side` pixels.
    pub(super) fn trained(&mut self, body: BodyMode, images: usize, side: u32) {
        self.reading.done += body.passes_per_training_image() * images as f64 * pixels(side);
    }

    /// An epoch was scored on `images` at `side` pixels.
    pub(super) fn scored(&mut self, body: BodyMode, images: usize, side: u32) {
        self.reading.done += body.passes_per_selection_image() * images as f64 * pixels(side);
    }

    pub(super) fn epoch_done(&mut self) {
        self.reading.epochs_done += 1;
    }

    /// So many epochs of a step, which ends early, will not be: they count as done, and their work as never asked for.
    pub(super) fn skip(&mut self, body: BodyMode, epochs: u32, side: u32) {
        self.reading.epochs_done += epochs;
        self.reading.skipped += f64::from(epochs) * body.passes_per_epoch(self.images) * pixels(side);
    }

    /// Share of the run's epochs that is done, `current` being the share of the one that runs.
    pub(super) fn fraction(&self, current: f64) -> f64 {
        (f64::from(self.reading.epochs_done) + current) / f64::from(self.epochs.max(1))
    }

    /// Seconds to the end if the rest goes as fast as the run did so far.
    pub(super) fn eta_seconds(&self) -> Option<f64> {
        let Reading { done, skipped, .. } = self.reading;
        (done > 0.0).then(|| self.seconds() / done * (self.total - skipped - done).max(0.0))
    }
}
