//! Measuring a benchmark case.

use std::time::Instant;

use burn::tensor::Device;

use super::{
    BenchError,
    case::{Case, Workload},
    memory::Peak,
    report::{Details, Measurement, Results, Times},
    subject::{SEED, Subject, label, synthetic_image},
};
use crate::{
    cli::CliError,
    domain::{ModelId, Scope},
    inference::Classifier,
    nn::{self, Network, Precision},
    training::{RunningMetrics, mean_cross_entropy, optimizer, training_step},
};

/// Settings shared by all cases.
pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) device_name: String,
    /// Number of CPU threads; `None` on a GPU.
    pub(super) threads: Option<usize>,
    pub(super) subject: Subject,
    /// True to report the time of each repetition and the results.
    pub(super) details: bool,
}

/// Times and results of a case.
struct Timed {
    warm_up_ms: f64,
    samples_ms: Vec<f64>,
    results: Results,
    peak_memory_bytes: Option<u64>,
}

impl Bench {
    /// Warms up, then measures each repetition.
    pub(super) fn measure(&self, case: &Case) -> Result<Measurement, CliError> {
        let pixels: Vec<Vec<u8>> = (0..case.batch).map(|number| synthetic_image(number, case.image_size)).collect();
        let images: Vec<&[u8]> = pixels.iter().map(Vec::as_slice).collect();
        let timed = match case.workload {
            Workload::Predict => self.predict(case, &images)?,
            Workload::Train => self.train(case, &images)?,
        };
        let Timed { warm_up_ms, samples_ms, results, peak_memory_bytes } = timed;
        Ok(Measurement {
            case: case.workload,
            architecture: self.subject.architecture,
            image_size: case.image_size,
            batch: case.batch,
            device: self.device_name.clone(),
            precision: if self.threads.is_some() { Precision::selected() } else { Precision::F32 }.name(),
            threads: self.threads,
            times: Times::new(&samples_ms, case.batch),
            warm_up_ms,
            peak_memory_bytes,
            details: self.details.then_some(Details { samples_ms, results }),
        })
    }

    /// Inference as on the engine's thread, from grey images to probabilities in main memory.
    fn predict(&self, case: &Case, images: &[&[u8]]) -> Result<Timed, CliError> {
        let began = Instant::now();
        let file = self.subject.model_file(case.image_size)?;
        let classifier = Classifier::load(ModelId::new(), &file, &self.device, case.batch as usize)?;
        drop(file);
        let mut probabilities = Vec::new();
        let mut stopwatch = Stopwatch::new(case, &self.device, began);
        while stopwatch.is_running() {
            probabilities = stopwatch.time(|| Ok::<_, CliError>(classifier.probabilities(images)?))?;
        }
        Ok(stopwatch.stop(Results::Probabilities(probabilities)))
    }

    /// A training step as on the trainer's thread: input, forward, loss, backward and update of the whole network.
    fn train(&self, case: &Case, images: &[&[u8]]) -> Result<Timed, CliError> {
        let began = Instant::now();
        let device = self.device.clone().autodiff();
        let (network, spec) = self.subject.network(case.image_size, &self.device)?;
        let mut network = network.for_step(Scope::All);
        network.seed_dropout(SEED);
        let classes = spec.classes.len();
        let labels: Vec<usize> = (0..case.batch).map(|number| label(number, classes)).collect();
        let plan = self.subject.plan();
        let mut optimizer = optimizer(plan.optimizer);
        let learning_rate = plan.stages[0].steps.last().expect("every stage of a recipe has steps").learning_rate;
        let mut losses = Vec::new();
        let mut stopwatch = Stopwatch::new(case, &self.device, began);
        while stopwatch.is_running() {
            let mut metrics = RunningMetrics::new(classes);
            network = stopwatch.time(|| {
                let input = nn::Input::new(images, case.image_size, &spec.normalisation, &device);
                let forward = |network: &Network| network.forward(&input);
                let loss = |logits| mean_cross_entropy(logits, &labels);
                let (trained, logits) = training_step(network, &mut optimizer, learning_rate, forward, loss);
                let finite = metrics.add(logits, &labels);
                self.device.sync().map_err(BenchError::Device)?;
                if finite { Ok(trained) } else { Err(BenchError::NotFinite(losses.len() + 1)) }
            })?;
            losses.push(metrics.loss());
        }
        Ok(stopwatch.stop(Results::Losses(losses)))
    }
}

/// Times repetitions, leaving out those of the warm-up.
struct Stopwatch<'a> {
    began: Instant,
    warm_up_ms: f64,
    warm_up: u32,
    runs: usize,
    samples_ms: Vec<f64>,
    peak: Peak<'a>,
}

impl<'a> Stopwatch<'a> {
    /// A stopwatch for a case that began at `began` by loading the network.
    fn new(case: &Case, device: &'a Device, began: Instant) -> Self {
        Self {
            began,
            warm_up_ms: 0.0,
            warm_up: case.workload.warm_up(),
            runs: case.runs as usize,
            samples_ms: Vec::new(),
            peak: Peak::new(device),
        }
    }

    fn is_running(&self) -> bool {
        self.samples_ms.len() < self.runs
    }

    fn time<T, E>(&mut self, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let result = run()?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        self.peak.sample();
        match self.warm_up.checked_sub(1) {
            Some(left) => {
                self.warm_up = left;
                self.warm_up_ms = self.began.elapsed().as_secs_f64() * 1e3;
            }
            None => self.samples_ms.push(milliseconds),
        }
        Ok(result)
    }

    fn stop(self, results: Results) -> Timed {
        let Self { warm_up_ms, samples_ms, peak, .. } = self;
        Timed { warm_up_ms, peak_memory_bytes: peak.bytes(), samples_ms, results }
    }
}
