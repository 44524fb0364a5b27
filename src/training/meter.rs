//! How far a run is and how long it will take, from what was measured.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::domain::{FORWARD_AND_BACKWARD, ImageCounts, Split, pixels};

use super::TrainingJob;

/// Counts work as [`TrainingPlan::work`](crate::domain::TrainingPlan::work) does.
pub(super) struct Meter {
    started: Instant,
    total: f64,
    epochs: u32,
    reading: Reading,
}

/// What it shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    done: f64,
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
        Self { started: Instant::now(), total: job.plan.work(images), epochs: job.plan.total_epochs(), reading }
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

    /// The whole network was trained on `images` at `side` pixels.
    pub(super) fn trained(&mut self, images: usize, side: u32) {
        self.reading.done += FORWARD_AND_BACKWARD * images as f64 * pixels(side);
    }

    pub(super) fn epoch_done(&mut self) {
        self.reading.epochs_done += 1;
    }

    /// Share of the run's epochs that is done, `current` being the share of the one that runs.
    pub(super) fn fraction(&self, current: f64) -> f64 {
        (f64::from(self.reading.epochs_done) + current) / f64::from(self.epochs.max(1))
    }

    /// Seconds to the end if the rest goes as fast as the run did so far.
    pub(super) fn eta_seconds(&self) -> Option<f64> {
        let done = self.reading.done;
        (done > 0.0).then(|| self.seconds() / done * (self.total - done).max(0.0))
    }
}
