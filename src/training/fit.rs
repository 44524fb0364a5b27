//! The training loop itself, the same for the whole network on images and for its head on features.

use std::time::Instant;

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    optim::{GradientsParams, ModuleOptimizer},
    tensor::{Device, Tensor},
};

use super::{
    Session, TrainingError,
    augment::Changes,
    batches::{self, Epoch, Place},
    course::Course,
    feed::Feed,
    loss::Targets,
    meter::BodyWork,
    session::rate,
    tally::Tally,
};
use crate::{
    domain::{EpochRecord, EpochScores, Optimizer, Split, Step},
    nn::{self, Network},
};

/// What is trained, and how it comes from sample indices to logits.
pub(super) struct Fit<'a, I> {
    /// Stage and step; the epoch is ignored.
    pub(super) place: Place,
    /// Scope, learning rate and epochs.
    pub(super) step: &'a Step,
    /// Input side in pixels.
    pub(super) side: u32,
    /// Inputs of batches of sample indices.
    pub(super) feed: Feeder<'a, I>,
    /// Inputs of the batches of an epoch in training.
    pub(super) training_feed: TrainingFeeder<'a, I>,
    /// Logits `[batch, classes]` of an input in training, on the given device.
    pub(super) forward: &'a dyn Fn(&Network, I, &Device) -> Tensor<2>,
    /// Makes a network in inference mode ready for a pass.
    pub(super) ready: &'a dyn Fn(&Network) -> Ready<'a, I>,
}

/// Makes the feed of a pass over batches of sample indices.
pub(super) type Feeder<'a, I> = &'a dyn Fn(&[Vec<usize>]) -> Feed<I>;

/// Makes the feed of an epoch's batches, with the changes of its images.
pub(super) type TrainingFeeder<'a, I> = &'a dyn Fn(Changes, &[Vec<usize>]) -> Feed<I>;

/// Logits `[batch, classes]` of an input in inference.
pub(super) type Ready<'a, I> = Box<dyn Fn(I) -> Tensor<2> + 'a>;

impl<I: Send + 'static> Fit<'_, I> {
    /// Trains `network` for the step's epochs, or until it stops early, with a fresh optimizer, as a newly compiled Keras model has.
    /// After each epoch `epoch_done` gets its place, the network in inference mode and its tally on the selection split. Returns the
    /// last epoch's network, in inference mode.
    pub(super) fn run(
        &self,
        session: &mut Session<'_>,
        network: Network,
        epoch_done: &mut dyn FnMut(Place, &Network, &Tally),
    ) -> Result<Network, TrainingError> {
        let job = session.job;
        let body = BodyWork::of(&job.plan, self.step);
        let selection_split = session.split(job.plan.selection.split);
        let learning_rate = self.learning_rate(session, &network)?;
        let mut network = network.for_step(self.step.scope);
        let mut course = Course::new(job, self.step, learning_rate, &network);
        for epoch in 1..=self.step.epochs {
            let place = Place { epoch, ..self.place };
            let started = Instant::now();
            let train;
            (network, train) = self.train_epoch(session, place, network, &mut course)?;
            let snapshot = course.snapshot(&network);
            let selection = evaluate(session, place, &selection_split, self.feed, &(self.ready)(&snapshot))?;
            session.meter.scored(body, selection_split.len(), self.side);
            let seconds = started.elapsed().as_secs_f64();
            session.epoch_done(self.record(place, train, selection.scores(), seconds))?;
            epoch_done(place, &snapshot, &selection);
            if course.ends_early(&selection) {
                session.meter.skip(body, self.step.epochs - epoch, self.side);
                break;
            }
        }
        Ok(course.snapshot(&network))
    }

    /// One pass over the training split with autodiff: batch normalisation and dropout in training mode.
    fn train_epoch(
        &self,
        session: &mut Session<'_>,
        place: Place,
        mut network: Network,
        course: &mut Course<'_>,
    ) -> Result<(Network, Trained), TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let body = BodyWork::of(&job.plan, self.step);
        let epoch = Epoch::draw(job, &session.split(Split::Train), place);
        let changes = Changes::new(job, place);
        let mut tally = Tally::new(job.classes.len());
        let started = Instant::now();
        network.seed_dropout(epoch.dropout_seed);
        let mut feed = (self.training_feed)(changes, &epoch.batches);
        session.begin(place, epoch.batches.len())?;
        for (number, batch) in epoch.batches.iter().enumerate() {
            session.before_batch()?;
            let targets = Targets::new(session.truth(batch), changes.mix(number, batch.len()));
            let input = feed.next_input()?;
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let logits;
            (network, logits) = course.train(network, (place.epoch, number, epoch.batches.len()), forward, &targets);
            // Read last, so that an asynchronous device has the whole batch queued before the host waits for it.
            if !tally.add_mixed(logits, &targets) {
                return Err(not_finite(place));
            }
            session.meter.trained(body, batch.len(), self.side);
            session.batch_done(batch.len())?;
        }
        let images = tally.confusion().total() as usize;
        let trained = Trained {
            scores: tally.training_scores(),
            learning_rate: course.learning_rate(),
            images_per_second: rate(images, started.elapsed().as_secs_f64()),
            data_wait_share: feed.wait_share(started),
        };
        Ok((network, trained))
    }

    fn record(&self, place: Place, train: Trained, selection: EpochScores, seconds: f64) -> EpochRecord {
        EpochRecord {
            sequence: 0, // numbered by the session
            stage: place.stage,
            step: place.step,
            epoch: place.epoch,
            train: train.scores,
            selection,
            learning_rate: train.learning_rate,
            seconds,
            images_per_second: train.images_per_second,
            data_wait_share: Some(train.data_wait_share),
        }
    }
}

/// What an epoch's training pass gave.
struct Trained {
    scores: EpochScores,
    learning_rate: f64,
    images_per_second: f64,
    data_wait_share: f64,
}

/// One pass in inference mode over the samples at `indices`.
pub(super) fn evaluate<I: Send + 'static>(
    session: &mut Session<'_>,
    place: Place,
    indices: &[usize],
    feeder: Feeder<'_, I>,
    logits: &Ready<'_, I>,
) -> Result<Tally, TrainingError> {
    let job = session.job;
    let mut tally = Tally::new(job.classes.len());
    let batches = batches::in_order(indices, job.plan.batch_size);
    let mut feed = feeder(&batches);
    for batch in &batches {
        session.before_batch()?;
        if !tally.add(logits(feed.next_input()?), &session.truth(batch)) {
            return Err(not_finite(place));
        }
    }
    Ok(tally)
}

/// One batch: forward, loss, backward, update. `forward` gives logits `[batch, classes]` on an autodiff device, `loss` what is to fall.
/// Returns the network after the step and the logits before it, off the autodiff device and not waited for.
pub fn training_step(
    network: Network,
    optimizer: &mut ModuleOptimizer,
    learning_rate: impl Into<ModuleLearningRate>,
    forward: impl FnOnce(&Network) -> Tensor<2>,
    loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
) -> (Network, Tensor<2>) {
    let logits = forward(&network);
    let gradients = GradientsParams::from_grads(loss(logits.clone()).backward(), &network);
    (optimizer.step(learning_rate, network, gradients), logits.inner())
}

/// The optimizer of a step, with nothing learnt yet.
pub fn optimizer(optimizer: Optimizer) -> ModuleOptimizer {
    match optimizer {
        Optimizer::Adam => nn::adam(),
    }
}

fn not_finite(Place { stage, step, epoch }: Place) -> TrainingError {
    TrainingError::NotFinite { stage, step, epoch }
}
