//! The measurements themselves.

use std::time::Instant;

use burn::tensor::Device;

use super::{
    BenchError,
    case::{Case, Work},
    memory::Peak,
    report::{Details, Measurement, Outcome, Times},
    subject::{SEED, Subject, square, truth},
};
use crate::{
    cli::CliError,
    domain::{ModelId, Scope},
    inference::Classifier,
    nn::{self, Network, Precision},
    training::{RunningMetrics, mean_cross_entropy, optimizer, training_step},
};

/// All that the cases have in common.
pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) device_name: String,
    /// That compute on the CPU; none on a GPU.
    pub(super) threads: Option<usize>,
    pub(super) subject: Subject,
    /// Whether the times of all runs and what was computed are wanted.
    pub(super) details: bool,
}

/// What was timed.
struct Timed {
    samples_ms: Vec<f64>,
    outcome: Outcome,
    peak_memory_bytes: Option<u64>,
}

impl Bench {
    /// Warms up, then measures each run.
    pub(super) fn measure(&self, case: &Case) -> Result<Measurement, CliError> {
        let squares: Vec<Vec<u8>> = (0..case.batch).map(|number| square(number, case.image_size)).collect();
        let images: Vec<&[u8]> = squares.iter().map(Vec::as_slice).collect();
        let timed = match case.work {
            Work::Predict => self.predict(case, &images)?,
            Work::Train => self.train(case, &images)?,
        };
        let Timed { samples_ms, outcome, peak_memory_bytes } = timed;
        Ok(Measurement {
            case: case.work,
            architecture: self.subject.architecture,
            image_size: case.image_size,
            batch: case.batch,
            device: self.device_name.clone(),
            precision: if self.threads.is_some() { Precision::selected() } else { Precision::F32 }.name(),
            threads: self.threads,
            times: Times::of(&samples_ms, case.batch),
            peak_memory_bytes,
            details: self.details.then_some(Details { samples_ms, outcome }),
        })
    }

    /// As the engine's thread does it, from grey squares to probabilities in main memory.
    fn predict(&self, case: &Case, images: &[&[u8]]) -> Result<Timed, CliError> {
        let file = self.subject.model_file(case.image_size)?;
        let classifier = Classifier::load(ModelId::new(), &file, &self.device, case.batch as usize)?;
        drop(file);
        let mut probabilities = Vec::new();
        let mut clock = Clock::new(case, &self.device);
        while clock.goes_on() {
            probabilities = clock.time(|| Ok::<_, CliError>(classifier.probabilities(images)?))?;
        }
        Ok(clock.stop(Outcome::Probabilities(probabilities)))
    }

    /// As the trainer's thread does it: input, forward, loss, backward and update of the whole network.
    fn train(&self, case: &Case, images: &[&[u8]]) -> Result<Timed, CliError> {
        let device = self.device.clone().autodiff();
        let (network, spec) = self.subject.network(case.image_size, &self.device)?;
        let mut network = network.for_step(Scope::All);
        network.seed_dropout(SEED);
        let classes = spec.classes.len();
        let truth: Vec<usize> = (0..case.batch).map(|number| truth(number, classes)).collect();
        let plan = self.subject.plan();
        let mut optimizer = optimizer(plan.optimizer);
        let learning_rate = plan.stages[0].steps.last().expect("a recipe's stage has steps").learning_rate;
        let mut losses = Vec::new();
        let mut clock = Clock::new(case, &self.device);
        while clock.goes_on() {
            let mut metrics = RunningMetrics::new(classes);
            network = clock.time(|| {
                let input = nn::Input::new(images, case.image_size, &spec.normalisation, &device);
                let forward = |network: &Network| network.forward(&input);
                let loss = |logits| mean_cross_entropy(logits, &truth);
                let (trained, logits) = training_step(network, &mut optimizer, learning_rate, forward, loss);
                let finite = metrics.add(logits, &truth);
                self.device.sync().map_err(BenchError::Device)?;
                if finite { Ok(trained) } else { Err(BenchError::NotFinite(losses.len() + 1)) }
            })?;
            losses.push(metrics.loss());
        }
        Ok(clock.stop(Outcome::Losses(losses)))
    }
}

/// Times runs until there are enough; those of the warm-up do not count.
struct Clock<'a> {
    warm_up: u32,
    runs: usize,
    samples_ms: Vec<f64>,
    peak: Peak<'a>,
}

impl<'a> Clock<'a> {
    fn new(case: &Case, device: &'a Device) -> Self {
        Self { warm_up: case.work.warm_up(), runs: case.runs as usize, samples_ms: Vec::new(), peak: Peak::new(device) }
    }

    fn goes_on(&self) -> bool {
        self.samples_ms.len() < self.runs
    }

    fn time<T, E>(&mut self, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let result = run()?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        self.peak.look();
        match self.warm_up.checked_sub(1) {
            Some(left) => self.warm_up = left,
            None => self.samples_ms.push(milliseconds),
        }
        Ok(result)
    }

    fn stop(self, outcome: Outcome) -> Timed {
        Timed { peak_memory_bytes: self.peak.bytes(), samples_ms: self.samples_ms, outcome }
    }
}
