//! Batching, several loaded models, and deferred requests.

use burn::tensor::Device;

use super::*;
use crate::{
    inference::{
        admission::Gate,
        fixtures,
        model_pool::{ModelPool, PoolView},
    },
    metrics::Metrics,
};

/// Milliseconds; far longer than a test takes.
const LONG: u64 = 60_000;

type Reply = oneshot::Receiver<Result<Classification, EngineError>>;

/// An engine thread that is not started yet, with the parts of a handle to it.
struct Bench {
    engine: EngineThread,
    commands: mpsc::Sender<Command>,
    gate: Arc<Gate>,
    metrics: Predictions,
}

impl Bench {
    fn new(max_batch_size: usize) -> Self {
        let config = EngineConfig {
            max_concurrent_requests: 16,
            max_batch_size,
            max_batch_delay_ms: LONG,
            max_loaded_models: 2,
        };
        let ((commands, inbox), metrics) = (mpsc::channel(), Predictions::new(16));
        let models = ModelPool::new(config.max_loaded_models, PoolView::default());
        let engine = EngineThread::new(config, models, metrics.clone(), inbox);
        Self { engine, commands, gate: Gate::new(16), metrics }
    }

    fn load(&self, serve: bool) -> ModelId {
        let id = ModelId::new();
        let classifier = Classifier::load(id, &fixtures::model(1), &Device::flex(), 1).unwrap();
        let (reply, _) = oneshot::channel();
        self.commands.send(Command::Install { classifier: Box::new(classifier), serve, reply }).unwrap();
        id
    }

    fn request(&self, model: Option<ModelId>) -> (Request, Reply) {
        let resized = GreyImage { width: 32, height: 32, pixels: vec![7; 32 * 32] };
        let (reply, result) = oneshot::channel();
        let (original, _permit) = (Arc::new(resized.clone()), self.gate.try_enter());
        assert!(_permit.is_some());
        (Request { model, original, resized, explain: false, queued: Instant::now(), reply, _permit }, result)
    }

    fn submit(&self, model: Option<ModelId>) -> Reply {
        let (request, result) = self.request(model);
        self.commands.send(Command::Classify(request)).unwrap();
        result
    }

    fn run(self) -> Predictions {
        drop(self.commands);
        self.engine.run();
        assert!((0..16).all(|_| self.gate.try_enter().map(std::mem::forget).is_some()), "all permits are released");
        self.metrics
    }
}

#[test]
fn requests_of_disconnected_clients_are_not_computed() {
    let bench = Bench::new(1);
    bench.load(true);
    // Six of eight clients hang up.
    let connected: Vec<Reply> =
        (0..8).filter_map(|image| Some(bench.submit(None)).filter(|_| image % 4 == 1)).collect();
    let metrics = bench.run();
    assert!(connected.into_iter().all(|mut reply| reply.try_recv().unwrap().is_ok()));
    assert_eq!((metrics.count(Outcome::Abandoned), metrics.count(Outcome::Answered)), (6, 2));
    let measured = Metrics::new(metrics).text().unwrap();
    assert!(measured.contains("thorax_prediction_batch_size_count 2\n"), "number of batches: {measured}");
}

#[test]
fn a_result_that_is_not_finite_fails_its_request_alone_and_is_counted() {
    let bench = Bench::new(3);
    let (reply, _) = oneshot::channel();
    let classifier = Box::new(fixtures::overflowing_on_white());
    let model = classifier.id();
    bench.commands.send(Command::Install { classifier, serve: true, reply }).unwrap();
    let replies = [(0, false), (255, false), (0, true), (255, true)].map(|(grey, deferred)| {
        let (mut request, reply) = bench.request(Some(model));
        request.resized.pixels.fill(grey);
        if deferred {
            request._permit = None;
        }
        let command = if deferred { Command::ClassifyDeferred(request) } else { Command::Classify(request) };
        bench.commands.send(command).unwrap();
        reply
    });
    let metrics = bench.run();
    let failed = replies.map(|mut reply| match reply.try_recv().unwrap() {
        Ok(result) => !result.probabilities.iter().all(|probability| probability.is_finite()),
        Err(error) => matches!(error, EngineError::NotFinite(id) if id == model),
    });
    assert_eq!(failed, [false, true, false, true]);
    assert_eq!((metrics.count(Outcome::Answered), metrics.count(Outcome::Failed)), (1, 1));
    let measured = Metrics::new(metrics).text().unwrap();
    assert!(measured.contains("thorax_predictions_not_finite_total 2\n"), "{measured}");
}

#[test]
fn single_request_runs_immediately_and_a_partial_batch_waits_for_more() {
    let mut bench = Bench::new(3);
    let started = Instant::now();
    let first = bench.request(None).0;
    let batch = bench.engine.collect_batch(None, first);
    assert!(batch.len() == 1 && started.elapsed() < Duration::from_millis(LONG / 2));
    // Two requests are in the batch, and the third arrives during the batching delay.
    let _second = bench.submit(None);
    let (third, _) = bench.request(None);
    let late = std::thread::spawn({
        let commands = bench.commands.clone();
        move || commands.send(Command::Classify(third)).unwrap()
    });
    let first = bench.request(None).0;
    assert_eq!(bench.engine.collect_batch(None, first).len(), 3);
    late.join().unwrap();
    assert!(started.elapsed() < Duration::from_millis(LONG / 2));
}

#[test]
fn each_model_gets_a_batch_of_the_requests_for_it() {
    let bench = Bench::new(8);
    let (one, other, absent) = (bench.load(true), bench.load(false), ModelId::new());
    let requested = [None, Some(other), Some(one), Some(absent), Some(other), None];
    let replies = requested.map(|model| bench.submit(model));
    let metrics = bench.run();
    let results = replies.map(|mut reply| reply.try_recv().unwrap());
    for (requested, result) in requested.iter().zip(&results) {
        match result {
            Ok(result) => assert_eq!(result.model, requested.unwrap_or(one)),
            Err(error) => assert!(matches!(error, EngineError::NotLoaded(id) if *id == absent), "{error}"),
        }
    }
    let measured = Metrics::new(metrics).text().unwrap();
    assert!(measured.contains("thorax_prediction_batch_size_count 2\n"), "a batch for each loaded model: {measured}");
    assert!(measured.contains("thorax_models_loaded 2\n"), "{measured}");
}

#[test]
fn requests_from_before_a_model_switch_use_the_previous_model() {
    let bench = Bench::new(8);
    let one = bench.load(true);
    let mut before = bench.submit(None);
    let other = bench.load(true);
    let mut after = bench.submit(None);
    bench.run();
    assert_eq!((before.try_recv().unwrap().unwrap().model, after.try_recv().unwrap().unwrap().model), (one, other));
}

#[test]
fn deferred_requests_run_last_and_delay_no_prediction() {
    let bench = Bench::new(8);
    let (one, other) = (bench.load(true), bench.load(false));
    let mut deferred: Vec<Reply> = Vec::new();
    for _ in 0..=MAX_DEFERRED {
        let (mut request, reply) = bench.request(Some(other));
        request._permit = None;
        bench.commands.send(Command::ClassifyDeferred(request)).unwrap();
        deferred.push(reply);
    }
    let mut immediate = bench.submit(Some(one));
    let metrics = bench.run();
    let immediate = immediate.try_recv().unwrap().unwrap();
    assert!(deferred.remove(0).try_recv().is_err(), "the oldest was evicted");
    for mut reply in deferred {
        let result = reply.try_recv().unwrap().unwrap();
        assert!(result.model == other && result.timing.queue_ms >= immediate.timing.queue_ms);
    }
    assert_eq!(metrics.count(Outcome::Answered), 1, "deferred requests are not counted");
}

#[test]
fn pause_is_ended_by_a_prediction_but_not_by_a_deferred_request() {
    let mut bench = Bench::new(8);
    let time = Duration::from_millis(30);
    let (request, _reply) = bench.request(None);
    bench.commands.send(Command::ClassifyDeferred(request)).unwrap();
    let started = Instant::now();
    assert!(bench.engine.pause(time).is_none() && started.elapsed() >= time);
    assert_eq!(bench.engine.deferred.len(), 1, "deferred, not lost");
    let _reply = bench.submit(None);
    assert!(matches!(bench.engine.pause(Duration::from_millis(LONG)), Some(Command::Classify(_))));
}
