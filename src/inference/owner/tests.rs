//! Batches, models side by side, and what can wait.

use burn::tensor::Device;

use super::*;
use crate::{
    inference::{
        admission::Gate,
        fixtures,
        loaded::{Models, Shelf},
    },
    metrics::Metrics,
};

/// Far more than a test takes.
const LONG: u64 = 60_000;

type Answer = oneshot::Receiver<Result<Classification, EngineError>>;

/// The engine's thread before it runs, and what a handle has of it.
struct Bench {
    owner: Owner,
    commands: mpsc::Sender<Command>,
    gate: Arc<Gate>,
    metrics: Predictions,
}

impl Bench {
    fn new(max_batch_size: usize) -> Self {
        let config = EngineConfig { max_queue: 16, max_batch_size, max_batch_delay_ms: LONG, max_loaded_models: 2 };
        let ((commands, inbox), metrics) = (mpsc::channel(), Predictions::new(16));
        let models = Models::new(config.max_loaded_models, Shelf::default());
        let owner = Owner::new(config, models, metrics.clone(), inbox);
        Self { owner, commands, gate: Gate::new(16), metrics }
    }

    fn load(&self, serve: bool) -> ModelId {
        let id = ModelId::new();
        let classifier = Classifier::load(id, &fixtures::model(1), &Device::flex(), 1).unwrap();
        let (reply, _) = oneshot::channel();
        self.commands.send(Command::Install { classifier: Box::new(classifier), serve, reply }).unwrap();
        id
    }

    fn request(&self, model: Option<ModelId>) -> (Request, Answer) {
        let square = GreyImage { width: 32, height: 32, pixels: vec![7; 32 * 32] };
        let (reply, answer) = oneshot::channel();
        let (original, _place) = (Arc::new(square.clone()), self.gate.enter());
        assert!(_place.is_some());
        (Request { model, original, square, explain: false, queued: Instant::now(), reply, _place }, answer)
    }

    fn ask(&self, model: Option<ModelId>) -> Answer {
        let (request, answer) = self.request(model);
        self.commands.send(Command::Classify(request)).unwrap();
        answer
    }

    fn run(self) -> Predictions {
        drop(self.commands);
        self.owner.run();
        assert!((0..16).all(|_| self.gate.enter().map(std::mem::forget).is_some()), "places are given back");
        self.metrics
    }
}

#[test]
fn what_nobody_waits_for_any_more_is_not_computed() {
    let bench = Bench::new(1);
    bench.load(true);
    // Six of eight hung up.
    let waiting: Vec<Answer> = (0..8).filter_map(|image| Some(bench.ask(None)).filter(|_| image % 4 == 1)).collect();
    let metrics = bench.run();
    assert!(waiting.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
    assert_eq!((metrics.count(Outcome::Abandoned), metrics.count(Outcome::Answered)), (6, 2));
    let measured = Metrics::new(metrics).text().unwrap();
    assert!(measured.contains("thorax_prediction_batch_size_count 2\n"), "passes of the network: {measured}");
}

#[test]
fn the_first_to_come_goes_at_once_and_company_is_waited_for() {
    let mut bench = Bench::new(3);
    let started = Instant::now();
    let first = bench.request(None).0;
    let batch = bench.owner.gather(None, first);
    assert!(batch.len() == 1 && started.elapsed() < Duration::from_millis(LONG / 2));
    // Two are there, and the third comes while they wait.
    let _second = bench.ask(None);
    let (third, _) = bench.request(None);
    let late = std::thread::spawn({
        let commands = bench.commands.clone();
        move || commands.send(Command::Classify(third)).unwrap()
    });
    let first = bench.request(None).0;
    assert_eq!(bench.owner.gather(None, first).len(), 3);
    late.join().unwrap();
    assert!(started.elapsed() < Duration::from_millis(LONG / 2));
}

#[test]
fn each_model_answers_whom_it_was_asked_by_in_batches_of_its_own() {
    let bench = Bench::new(8);
    let (one, other, absent) = (bench.load(true), bench.load(false), ModelId::new());
    let wanted = [None, Some(other), Some(one), Some(absent), Some(other), None];
    let answers = wanted.map(|model| bench.ask(model));
    let metrics = bench.run();
    let found = answers.map(|mut answer| answer.try_recv().unwrap());
    for (wanted, found) in wanted.iter().zip(&found) {
        match found {
            Ok(found) => assert_eq!(found.model, wanted.unwrap_or(one)),
            Err(error) => assert!(matches!(error, EngineError::NotLoaded(id) if *id == absent), "{error}"),
        }
    }
    let measured = Metrics::new(metrics).text().unwrap();
    assert!(measured.contains("thorax_prediction_batch_size_count 2\n"), "a pass for each model: {measured}");
    assert!(measured.contains("thorax_models_loaded 2\n"), "{measured}");
}

#[test]
fn who_asked_before_a_switch_is_answered_by_the_model_of_before() {
    let bench = Bench::new(8);
    let one = bench.load(true);
    let mut before = bench.ask(None);
    let other = bench.load(true);
    let mut after = bench.ask(None);
    bench.run();
    assert_eq!((before.try_recv().unwrap().unwrap().model, after.try_recv().unwrap().unwrap().model), (one, other));
}

#[test]
fn what_can_wait_is_done_last_and_makes_nobody_wait() {
    let bench = Bench::new(8);
    let (one, other) = (bench.load(true), bench.load(false));
    let mut later: Vec<Answer> = Vec::new();
    for _ in 0..=MOST_LATER {
        let (mut request, answer) = bench.request(Some(other));
        request._place = None;
        bench.commands.send(Command::Later(request)).unwrap();
        later.push(answer);
    }
    let mut now = bench.ask(Some(one));
    let metrics = bench.run();
    let now = now.try_recv().unwrap().unwrap();
    assert!(later.remove(0).try_recv().is_err(), "the one that waited longest was pushed out");
    for mut answer in later {
        let answer = answer.try_recv().unwrap().unwrap();
        assert!(answer.model == other && answer.timing.queue_ms >= now.timing.queue_ms);
    }
    assert_eq!(metrics.count(Outcome::Answered), 1, "only what a client waited for is counted");
}

#[test]
fn a_rest_lasts_its_time_for_what_can_wait_and_ends_for_what_cannot() {
    let mut bench = Bench::new(8);
    let time = Duration::from_millis(30);
    let (request, _answer) = bench.request(None);
    bench.commands.send(Command::Later(request)).unwrap();
    let begun = Instant::now();
    assert!(bench.owner.rest(time).is_none() && begun.elapsed() >= time);
    assert_eq!(bench.owner.later.len(), 1, "put off and not lost");
    let _answer = bench.ask(None);
    assert!(matches!(bench.owner.rest(Duration::from_millis(LONG)), Some(Command::Classify(_))));
}
