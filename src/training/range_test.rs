//! Runs the learning-rate range test of a step.

use burn::module::Module;

use super::{
    Session, TrainingError,
    augment::Changes,
    batches::{Epoch, Place},
    course::Course,
    fit::Fit,
    loss::Targets,
    tally::Tally,
};
use crate::{
    domain::{BodyMode, RangeTest, RangeTestCurve, RangeTestResult, Split},
    nn::Network,
};

impl<I: Send + 'static> Fit<'_, I> {
    /// The step's learning rate: what its range test finds on a copy of `network`, which is in inference mode, or what the plan says
    /// where there is no test or the test finds nothing. The observer is told.
    pub(super) fn learning_rate(&self, session: &mut Session<'_>, network: &Network) -> Result<f64, TrainingError> {
        let planned = self.step.learning_rate;
        let Some(test) = self.step.range_test else { return Ok(planned) };
        let curve = self.curve(session, test, network)?;
        let Place { stage, step, .. } = self.place;
        let chosen = curve.steepest();
        session.observer.rate_choice(&RangeTestResult { stage, step, curve: curve.points, chosen, planned });
        Ok(chosen.unwrap_or(planned))
    }

    /// The batches are those of an epoch 0, as often as it takes.
    fn curve(
        &self,
        session: &mut Session<'_>,
        test: RangeTest,
        network: &Network,
    ) -> Result<RangeTestCurve, TrainingError> {
        let job = session.job;
        let device = job.device.clone().autodiff();
        let place = Place { epoch: 0, ..self.place };
        let (changes, body) = (Changes::new(job, place), BodyMode::of(&job.plan, self.step));
        let epoch = Epoch::draw(job, &session.split(Split::Train), place);
        let batches: Vec<_> = epoch.batches.iter().cycle().take(test.batches as usize).cloned().collect();
        // Not a clone, which would share the running statistics.
        let mut network = network.valid().for_step(self.step.scope);
        let mut course = Course::new(job, self.step, test.from, &network).without_average();
        let mut curve = RangeTestCurve::default();
        let mut feed = (self.training_feed)(changes, 0, &batches);
        session.begin(place, batches.len(), 0)?;
        for (number, batch) in (0..).zip(&batches) {
            session.before_batch()?;
            let targets = Targets::new(session.truth(batch), changes.mix(number as usize, batch.len()));
            let input = feed.next_input()?;
            let forward = |network: &Network| (self.forward)(network, input, &device);
            let logits;
            network.seed_dropout(epoch.dropout_seed(number as usize));
            (network, logits) = course.train_at(test.learning_rate(number), network, forward, &targets);
            let mut tally = Tally::new(job.classes.len());
            session.meter.trained(body, batch.len(), self.spec.image_size);
            session.batch_done(batch.len())?;
            if !tally.add_mixed(logits, &targets) || !curve.push(test.learning_rate(number), tally.loss()) {
                break;
            }
        }
        Ok(curve)
    }
}
