//! How far a run is and how long it will take, from what was measured.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::domain::{Scope, Split, Stage, Step, TrainingPlan};

use super::TrainingJob;

/// A training pass in forward passes: the backward pass computes two products where the forward pass computes one.
const FORWARD_AND_BACKWARD: f64 = 3.0;

/// Counts work in forward passes over one pixel, so that stages of different sizes compare. Epochs of a head step count
/// nothing: beside the one pass of the body they take no time worth estimating.
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
        let (train, selection) = (count(Split::Train), count(job.plan.selection.split));
        Self {
            started: Instant::now(),
            total: total_work(&job.plan, train, selection, job.samples.len() as f64),
            epochs: job.plan.total_epochs(),
            reading,
        }
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

fn total_work(plan: &TrainingPlan, train: f64, selection: f64, all: f64) -> f64 {
    let step = |step: &Step| match step.scope {
        Scope::Head => train + selection,
        Scope::All => f64::from(step.epochs) * (FORWARD_AND_BACKWARD * train + selection),
    };
    // At its end a stage is evaluated on every split.
    let stage = |stage: &Stage| pixels(stage.image_size) * (stage.steps.iter().map(step).sum::<f64>() + all);
    plan.stages.iter().map(stage).sum()
}

fn pixels(side: u32) -> f64 {
    f64::from(side) * f64::from(side)
}
