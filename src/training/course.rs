//! What a step carries from batch to batch beside its network.

use burn::{
    module::Module,
    optim::ModuleOptimizer,
    tensor::{Bytes, Tensor},
};
use serde::{Deserialize, Serialize};

use super::{
    CheckpointError, Tally, TrainingError, TrainingJob,
    average::Average,
    checkpoint::{WithinStep, bits},
    fit::{optimizer, training_step},
    loss::{Objective, Targets},
    selection_score,
};
use crate::{
    domain::{BatchIndex, Scope, Step},
    nn::{LayerRates, Network},
};

/// The course of a step: its optimizer, its learning rates, its loss, its average and its scores.
pub(super) struct Course<'a> {
    job: &'a TrainingJob,
    step: &'a Step,
    optimizer: ModuleOptimizer,
    layers: LayerRates,
    objective: Objective,
    average: Option<Average>,
    standing: CourseStanding,
    /// The learning rate of the last batch.
    rate: f64,
}

/// What a checkpoint keeps of it beside the optimizer's record and the average.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct CourseStanding {
    /// What the schedule goes from.
    #[serde(with = "bits")]
    base: f64,
    /// The selection score of each epoch.
    scores: Vec<Score>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Score(#[serde(with = "bits")] f64);

impl<'a> Course<'a> {
    /// Before the first batch; `network` is ready for the step, which has `learning_rate` as the base of its schedule.
    pub(super) fn new(job: &'a TrainingJob, step: &'a Step, learning_rate: f64, network: &Network) -> Self {
        let averaged = step.scope == Scope::All && job.plan.weight_averaging.is_some();
        Self {
            job,
            step,
            optimizer: optimizer(job.plan.optimizer),
            layers: LayerRates::new(network, step.layer_decay),
            objective: Objective::new(job),
            average: averaged.then(|| Average::new(network)),
            standing: CourseStanding { base: learning_rate, scores: Vec::new() },
            rate: learning_rate,
        }
    }

    /// In the midst of the step. `network` is ready for it, and its parameters have the identities that the optimizer knows. The plan's
    /// learning rate counts, which may have been changed since, unless a range test chose another.
    pub(super) fn resumed(
        job: &'a TrainingJob,
        step: &'a Step,
        network: &Network,
        within: WithinStep,
    ) -> Result<Self, TrainingError> {
        let WithinStep { optimizer, average, standing } = within;
        let base = if step.range_test.is_some() { standing.base } else { step.learning_rate };
        let course = Self::new(job, step, base, network);
        let optimizer = course.optimizer.clone().from_bytes(optimizer).map_err(CheckpointError::of_optimizer)?;
        Ok(Self { optimizer, average, standing: CourseStanding { base, ..standing }, ..course })
    }

    pub(super) fn standing(&self) -> &CourseStanding {
        &self.standing
    }

    pub(super) fn average(&self) -> Option<&Average> {
        self.average.as_ref()
    }

    /// The optimizer's record.
    pub(super) fn optimizer_record(&self) -> Result<Bytes, TrainingError> {
        Ok(self.optimizer.into_bytes().map_err(CheckpointError::of_optimizer)?)
    }

    /// The same for a network that is thrown away.
    pub(super) fn without_average(self) -> Self {
        Self { average: None, ..self }
    }

    /// Trains on a batch, the `number`th of `batches` in its epoch; `epoch` counts from 1, `number` from 0. Returns the network after it
    /// and the logits before it.
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
        self.train_at(self.step.schedule.learning_rate(self.standing.base, at), network, forward, targets)
    }

    /// Trains on a batch at that learning rate, whatever the schedule says.
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
            average.follow(&network, rule);
        }
        (network, logits)
    }

    /// What is evaluated and kept of `network`, in inference mode: the average where there is one.
    pub(super) fn snapshot(&self, network: &Network) -> Network {
        // Also of the average: what is kept must not share the running statistics, which move on.
        self.average.as_ref().map_or(network, |average| &average.network).valid()
    }

    /// The learning rate of the last batch.
    pub(super) fn learning_rate(&self) -> f64 {
        self.rate
    }

    /// Takes in an epoch's tally on the selection split, and says whether the step is over before its last epoch.
    pub(super) fn ends_early(&mut self, selection: &Tally) -> bool {
        let metric = self.job.plan.selection.metric;
        self.standing.scores.push(Score(selection_score(metric, selection.confusion(), selection.loss())));
        let rule = self.step.early_stopping.or(self.job.plan.early_stopping);
        let scores: Vec<f64> = self.standing.scores.iter().map(|Score(score)| *score).collect();
        rule.is_some_and(|rule| rule.should_stop(&scores))
    }
}
