//! How far a run is and how long it will take, from what was measured.

use std::time::Instant;

use crate::domain::{Scope, Split, Stage, Step, TrainingPlan};

use super::TrainingJob;

/// A training pass in forward passes: the backward pass computes two products where the forward pass computes one.
const FORWARD_AND_BACKWARD: f64 = 3.0;

/// What the epochs of a step ask of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyWork {
    /// Nothing: it went over all images once, before the first epoch.
    Once,
    /// It goes over the images of each epoch, because they change.
    Forward,
    /// It trains.
    Trained,
}

impl BodyWork {
    pub(super) fn of(plan: &TrainingPlan, step: &Step) -> Self {
        match step.scope {
            Scope::All => Self::Trained,
            Scope::Head if plan.changes_images() => Self::Forward,
            Scope::Head => Self::Once,
        }
    }

    /// Forward passes over a training image in an epoch.
    fn of_training(self) -> f64 {
        match self {
            Self::Once => 0.0,
            Self::Forward => 1.0,
            Self::Trained => FORWARD_AND_BACKWARD,
        }
    }

    /// The same over an image of the selection split.
    fn of_selection(self) -> f64 {
        if self == Self::Once { 0.0 } else { 1.0 }
    }
}

/// Counts work in forward passes over one pixel, so that stages of different sizes compare. Epochs on features that are kept count
/// nothing: beside the one pass of the body they take no time worth estimating.
pub(super) struct Meter {
    started: Instant,
    train: f64,
    selection: f64,
    total: f64,
    done: f64,
    epochs: u32,
    epochs_done: u32,
}

impl Meter {
    pub(super) fn new(job: &TrainingJob) -> Self {
        let count = |split| job.samples.iter().filter(|sample| sample.split == split).count() as f64;
        let (train, selection) = (count(Split::Train), count(job.plan.selection.split));
        Self {
            started: Instant::now(),
            train,
            selection,
            total: total_work(&job.plan, train, selection, job.samples.len() as f64),
            done: 0.0,
            epochs: job.plan.total_epochs(),
            epochs_done: 0,
        }
    }

    /// `images` went forward at `side` pixels.
    pub(super) fn forward(&mut self, images: usize, side: u32) {
        self.done += images as f64 * pixels(side);
    }

    /// An epoch trained on `images` at `side` pixels.
    pub(super) fn trained(&mut self, body: BodyWork, images: usize, side: u32) {
        self.done += body.of_training() * images as f64 * pixels(side);
    }

    /// An epoch was scored on `images` at `side` pixels.
    pub(super) fn scored(&mut self, body: BodyWork, images: usize, side: u32) {
        self.done += body.of_selection() * images as f64 * pixels(side);
    }

    pub(super) fn epoch_done(&mut self) {
        self.epochs_done += 1;
    }

    /// So many epochs of a step, which ends early, will not be: they count as done, and their work as never asked for.
    pub(super) fn skip(&mut self, body: BodyWork, epochs: u32, side: u32) {
        self.epochs_done += epochs;
        self.total -= f64::from(epochs) * epoch_work(body, self.train, self.selection) * pixels(side);
    }

    /// Share of the run's epochs that is done, `current` being the share of the one that runs.
    pub(super) fn fraction(&self, current: f64) -> f64 {
        (f64::from(self.epochs_done) + current) / f64::from(self.epochs.max(1))
    }

    /// Seconds to the end if the rest goes as fast as the run did so far.
    pub(super) fn eta_seconds(&self) -> Option<f64> {
        let seconds = self.started.elapsed().as_secs_f64();
        (self.done > 0.0).then(|| seconds / self.done * (self.total - self.done).max(0.0))
    }
}

fn total_work(plan: &TrainingPlan, train: f64, selection: f64, all: f64) -> f64 {
    let step = |step: &Step| match BodyWork::of(plan, step) {
        BodyWork::Once => train + selection,
        body => {
            let tried = f64::from(step.range_test.map_or(0, |test| test.batches * plan.batch_size));
            f64::from(step.epochs) * epoch_work(body, train, selection) + body.of_training() * tried
        }
    };
    // At its end a stage is evaluated on every split.
    let stage = |stage: &Stage| pixels(stage.image_size) * (stage.steps.iter().map(step).sum::<f64>() + all);
    plan.stages.iter().map(stage).sum()
}

fn epoch_work(body: BodyWork, train: f64, selection: f64) -> f64 {
    body.of_training() * train + body.of_selection() * selection
}

fn pixels(side: u32) -> f64 {
    f64::from(side) * f64::from(side)
}
