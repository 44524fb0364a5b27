//! Learning-rate range test of a step (Smith 2017, arXiv:1506.01186).

use burn::module::Module;

use super::{
    Session, TrainingError, augmenter::BatchAugmenter, batches::EpochBatches, fit_job::FitJob, loss::Targets,
    position::EpochIndex, running_metrics::RunningMetrics, step_trainer::StepTrainer,
};
use crate::{
    domain::{BodyMode, RangeTest, RangeTestCurve, RangeTestResult, Split},
    nn::Network,
};

impl<I: Send + 'static> FitJob<'_, I> {
    /// The learning rate of the step: the one that its range test chooses on a copy of `network` (in inference mode), or the planned one if
    /// there is no test or the test chooses none. Reports the result to the observer.
    pub(super) fn learning_rate(&self, session: &mut Session<'_>, network: &Network) -> Result<f64, TrainingError> {
        let planned = self.step.learning_rate;
        let Some(test) = self.step.range_test else { return Ok(planned) };
        let curve = self.curve(session, test, network)?;
        let EpochIndex { stage, step, .. } = self.index;
        let chosen = curve.steepest();
        session.observer.rate_choice(&RangeTestResult { stage, step, curve: curve.points, chosen, planned });
        Ok(chosen.unwrap_or(planned))
    }

    /// Trains on the batches of an epoch 0, repeated as often as needed, at rising learning rates. Ends early when the loss diverges.
    fn curve(
        &self,
        session: &mut Session<'_>,
        test: RangeTest,
        network: &Network,
    ) -> Result<RangeTestCurve, TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let index = EpochIndex { epoch: 0, ..self.index };
        let (augmenter, body) = (BatchAugmenter::new(job, index), BodyMode::of(&job.plan, self.step));
        let epoch = EpochBatches::new(job, &session.split_indices(Split::Train), index);
        let batches: Vec<_> = epoch.batches.iter().cycle().take(test.batches as usize).cloned().collect();
        // A copy by `valid`: a clone would share the running statistics.
        let mut network = network.valid().for_step(self.step.scope);
        let mut trainer = StepTrainer::new(job, self.step, test.from, &network).without_average();
        let mut curve = RangeTestCurve::default();
        let mut loader = (self.training_loader)(augmenter, 0, &batches);
        session.begin_pass(index, batches.len(), 0)?;
        for (number, batch) in (0..).zip(&batches) {
            session.before_batch()?;
            let targets = Targets::new(session.labels(batch), augmenter.mixup(number as usize, batch.len()));
            let input = loader.next_batch()?;
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let logits;
            network.seed_dropout(epoch.dropout_seed(number as usize));
            (network, logits) = trainer.train_at(test.learning_rate(number), network, forward, &targets);
            let mut metrics = RunningMetrics::new(job.classes.len());
            session.meter.trained(body, batch.len(), self.spec.image_size);
            session.batch_done(batch.len())?;
            if !metrics.add_mixed(logits, &targets) || !curve.push(test.learning_rate(number), metrics.loss()) {
                break;
            }
        }
        Ok(curve)
    }
}
