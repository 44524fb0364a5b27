//! Training of one step: optimizer, learning-rate schedule, loss, weight average and early stopping.

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    module::Module,
    optim::{GradientsParams, ModuleOptimizer},
    tensor::{Bytes, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    CheckpointError, TrainingError, TrainingJob, bits,
    loss::{Objective, Targets},
    running_metrics::RunningMetrics,
    selection_score,
    weight_average::WeightAverage,
};
use crate::{
    domain::{BatchIndex, Optimizer, Scope, Step},
    nn::{self, LayerRates, Network},
};

/// Trains the network of a step batch by batch. Owns all state of the step except the network.
pub(super) struct StepTrainer<'a> {
    job: &'a TrainingJob,
    step: &'a Step,
    optimizer: ModuleOptimizer,
    layers: LayerRates,
    objective: Objective,
    average: Option<WeightAverage>,
    state: StepState,
    /// Learning rate of the last batch.
    rate: f64,
}

/// State of a step in a checkpoint, besides the optimizer record and the weight average.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct StepState {
    /// Base learning rate of the schedule.
    #[serde(rename = "base", with = "bits")]
    base_learning_rate: f64,
    /// Selection score of each finished epoch.
    scores: Vec<Score>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Score(#[serde(with = "bits")] f64);

/// Everything a step resumes from, besides the network.
pub(super) struct StepResumeState {
    /// Optimizer record.
    pub(super) optimizer: Bytes,
    pub(super) average: Option<WeightAverage>,
    pub(super) state: StepState,
}

impl<'a> StepTrainer<'a> {
    /// A trainer before the first batch. `network` is prepared for the step ([`Network::for_step`]); `learning_rate` is the base of the
    /// schedule.
    pub(super) fn new(job: &'a TrainingJob, step: &'a Step, learning_rate: f64, network: &Network) -> Self {
        let averaged = step.scope == Scope::All && job.plan.weight_averaging.is_some();
        Self {
            job,
            step,
            optimizer: optimizer(job.plan.optimizer),
            layers: LayerRates::new(network, step.layer_decay),
            objective: Objective::new(job),
            average: averaged.then(|| WeightAverage::new(network)),
            state: StepState { base_learning_rate: learning_rate, scores: Vec::new() },
            rate: learning_rate,
        }
    }

    /// A trainer that resumes within the step. `network` is prepared for the step, and its parameters have the identities to which the
    /// optimizer record refers. The base learning rate is the one of the plan, which may have changed since, unless a range test chose it.
    pub(super) fn resume(
        job: &'a TrainingJob,
        step: &'a Step,
        network: &Network,
        from: StepResumeState,
    ) -> Result<Self, TrainingError> {
        let StepResumeState { optimizer, average, state } = from;
        let base_learning_rate = if step.range_test.is_some() { state.base_learning_rate } else { step.learning_rate };
        let trainer = Self::new(job, step, base_learning_rate, network);
        let optimizer = trainer.optimizer.clone().from_bytes(optimizer).map_err(optimizer_record_error)?;
        Ok(Self { optimizer, average, state: StepState { base_learning_rate, ..state }, ..trainer })
    }

    pub(super) fn state(&self) -> &StepState {
        &self.state
    }

    pub(super) fn average(&self) -> Option<&WeightAverage> {
        self.average.as_ref()
    }

    /// Serialised optimizer state.
    pub(super) fn optimizer_record(&self) -> Result<Bytes, TrainingError> {
        Ok(self.optimizer.into_bytes().map_err(optimizer_record_error)?)
    }

    /// This trainer without weight averaging, for a network that is discarded afterwards.
    pub(super) fn without_average(self) -> Self {
        Self { average: None, ..self }
    }

    /// Trains on batch `number` (from 0) of the `batches` of epoch `epoch` (from 1), at the learning rate of the schedule. Returns the
    /// updated network and the logits from before the update.
    pub(super) fn train(
        &mut self,
        network: Network,
        (epoch, number, batches): (u32, usize, usize),
        forward: impl FnOnce(&Network) -> Tensor<2>,
        targets: &Targets,
    ) -> (Network, Tensor<2>) {
        let batches_per_epoch = batches as u64;
        let batch = u64::from(epoch - 1) * batches_per_epoch + number as u64;
        let at = BatchIndex { batch, batches_per_epoch, epochs: self.step.epochs.into() };
        self.train_at(self.step.schedule.learning_rate(self.state.base_learning_rate, at), network, forward, targets)
    }

    /// Trains on a batch at learning rate `rate`, regardless of the schedule.
    pub(super) fn train_at(
        &mut self,
        rate: f64,
        network: Network,
        forward: impl FnOnce(&Network) -> Tensor<2>,
        targets: &Targets,
    ) -> (Network, Tensor<2>) {
        self.rate = rate;
        let loss = |logits| self.objective.loss(logits, targets);
        let rates = self.layers.at(rate);
        let (network, logits) = training_step(network, &mut self.optimizer, rates, forward, loss);
        if let Some((average, rule)) = self.average.as_mut().zip(self.job.plan.weight_averaging) {
            average.update(&network, rule);
        }
        (network, logits)
    }

    /// The network to evaluate and to store, in inference mode: the weight average if the step has one, else `network`.
    pub(super) fn snapshot(&self, network: &Network) -> Network {
        // `valid` also for the average: a snapshot must not share running statistics, which further training updates.
        self.average.as_ref().map_or(network, |average| &average.network).valid()
    }

    /// Learning rate of the last batch.
    pub(super) fn learning_rate(&self) -> f64 {
        self.rate
    }

    /// Records the metrics of an epoch on the selection split. True if early stopping ends the step.
    pub(super) fn should_stop_early(&mut self, selection: &RunningMetrics) -> bool {
        let metric = self.job.plan.selection.metric;
        self.state.scores.push(Score(selection_score(metric, selection.confusion(), selection.loss())));
        let rule = self.step.early_stopping.or(self.job.plan.early_stopping);
        let scores: Vec<f64> = self.state.scores.iter().map(|Score(score)| *score).collect();
        rule.is_some_and(|rule| rule.should_stop(&scores))
    }
}

fn optimizer_record_error(error: burn::store::RecordError) -> CheckpointError {
    CheckpointError(format!("optimizer state: {error}"))
}

/// Trains on one batch: forward, loss, backward, update. `forward` computes logits `[batch, classes]` on an autodiff device; `loss` reduces
/// them to the scalar to minimise. Returns the updated network and the logits from before the update, without autodiff. Does not wait for
/// the device.
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

/// A new optimizer without state.
pub fn optimizer(optimizer: Optimizer) -> ModuleOptimizer {
    match optimizer {
        Optimizer::Adam => nn::adam(),
    }
}
