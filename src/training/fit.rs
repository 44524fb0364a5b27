//! The training loop itself, the same for the whole network on images and for its head on features.

use std::{sync::Arc, time::Instant};

use burn::{
    module::Module,
    nn::loss::CrossEntropyLossConfig,
    optim::{GradientsParams, ModuleOptimizer},
    tensor::{Device, Int, Tensor, TensorData},
};

use super::{
    Checkpoint, CheckpointError, Session, TrainingError,
    batches::{self, Epoch, Place},
    best::Best,
    checkpoint::{EpochSoFar, Parts, Standing},
    feed::Feed,
    session::rate,
    tally::Tally,
};
use crate::{
    domain::{EpochRecord, EpochScores, ModelSpec, Optimizer, Position, Scope, Split, Step},
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
    /// Logits `[batch, classes]` of an input in training, on the given device.
    pub(super) forward: &'a dyn Fn(&Network, I, &Device) -> Tensor<2>,
    /// Makes a network in inference mode ready for a pass.
    pub(super) ready: &'a dyn Fn(&Network) -> Ready<'a, I>,
}

/// Makes the feed of a pass over batches of sample indices.
pub(super) type Feeder<'a, I> = &'a dyn Fn(&[Vec<usize>]) -> Feed<I>;

/// Logits `[batch, classes]` of an input in inference.
pub(super) type Ready<'a, I> = Box<dyn Fn(I) -> Tensor<2> + 'a>;

/// What a step has come to. The position is that of the next batch.
struct Learner {
    /// Ready for the step; gone only while it takes one.
    network: Option<Network>,
    optimizer: ModuleOptimizer,
    position: Position,
    epoch: EpochSoFar,
    best: Best,
}

impl Learner {
    fn network(&self) -> &Network {
        self.network.as_ref().expect("the network is there between steps")
    }

    fn place(&self) -> Place {
        let Position { stage, step, epoch, .. } = self.position;
        Place { stage, step, epoch }
    }
}

impl<I: Send + 'static> Fit<'_, I> {
    /// Trains for what is left of the step, from its beginning with a fresh optimizer, as a newly compiled Keras model has. Returns what
    /// the next step stands on: the last epoch's network, and the best epoch's.
    pub(super) fn run(&self, session: &mut Session<'_>, mut from: Standing) -> Result<Standing, TrainingError> {
        let optimizer = from.optimizer(&session.job.plan)?;
        let Standing { position, network, best, epoch, .. } = from;
        let network = Some(network.for_step(self.step.scope));
        let mut learner = Learner { network, optimizer, position, epoch, best };
        while learner.position.step == self.place.step {
            match self.epoch(session, &mut learner) {
                Err(TrainingError::Stopped) if session.is_interrupted() => {
                    let checkpoint = self.checkpoint_within(session, &learner)?;
                    session.keep(&checkpoint)?;
                    return Err(TrainingError::Stopped);
                }
                outcome => outcome?,
            }
        }
        let Learner { network, position, epoch, best, .. } = learner;
        let network = network.expect("the network is there between steps").valid();
        Ok(Standing { position, network, best, epoch, optimizer: None })
    }

    /// What is left of an epoch, and the pass over the selection split.
    fn epoch(&self, session: &mut Session<'_>, learner: &mut Learner) -> Result<(), TrainingError> {
        let (place, started, before) = (learner.place(), Instant::now(), learner.epoch.seconds);
        let pace = self.train_epoch(session, place, learner)?;
        let snapshot = learner.network().valid();
        let selection_split = session.split(session.job.plan.selection.split);
        learner.epoch.seconds = before + started.elapsed().as_secs_f64();
        let selection = evaluate(session, place, &selection_split, self.feed, &(self.ready)(&snapshot))?;
        self.count(|| session.meter.forward(selection_split.len(), self.spec.image_size));
        let seconds = before + started.elapsed().as_secs_f64();
        let mut record = self.record(place, learner.epoch.tally.training_scores(), selection.scores(), pace, seconds);
        session.number_epoch(&mut record);
        let model = Arc::new(snapshot.to_bytes(self.spec));
        learner.best.offer(place, &selection, &model);
        learner.position = self.after(place);
        learner.epoch = EpochSoFar::new(session.job.classes.len());
        let checkpoint = self.checkpoint(session, learner, model)?;
        session.keep_epoch(&record, &checkpoint)
    }

    /// What is left of one pass over the training split with autodiff: batch normalisation and dropout in training mode.
    fn train_epoch(
        &self,
        session: &mut Session<'_>,
        place: Place,
        learner: &mut Learner,
    ) -> Result<Pace, TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let epoch = Epoch::shuffled(&session.split(Split::Train), job.plan.batch_size, job.seed, place);
        let (started, first, before) = (Instant::now(), learner.position.batch as usize, learner.epoch.seconds);
        let mut images = 0;
        let mut feed = (self.feed)(&epoch.batches[first..]);
        session.begin(place, epoch.batches.len(), first)?;
        for (index, batch) in epoch.batches.iter().enumerate().skip(first) {
            session.before_batch()?;
            let truth = session.truth(batch);
            let input = feed.next_input()?;
            let network = learner.network.take().expect("the network is there between steps");
            network.seed_dropout(epoch.dropout_seed(index));
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let (network, logits) =
                training_step(network, &mut learner.optimizer, self.step.learning_rate, forward, &truth);
            learner.network = Some(network);
            // Read last, so that an asynchronous device has the whole batch queued before the host waits for it.
            if !learner.epoch.tally.add(logits, &truth) {
                return Err(not_finite(place));
            }
            learner.position.batch += 1;
            learner.epoch.seconds = before + started.elapsed().as_secs_f64();
            images += batch.len();
            self.count(|| session.meter.trained(batch.len(), self.spec.image_size));
            session.batch_trained(batch.len(), learner.epoch.tally.batch_loss(), self.step.learning_rate)?;
            if session.is_checkpoint_due() {
                let checkpoint = self.checkpoint_within(session, learner)?;
                session.keep(&checkpoint)?;
            }
        }
        let images_per_second = rate(images, started.elapsed().as_secs_f64());
        Ok(Pace { images_per_second, data_wait_share: feed.wait_share(started) })
    }

    /// The first batch after an epoch.
    fn after(&self, Place { stage, step, epoch }: Place) -> Position {
        if epoch < self.step.epochs {
            Position { stage, step, epoch: epoch + 1, batch: 0 }
        } else {
            Position { stage, step: step + 1, epoch: 1, batch: 0 }
        }
    }

    fn checkpoint_within(&self, session: &Session<'_>, learner: &Learner) -> Result<Checkpoint, TrainingError> {
        self.checkpoint(session, learner, Arc::new(learner.network().to_bytes(self.spec)))
    }

    /// `network` is the learner's, as a model file. The next step begins with an optimizer of its own.
    fn checkpoint(
        &self,
        session: &Session<'_>,
        learner: &Learner,
        network: Arc<Vec<u8>>,
    ) -> Result<Checkpoint, TrainingError> {
        let Learner { position, epoch, best, .. } = learner;
        let optimizer = if position.step == self.place.step {
            let record = learner.optimizer.into_bytes().map_err(CheckpointError::of_optimizer)?;
            Some((record, learner.network().identities()))
        } else {
            None
        };
        let (epochs, meter) = session.standing();
        let (position, epoch) = (*position, epoch.clone());
        Ok(Checkpoint::of(Parts { position, epochs, meter, epoch, network, best, optimizer }))
    }

    /// The epochs of a head step are no work to the meter.
    fn count(&self, work: impl FnOnce()) {
        if self.step.scope == Scope::All {
            work();
        }
    }

    fn record(
        &self,
        place: Place,
        train: EpochScores,
        selection: EpochScores,
        pace: Pace,
        seconds: f64,
    ) -> EpochRecord {
        EpochRecord {
            sequence: 0, // numbered by the session
            stage: place.stage,
            step: place.step,
            epoch: place.epoch,
            train,
            selection,
            learning_rate: self.step.learning_rate,
            seconds,
            images_per_second: pace.images_per_second,
            data_wait_share: Some(pace.data_wait_share),
        }
    }
}

/// How fast a training pass went, or what was left of it.
struct Pace {
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

/// One batch: forward, mean cross-entropy, backward, update. `forward` gives logits `[batch, classes]` on an autodiff device, `truth`
/// the classes. Returns the network after the step and the logits before it, off the autodiff device and not waited for.
pub fn training_step(
    network: Network,
    optimizer: &mut ModuleOptimizer,
    learning_rate: f64,
    forward: impl FnOnce(&Network) -> Tensor<2>,
    truth: &[usize],
) -> (Network, Tensor<2>) {
    let logits = forward(&network);
    let loss = mean_cross_entropy(logits.clone(), truth, &logits.device());
    let gradients = GradientsParams::from_grads(loss.backward(), &network);
    (optimizer.step(learning_rate, network, gradients), logits.inner())
}

/// The optimizer of a step, with nothing learnt yet.
pub fn optimizer(optimizer: Optimizer) -> ModuleOptimizer {
    match optimizer {
        Optimizer::Adam => nn::adam(),
    }
}

fn mean_cross_entropy(logits: Tensor<2>, truth: &[usize], device: &Device) -> Tensor<1> {
    let truth: Vec<i32> = truth.iter().map(|&class| class as i32).collect();
    let batch = truth.len();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(truth, [batch]), device);
    CrossEntropyLossConfig::new().init(device).forward(logits, targets)
}

fn not_finite(Place { stage, step, epoch }: Place) -> TrainingError {
    TrainingError::NotFinite { stage, step, epoch }
}
