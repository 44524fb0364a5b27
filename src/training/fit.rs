//! The training loop itself, the same for the whole network on images and for its head on features.

use std::{sync::Arc, time::Instant};

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    optim::{GradientsParams, ModuleOptimizer},
    tensor::{Device, Tensor},
};

use super::{
    Checkpoint, Session, TrainingError,
    augment::Changes,
    batches::{self, Epoch, Place},
    best::Best,
    checkpoint::{EpochSoFar, Parts, Standing},
    course::Course,
    feed::Feed,
    loss::Targets,
    session::rate,
    tally::Tally,
};
use crate::{
    domain::{BodyMode, EpochRecord, EpochScores, ModelSpec, Optimizer, Position, Split, Step},
    nn::{self, Network},
};

/// What is trained, and how it comes from sample indices to logits.
pub(super) struct Fit<'a, I> {
    /// Stage and step; the epoch is ignored.
    pub(super) place: Place,
    /// Scope, learning rate and epochs.
    pub(super) step: &'a Step,
    /// What the network is, with the input side in pixels.
    pub(super) spec: &'a ModelSpec,
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

/// Makes the feed of an epoch's batches, with the changes of its images; the first of them has that number in the epoch.
pub(super) type TrainingFeeder<'a, I> = &'a dyn Fn(Changes, usize, &[Vec<usize>]) -> Feed<I>;

/// Logits `[batch, classes]` of an input in inference.
pub(super) type Ready<'a, I> = Box<dyn Fn(I) -> Tensor<2> + 'a>;

/// What a step has come to. The position is that of the next batch.
struct Learner<'a> {
    /// Ready for the step; gone only while it takes one.
    network: Option<Network>,
    course: Course<'a>,
    position: Position,
    epoch: EpochSoFar,
    best: Best,
}

impl Learner<'_> {
    fn network(&self) -> &Network {
        self.network.as_ref().expect("the network is there between steps")
    }

    fn place(&self) -> Place {
        let Position { stage, step, epoch, .. } = self.position;
        Place { stage, step, epoch }
    }
}

impl<I: Send + 'static> Fit<'_, I> {
    /// Trains for what is left of the step, or until it ends early: from its beginning with a fresh optimizer, as a newly compiled Keras
    /// model has. Returns what the next step stands on: the last epoch's network, and the best epoch's.
    pub(super) fn run(&self, session: &mut Session<'_>, from: Standing) -> Result<Standing, TrainingError> {
        let mut learner = self.learner(session, from)?;
        while learner.position.step == self.place.step {
            match self.epoch(session, &mut learner) {
                Err(TrainingError::Stopped) if session.is_interrupted() => {
                    let checkpoint = self.checkpoint_within(session, &learner)?;
                    session.keep(checkpoint)?;
                    return Err(TrainingError::Stopped);
                }
                outcome => outcome?,
            }
        }
        let network = learner.course.snapshot(learner.network());
        let Learner { position, epoch, best, .. } = learner;
        Ok(Standing { position, network, best, epoch, within: None })
    }

    fn learner<'b, 'c: 'b>(&'b self, session: &mut Session<'c>, from: Standing) -> Result<Learner<'b>, TrainingError> {
        let Standing { position, network, best, epoch, within } = from;
        let job = session.job;
        let (network, course) = match within {
            Some(within) => {
                let network = network.for_step(self.step.scope);
                let course = Course::resumed(job, self.step, &network, within)?;
                (network, course)
            }
            None => {
                let learning_rate = self.learning_rate(session, &network)?;
                let network = network.for_step(self.step.scope);
                let course = Course::new(job, self.step, learning_rate, &network);
                (network, course)
            }
        };
        Ok(Learner { network: Some(network), course, position, epoch, best })
    }

    /// What is left of an epoch, and the pass over the selection split.
    fn epoch(&self, session: &mut Session<'_>, learner: &mut Learner<'_>) -> Result<(), TrainingError> {
        let body = BodyMode::of(&session.job.plan, self.step);
        let (place, started, before) = (learner.place(), Instant::now(), learner.epoch.seconds);
        let pace = self.train_epoch(session, place, learner)?;
        let snapshot = learner.course.snapshot(learner.network());
        let selection_split = session.split(session.job.plan.selection.split);
        let selection = evaluate(session, place, &selection_split, self.feed, &(self.ready)(&snapshot))?;
        session.meter.scored(body, selection_split.len(), self.spec.image_size);
        let seconds = before + started.elapsed().as_secs_f64();
        let mut record = self.record(learner, selection.scores(), pace, seconds);
        session.number_epoch(&mut record);
        let model = Arc::new(snapshot.to_bytes(self.spec));
        learner.best.offer(place, &selection, &model);
        learner.position = self.after(place, learner.course.ends_early(&selection));
        if learner.position.step != self.place.step {
            session.meter.skip(body, self.step.epochs - place.epoch, self.spec.image_size);
        }
        learner.epoch = EpochSoFar::new(session.job.classes.len());
        let checkpoint = self.checkpoint_after(session, learner, model)?;
        session.keep_epoch(&record, checkpoint)
    }

    /// What is left of one pass over the training split with autodiff: batch normalisation and dropout in training mode.
    fn train_epoch(
        &self,
        session: &mut Session<'_>,
        place: Place,
        learner: &mut Learner<'_>,
    ) -> Result<Pace, TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let body = BodyMode::of(&job.plan, self.step);
        let epoch = Epoch::draw(job, &session.split(Split::Train), place);
        let changes = Changes::new(job, place);
        let (started, first, before) = (Instant::now(), learner.position.batch as usize, learner.epoch.seconds);
        let (mut images, batches) = (0, epoch.batches.len());
        let mut feed = (self.training_feed)(changes, first, &epoch.batches[first..]);
        session.begin(place, batches, first)?;
        for (number, batch) in epoch.batches.iter().enumerate().skip(first) {
            session.before_batch()?;
            let targets = Targets::new(session.truth(batch), changes.mix(number, batch.len()));
            let input = feed.next_input()?;
            let network = learner.network.take().expect("the network is there between steps");
            network.seed_dropout(epoch.dropout_seed(number));
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let (network, logits) = learner.course.train(network, (place.epoch, number, batches), forward, &targets);
            learner.network = Some(network);
            // Read last, so that an asynchronous device has the whole batch queued before the host waits for it.
            if !learner.epoch.tally.add_mixed(logits, &targets) {
                return Err(not_finite(place));
            }
            learner.position.batch += 1;
            learner.epoch.seconds = before + started.elapsed().as_secs_f64();
            images += batch.len();
            session.meter.trained(body, batch.len(), self.spec.image_size);
            let (loss, learning_rate) = (learner.epoch.tally.batch_loss(), learner.course.learning_rate());
            session.batch_trained(batch.len(), loss, learning_rate)?;
            if session.is_checkpoint_due() {
                let checkpoint = self.checkpoint_within(session, learner)?;
                session.keep(checkpoint)?;
            }
        }
        let images_per_second = rate(images, started.elapsed().as_secs_f64());
        let serving_wait_share = session.serving_wait_share(started);
        Ok(Pace { images_per_second, data_wait_share: feed.wait_share(started), serving_wait_share })
    }

    /// The first batch after an epoch, which may be the step's last before its time.
    fn after(&self, Place { stage, step, epoch }: Place, ends_early: bool) -> Position {
        if epoch < self.step.epochs && !ends_early {
            Position { stage, step, epoch: epoch + 1, batch: 0 }
        } else {
            Position { stage, step: step + 1, epoch: 1, batch: 0 }
        }
    }

    /// Within an epoch.
    fn checkpoint_within(&self, session: &Session<'_>, learner: &Learner<'_>) -> Result<Checkpoint, TrainingError> {
        self.checkpoint(session, learner, Arc::new(learner.network().to_bytes(self.spec)), true)
    }

    /// After an epoch that left `model`. The next step goes on from there and begins with an optimizer of its own; this one goes on from
    /// the network itself, which is another where an average is what is kept.
    fn checkpoint_after(
        &self,
        session: &Session<'_>,
        learner: &Learner<'_>,
        model: Arc<Vec<u8>>,
    ) -> Result<Checkpoint, TrainingError> {
        let within = learner.position.step == self.place.step;
        if within && learner.course.average().is_some() {
            return self.checkpoint_within(session, learner);
        }
        self.checkpoint(session, learner, model, within)
    }

    fn checkpoint(
        &self,
        session: &Session<'_>,
        learner: &Learner<'_>,
        network: Arc<Vec<u8>>,
        within: bool,
    ) -> Result<Checkpoint, TrainingError> {
        let Learner { position, epoch, best, course, .. } = learner;
        let (epochs, meter) = session.standing();
        let (position, epoch) = (*position, epoch.clone());
        let within = within.then(|| (course, learner.network()));
        Checkpoint::of(Parts { position, epochs, meter, epoch, network, best, within }, self.spec)
    }

    fn record(&self, learner: &Learner<'_>, selection: EpochScores, pace: Pace, seconds: f64) -> EpochRecord {
        let Place { stage, step, epoch } = learner.place();
        EpochRecord {
            sequence: 0, // numbered by the session
            stage,
            step,
            epoch,
            train: learner.epoch.tally.training_scores(),
            selection,
            learning_rate: learner.course.learning_rate(),
            seconds,
            images_per_second: pace.images_per_second,
            data_wait_share: Some(pace.data_wait_share),
            serving_wait_share: Some(pace.serving_wait_share),
        }
    }
}

/// How fast a training pass went, or what was left of it.
struct Pace {
    images_per_second: f64,
    data_wait_share: f64,
    serving_wait_share: f64,
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
