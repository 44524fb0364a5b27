//! The thread that owns the model: takes what waits as one batch, runs it, answers.

use std::{
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use burn::tensor::Device;
use tokio::sync::oneshot;

use super::{Classification, Classifier, EngineConfig, EngineError, Timing, admission::Place, engine::Current};
use crate::{
    domain::{ActivationMap, ModelId},
    imaging::{GreyImage, resize_square},
    metrics::{Outcome, Predictions, Stage},
    nn::NnError,
};

/// What a handle asks for.
pub(super) enum Command {
    Load { id: ModelId, bytes: Vec<u8>, reply: oneshot::Sender<Result<(), NnError>> },
    Unload { id: ModelId, reply: oneshot::Sender<()> },
    Classify(Request),
}

/// One image that waits for its answer.
pub(super) struct Request {
    /// As decoded; resized again when the model changed its input size since.
    pub(super) original: Arc<GreyImage>,
    /// Resized for the model that served when the request came in.
    pub(super) square: GreyImage,
    /// Whether what moved the score is wanted, too.
    pub(super) explain: bool,
    pub(super) queued: Instant,
    pub(super) reply: oneshot::Sender<Result<Classification, EngineError>>,
    /// Held until the answer is out.
    pub(super) _place: Place,
}

/// What the thread works with.
pub(super) struct Owner {
    pub(super) config: EngineConfig,
    pub(super) device: Device,
    /// Told which model serves.
    pub(super) current: Current,
    pub(super) metrics: Predictions,
}

impl Owner {
    /// Serves until the last handle is gone.
    pub(super) fn run(self, inbox: &mpsc::Receiver<Command>) {
        let mut classifier: Option<Classifier> = None;
        let mut next = inbox.recv().ok();
        while let Some(command) = next.take() {
            match command {
                Command::Load { id, bytes, reply } => {
                    let loaded = Classifier::load(id, &bytes, &self.device, self.config.max_batch_size);
                    self.metrics.model_load(loaded.is_ok());
                    let loaded = loaded.map(|fresh| self.switch(&mut classifier, fresh));
                    // A requester that went away does not undo the switch.
                    drop(reply.send(loaded));
                }
                Command::Unload { id, reply } => {
                    if classifier.as_ref().is_some_and(|classifier| classifier.id() == id) {
                        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
                        classifier = None;
                    }
                    // As above.
                    reply.send(()).ok();
                }
                Command::Classify(first) => {
                    let batch;
                    (batch, next) = gather(inbox, first, &self.config);
                    self.answer(classifier.as_ref(), batch);
                }
            }
            next = next.or_else(|| inbox.recv().ok());
        }
    }

    fn switch(&self, slot: &mut Option<Classifier>, fresh: Classifier) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some((fresh.id(), Arc::clone(fresh.spec())));
        *slot = Some(fresh);
    }

    fn answer(&self, classifier: Option<&Classifier>, mut batch: Vec<Request>) {
        let metrics = &self.metrics;
        // A client that hung up is dropped before its work is done.
        batch.retain(|request| {
            let waits = !request.reply.is_closed();
            if !waits {
                metrics.ended(Outcome::Abandoned);
            }
            waits
        });
        if batch.is_empty() {
            return;
        }
        let Some(classifier) = classifier else {
            for request in batch {
                metrics.ended(Outcome::Failed);
                drop(request.reply.send(Err(EngineError::NoModel)));
            }
            return;
        };
        let started = Instant::now();
        let outcome = classify(classifier, &mut batch);
        let inference = started.elapsed();
        metrics.batch(batch.len());
        metrics.stage(Stage::Inference, inference);
        let mut answers = outcome.map(Vec::into_iter).map_err(|error| error.to_string());
        for request in batch {
            let queue = started.saturating_duration_since(request.queued);
            metrics.stage(Stage::Queue, queue);
            let timing =
                Timing { queue_ms: milliseconds(queue), preprocess_ms: 0.0, inference_ms: milliseconds(inference) };
            let result = match &mut answers {
                Ok(rows) => rows.next().ok_or_else(|| NnError::Device("fewer answers than images".into())),
                Err(cause) => Err(NnError::Device(cause.clone())),
            };
            metrics.ended(if result.is_ok() { Outcome::Answered } else { Outcome::Failed });
            let result = result.map_err(EngineError::Model).map(|(probabilities, activation)| Classification {
                probabilities,
                activation: activation.filter(|_| request.explain),
                model: classifier.id(),
                spec: Arc::clone(classifier.spec()),
                timing,
            });
            drop(request.reply.send(result));
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The first request goes at once when it is alone; where others wait already, the batch waits a moment for more.
/// A command that is not a prediction ends the batch and is handed back.
fn gather(inbox: &mpsc::Receiver<Command>, first: Request, config: &EngineConfig) -> (Vec<Request>, Option<Command>) {
    let mut batch = vec![first];
    let deadline = Instant::now() + Duration::from_millis(config.max_batch_delay_ms);
    while batch.len() < config.max_batch_size {
        let waiting = match inbox.try_recv() {
            Ok(command) => Some(command),
            Err(_) if batch.len() == 1 => None,
            Err(_) => inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        };
        match waiting {
            Some(Command::Classify(request)) => batch.push(request),
            other => return (batch, other),
        }
    }
    (batch, None)
}

/// The probabilities of an image and, where it shall be explained, what moved them.
type Classified = (Vec<f32>, Option<ActivationMap>);

/// Probabilities of each image, and what moved them if anybody in the batch wants to know.
fn classify(classifier: &Classifier, batch: &mut [Request]) -> Result<Vec<Classified>, NnError> {
    let side = classifier.spec().image_size;
    for request in batch.iter_mut().filter(|request| request.square.width != side) {
        request.square = resize_square(&request.original, side);
    }
    let images: Vec<&[u8]> = batch.iter().map(|request| request.square.pixels.as_slice()).collect();
    if batch.iter().any(|request| request.explain) {
        let (probabilities, maps) = classifier.explained(&images)?;
        Ok(probabilities.into_iter().zip(maps.into_iter().map(Some)).collect())
    } else {
        Ok(classifier.probabilities(&images)?.into_iter().map(|probabilities| (probabilities, None)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
        inference::admission::Gate,
        metrics::Metrics,
        nn::Network,
    };

    /// Far more than a test takes.
    const LONG: u64 = 60_000;

    type Answer = oneshot::Receiver<Result<Classification, EngineError>>;

    fn config(max_batch_size: usize) -> EngineConfig {
        EngineConfig { max_queue: 16, max_batch_size, max_batch_delay_ms: LONG }
    }

    fn request(gate: &Arc<Gate>) -> (Request, Answer) {
        let square = GreyImage { width: 32, height: 32, pixels: vec![7; 32 * 32] };
        let (reply, answer) = oneshot::channel();
        let place = gate.enter().expect("a place");
        let original = Arc::new(square.clone());
        (Request { original, square, explain: false, queued: Instant::now(), reply, _place: place }, answer)
    }

    fn model() -> Vec<u8> {
        let spec = ModelSpec {
            architecture: Architecture::SimpleCnn,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 32,
            normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
            dropout: 0.5,
        };
        Network::random(&spec, 1, &Device::flex()).to_bytes(&spec)
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_computed() {
        let (commands, inbox) = mpsc::channel();
        let (gate, metrics) = (Gate::new(16), Predictions::new(16));
        let (loaded, _) = oneshot::channel();
        commands.send(Command::Load { id: ModelId::new(), bytes: model(), reply: loaded }).unwrap();
        let mut waiting = Vec::new();
        for image in 0..8 {
            let (request, answer) = request(&gate);
            commands.send(Command::Classify(request)).unwrap();
            // The others hung up.
            if image % 4 == 1 {
                waiting.push(answer);
            }
        }
        drop(commands);
        let owner =
            Owner { config: config(1), device: Device::flex(), current: Current::default(), metrics: metrics.clone() };
        owner.run(&inbox);
        assert!(waiting.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
        assert_eq!((metrics.count(Outcome::Abandoned), metrics.count(Outcome::Answered)), (6, 2));
        let measured = Metrics::new(metrics).text().unwrap();
        assert!(measured.contains("thorax_prediction_batch_size_count 2\n"), "passes of the network: {measured}");
        assert!((0..16).all(|_| gate.enter().map(std::mem::forget).is_some()), "places are given back");
    }

    #[test]
    fn the_first_to_come_goes_at_once_and_company_is_waited_for() {
        let gate = Gate::new(16);
        let (commands, inbox) = mpsc::channel();
        let started = Instant::now();
        let (batch, next) = gather(&inbox, request(&gate).0, &config(3));
        assert!(batch.len() == 1 && next.is_none() && started.elapsed() < Duration::from_millis(LONG / 2));
        // Two are there, and the third comes while they wait.
        commands.send(Command::Classify(request(&gate).0)).unwrap();
        let late = std::thread::spawn({
            let request = request(&gate).0;
            move || commands.send(Command::Classify(request)).unwrap()
        });
        assert_eq!(gather(&inbox, request(&gate).0, &config(3)).0.len(), 3);
        late.join().unwrap();
        assert!(started.elapsed() < Duration::from_millis(LONG / 2));
    }
}
