//! The training loop of a step. It is the same for the whole network on images and for the head on precomputed features.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Device, Tensor};

use super::{
    Checkpoint, Session, TrainingError,
    augmenter::BatchAugmenter,
    batch_loader::BatchLoader,
    batches::{self, EpochBatches},
    best_epoch::BestEpochTracker,
    checkpoint::{EpochState, Parts, ResumeState},
    divergence,
    loss::Targets,
    position::EpochIndex,
    running_metrics::RunningMetrics,
    session::rate,
    step_trainer::StepTrainer,
};
use crate::{
    domain::{BodyMode, EpochRecord, EpochScores, ModelSpec, Position, Split, Step},
    nn::Network,
};

/// A step to train, and how logits are computed from sample indices. `I` is the input of a batch: images or features.
pub(super) struct FitJob<'a, I> {
    /// Stage and step; the epoch is ignored.
    pub(super) index: EpochIndex,
    /// Scope, learning rate and number of epochs.
    pub(super) step: &'a Step,
    /// Specification of the network, with the image size of the stage.
    pub(super) spec: &'a ModelSpec,
    /// Loads the inputs of batches for inference.
    pub(super) loader: LoaderFn<'a, I>,
    /// Loads the inputs of batches for training.
    pub(super) training_loader: TrainingLoaderFn<'a, I>,
    /// Computes the logits `[batch, classes]` of an input in training mode, on the given autodiff device.
    pub(super) forward: &'a dyn Fn(&Network, I, &Device) -> Tensor<2>,
    /// Prepares a network in inference mode for a pass over a split.
    pub(super) inference: &'a dyn Fn(&Network) -> InferenceFn<'a, I>,
}

/// Starts loading the inputs of batches, given as sample indices.
pub(super) type LoaderFn<'a, I> = &'a dyn Fn(&[Vec<usize>]) -> BatchLoader<I>;

/// Starts loading the augmented inputs of batches. The `usize` is the number of the first batch within its epoch.
pub(super) type TrainingLoaderFn<'a, I> = &'a dyn Fn(BatchAugmenter, usize, &[Vec<usize>]) -> BatchLoader<I>;

/// Computes the logits `[batch, classes]` of an input in inference mode.
pub(super) type InferenceFn<'a, I> = Box<dyn Fn(I) -> Tensor<2> + 'a>;

/// Mutable state of a step in training.
struct FitState<'a> {
    /// Prepared for the step. `None` only while a batch is trained, because an update consumes the network.
    network: Option<Network>,
    trainer: StepTrainer<'a>,
    /// Position of the next batch.
    position: Position,
    epoch: EpochState,
    best: BestEpochTracker,
}

impl FitState<'_> {
    fn network(&self) -> &Network {
        self.network.as_ref().expect("the network is present between batches")
    }

    fn index(&self) -> EpochIndex {
        let Position { stage, step, epoch, .. } = self.position;
        EpochIndex { stage, step, epoch }
    }
}

impl<I: Send + 'static> FitJob<'_, I> {
    /// Trains the remaining epochs of the step, until its last one or early stopping. A step starts with a new optimizer, as a newly
    /// compiled Keras model does. Returns the state for the next step, with the network of the last epoch and the best epoch so far.
    pub(super) fn run(&self, session: &mut Session<'_>, from: ResumeState) -> Result<ResumeState, TrainingError> {
        let mut state = self.start(session, from)?;
        while state.position.step == self.index.step {
            match self.run_epoch(session, &mut state) {
                Err(TrainingError::Stopped) if session.is_suspended() => {
                    let checkpoint = self.checkpoint_within_epoch(session, &state)?;
                    session.report_checkpoint(checkpoint)?;
                    return Err(TrainingError::Stopped);
                }
                outcome => outcome?,
            }
        }
        let network = state.trainer.snapshot(state.network());
        let FitState { position, epoch, best, .. } = state;
        Ok(ResumeState { position, network, best, epoch, within_step: None })
    }

    /// Starts the step, with its range test if it has one, or resumes within it.
    fn start<'b, 'c: 'b>(
        &'b self,
        session: &mut Session<'c>,
        from: ResumeState,
    ) -> Result<FitState<'b>, TrainingError> {
        let ResumeState { position, network, best, epoch, within_step } = from;
        let job = session.job;
        let (network, trainer) = match within_step {
            Some(within_step) => {
                let network = network.for_step(self.step.scope);
                let trainer = StepTrainer::resume(job, self.step, &network, within_step)?;
                (network, trainer)
            }
            None => {
                let learning_rate = self.learning_rate(session, &network)?;
                let network = network.for_step(self.step.scope);
                let trainer = StepTrainer::new(job, self.step, learning_rate, &network);
                (network, trainer)
            }
        };
        Ok(FitState { network: Some(network), trainer, position, epoch, best })
    }

    /// One epoch, or what remains of it: trains, evaluates on the selection split, updates the best epoch and reports a checkpoint.
    fn run_epoch(&self, session: &mut Session<'_>, state: &mut FitState<'_>) -> Result<(), TrainingError> {
        let body = BodyMode::of(&session.job.plan, self.step);
        let (index, started, before) = (state.index(), Instant::now(), state.epoch.seconds);

        let pass = self.train_epoch(session, index, state)?;

        let snapshot = state.trainer.snapshot(state.network());
        let selection_split = session.split_indices(session.job.plan.selection.split);
        let selection = evaluate(session, index, &selection_split, self.loader, &(self.inference)(&snapshot))?;
        session.meter.scored(body, selection_split.len(), self.spec.image_size);

        let seconds = before + started.elapsed().as_secs_f64();
        let mut record = self.record(state, selection.scores(), pass, seconds);
        session.number_epoch(&mut record);
        let model = Arc::new(snapshot.to_bytes(self.spec));
        // Before the checkpoint, so that a resumed run repeats the epoch.
        divergence::check(index, session.job.classes.len(), record.train, record.selection, &model)?;
        state.best.update(index, &selection, &model);

        // Advance to the next epoch, or to the next step after the last epoch or on early stopping.
        state.position = self.position_after(index, state.trainer.should_stop_early(&selection));
        if state.position.step != self.index.step {
            session.meter.skip(body, self.step.epochs - index.epoch, self.spec.image_size);
        }
        state.epoch = EpochState::new(session.job.classes.len());
        let checkpoint = self.checkpoint_after_epoch(session, state, model)?;
        session.report_epoch(&record, checkpoint)
    }

    /// Trains on the remaining batches of an epoch, with autodiff: batch normalisation and dropout are in training mode.
    fn train_epoch(
        &self,
        session: &mut Session<'_>,
        index: EpochIndex,
        state: &mut FitState<'_>,
    ) -> Result<PassStats, TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let body = BodyMode::of(&job.plan, self.step);
        let epoch = EpochBatches::new(job, &session.split_indices(Split::Train), index);
        let augmenter = BatchAugmenter::new(job, index);
        let (started, first, before) = (Instant::now(), state.position.batch as usize, state.epoch.seconds);
        let (mut images, batches) = (0, epoch.batches.len());
        let mut loader = (self.training_loader)(augmenter, first, &epoch.batches[first..]);
        session.begin_pass(index, batches, first)?;
        for (number, batch) in epoch.batches.iter().enumerate().skip(first) {
            session.before_batch()?; // stops here, or yields to predictions
            let targets = Targets::new(session.labels(batch), augmenter.mixup(number, batch.len()));
            let input = loader.next_batch()?;

            // Forward, loss, backward, update.
            let network = state.network.take().expect("the network is present between batches");
            network.seed_dropout(epoch.dropout_seed(number));
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let (network, logits) = state.trainer.train(network, (index.epoch, number, batches), forward, &targets);
            state.network = Some(network);

            // Reading the logits waits for the device. It comes last, so that an asynchronous device has the whole batch queued by then.
            if !state.epoch.metrics.add_mixed(logits, &targets) {
                return Err(not_finite(index));
            }

            state.position.batch += 1;
            state.epoch.seconds = before + started.elapsed().as_secs_f64();
            images += batch.len();
            session.meter.trained(body, batch.len(), self.spec.image_size);
            let (loss, learning_rate) = (state.epoch.metrics.batch_loss(), state.trainer.learning_rate());
            session.batch_trained(batch.len(), loss, learning_rate)?;
            if session.is_checkpoint_due() {
                let checkpoint = self.checkpoint_within_epoch(session, state)?;
                session.report_checkpoint(checkpoint)?;
            }
        }
        let images_per_second = rate(images, started.elapsed().as_secs_f64());
        let serving_wait_share = session.serving_wait_share(started);
        Ok(PassStats { images_per_second, data_wait_share: loader.wait_share(started.elapsed()), serving_wait_share })
    }

    /// Position of the first batch after an epoch: in the next epoch, or in the next step if this one is over.
    fn position_after(&self, EpochIndex { stage, step, epoch }: EpochIndex, stops_early: bool) -> Position {
        if epoch < self.step.epochs && !stops_early {
            Position { stage, step, epoch: epoch + 1, batch: 0 }
        } else {
            Position { stage, step: step + 1, epoch: 1, batch: 0 }
        }
    }

    fn checkpoint_within_epoch(
        &self,
        session: &Session<'_>,
        state: &FitState<'_>,
    ) -> Result<Checkpoint, TrainingError> {
        self.checkpoint(session, state, Arc::new(state.network().to_bytes(self.spec)), true)
    }

    /// The checkpoint after an epoch with model file `model`. The next step starts from that model with a new optimizer. The next epoch of
    /// this step continues with the trained network, which differs from the model if the step averages weights.
    fn checkpoint_after_epoch(
        &self,
        session: &Session<'_>,
        state: &FitState<'_>,
        model: Arc<Vec<u8>>,
    ) -> Result<Checkpoint, TrainingError> {
        let within_step = state.position.step == self.index.step;
        if within_step && state.trainer.average().is_some() {
            return self.checkpoint_within_epoch(session, state);
        }
        self.checkpoint(session, state, model, within_step)
    }

    fn checkpoint(
        &self,
        session: &Session<'_>,
        state: &FitState<'_>,
        network: Arc<Vec<u8>>,
        within_step: bool,
    ) -> Result<Checkpoint, TrainingError> {
        let FitState { position, epoch, best, trainer, .. } = state;
        let (epochs, meter) = session.progress_state();
        let (position, epoch) = (*position, epoch.clone());
        let within_step = within_step.then(|| (trainer, state.network()));
        Checkpoint::new(Parts { position, epochs, meter, epoch, network, best, within_step }, self.spec)
    }

    fn record(&self, state: &FitState<'_>, selection: EpochScores, pass: PassStats, seconds: f64) -> EpochRecord {
        let EpochIndex { stage, step, epoch } = state.index();
        EpochRecord {
            sequence: 0, // numbered by the session
            stage,
            step,
            epoch,
            train: state.epoch.metrics.training_scores(),
            selection,
            learning_rate: state.trainer.learning_rate(),
            seconds,
            images_per_second: pass.images_per_second,
            data_wait_share: Some(pass.data_wait_share),
            serving_wait_share: Some(pass.serving_wait_share),
        }
    }
}

/// Speed of a training pass.
struct PassStats {
    images_per_second: f64,
    data_wait_share: f64,
    serving_wait_share: f64,
}

/// Evaluates a network in inference mode on the samples at `indices`.
pub(super) fn evaluate<I: Send + 'static>(
    session: &mut Session<'_>,
    index: EpochIndex,
    indices: &[usize],
    loader: LoaderFn<'_, I>,
    logits: &InferenceFn<'_, I>,
) -> Result<RunningMetrics, TrainingError> {
    let job = session.job;
    let mut metrics = RunningMetrics::new(job.classes.len());
    let batches = batches::sequential(indices, job.plan.batch_size);
    let mut loader = loader(&batches);
    for batch in &batches {
        session.before_batch()?;
        if !metrics.add(logits(loader.next_batch()?), &session.labels(batch)) {
            return Err(not_finite(index));
        }
    }
    Ok(metrics)
}

fn not_finite(EpochIndex { stage, step, epoch }: EpochIndex) -> TrainingError {
    TrainingError::NotFinite { stage, step, epoch }
}
