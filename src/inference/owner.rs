//! The thread that owns the models: takes what waits for one of them as one batch, runs it, answers.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Classification, Classifier, EngineConfig, EngineError, Timing, admission::Place, loaded::Models};
use crate::{
    domain::{ActivationMap, ModelId},
    imaging::{GreyImage, resize_square},
    metrics::{Outcome, Predictions, Stage},
    nn::{self, NnError},
};

/// Images that may wait for an idle moment; who comes then pushes out who has waited longest.
const MOST_LATER: usize = 32;

/// What a handle asks for.
pub(super) enum Command {
    /// Loaded and warm already, so that nobody waits for that.
    Install {
        classifier: Box<Classifier>,
        serve: bool,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    Unload {
        id: ModelId,
        reply: oneshot::Sender<()>,
    },
    Classify(Request),
    /// When nothing else is to be done.
    Later(Request),
}

/// One image that waits for its answer.
pub(super) struct Request {
    /// Who shall answer; `None`: whoever serves when its turn comes.
    pub(super) model: Option<ModelId>,
    /// As decoded; resized again when the model changed its input size since.
    pub(super) original: Arc<GreyImage>,
    /// Resized for the model that served when the request came in.
    pub(super) square: GreyImage,
    /// Whether what moved the score is wanted, too.
    pub(super) explain: bool,
    pub(super) queued: Instant,
    pub(super) reply: oneshot::Sender<Result<Classification, EngineError>>,
    /// Held until the answer is there; who waits for an idle moment has none, for nobody is to wait for it.
    pub(super) _place: Option<Place>,
}

impl Request {
    /// Gives the place back first: whoever learns of the answer may come with the next image at once.
    fn answer(self, answer: Result<Classification, EngineError>) {
        drop(self._place);
        // A client that hung up meanwhile does not want it.
        drop(self.reply.send(answer));
    }
}

/// What the thread works with.
pub(super) struct Owner {
    config: EngineConfig,
    models: Models,
    metrics: Predictions,
    inbox: mpsc::Receiver<Command>,
    /// What was taken out of the inbox before its turn, in the order it came.
    waiting: VecDeque<Command>,
    later: VecDeque<Request>,
}

impl Owner {
    pub(super) fn new(
        config: EngineConfig,
        models: Models,
        metrics: Predictions,
        inbox: mpsc::Receiver<Command>,
    ) -> Self {
        Self { config, models, metrics, inbox, waiting: VecDeque::new(), later: VecDeque::new() }
    }

    /// Serves until the last handle is gone.
    pub(super) fn run(mut self) {
        while let Some(command) = self.next() {
            match command {
                Command::Install { classifier, serve, reply } => {
                    let installed = self.models.install(*classifier, serve);
                    self.metrics.models_loaded(self.models.count());
                    // A requester that went away does not undo the switch.
                    drop(reply.send(installed));
                }
                Command::Unload { id, reply } => {
                    self.models.unload(id);
                    self.metrics.models_loaded(self.models.count());
                    // As above.
                    reply.send(()).ok();
                }
                Command::Classify(first) => {
                    let model = self.models.meant(first.model);
                    let batch = self.gather(model, first);
                    self.answer(model, batch);
                }
                Command::Later(request) => self.put_off(request),
            }
        }
    }

    /// What is to be done next; while there is nothing, what was put off.
    fn next(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.waiting.pop_front().or_else(|| self.inbox.try_recv().ok()) {
                return Some(command);
            }
            let Some(request) = self.later.pop_front() else { return self.inbox.recv().ok() };
            let begun = Instant::now();
            self.answer_later(request);
            // Nobody waits for that, and training stood still for it: it gets as long before the next one.
            if nn::is_training()
                && let Some(command) = self.rest(begun.elapsed())
            {
                return Some(command);
            }
        }
    }

    fn put_off(&mut self, request: Request) {
        self.later.push_back(request);
        if self.later.len() > MOST_LATER {
            self.later.pop_front();
        }
    }

    /// Does nothing for that long, or until somebody wants something at once.
    fn rest(&mut self, time: Duration) -> Option<Command> {
        let end = Instant::now() + time;
        loop {
            match self.inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Command::Later(request)) => self.put_off(request),
                other => return other.ok(),
            }
        }
    }

    /// The first request goes at once when it is alone; where others wait already, the batch waits a moment for more. Who wants another
    /// model comes afterwards. A command that is not a prediction ends the batch.
    fn gather(&mut self, model: Option<ModelId>, first: Request) -> Vec<Request> {
        let mut batch = vec![first];
        self.take_waiting(model, &mut batch);
        let deadline = Instant::now() + Duration::from_millis(self.config.max_batch_delay_ms);
        while batch.len() < self.config.max_batch_size && self.waiting.iter().all(is_prediction) {
            let next = match self.inbox.try_recv() {
                Ok(command) => Some(command),
                Err(_) if batch.len() == 1 || !self.waiting.is_empty() => None,
                Err(_) => self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
            };
            match next {
                Some(Command::Classify(request)) if self.models.meant(request.model) == model => batch.push(request),
                Some(other) => self.waiting.push_back(other),
                None => break,
            }
        }
        batch
    }

    /// Of those that were passed over before, as many as come before a command of another kind.
    fn take_waiting(&mut self, model: Option<ModelId>, batch: &mut Vec<Request>) {
        let mut passed = VecDeque::with_capacity(self.waiting.len());
        let mut open = true;
        for command in self.waiting.drain(..) {
            open &= is_prediction(&command);
            match command {
                Command::Classify(request)
                    if open
                        && batch.len() < self.config.max_batch_size
                        && self.models.meant(request.model) == model =>
                {
                    batch.push(request);
                }
                other => passed.push_back(other),
            }
        }
        self.waiting = passed;
    }

    fn answer(&mut self, model: Option<ModelId>, mut batch: Vec<Request>) {
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
        let Some(classifier) = model.and_then(|id| self.models.take_up(id)) else {
            for request in batch {
                metrics.ended(Outcome::Failed);
                let error = request.model.map_or(EngineError::NoModel, EngineError::NotLoaded);
                request.answer(Err(error));
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
            let answer = match &mut answers {
                Ok(rows) => rows.next().ok_or_else(|| NnError::Device("fewer answers than images".into())),
                Err(cause) => Err(NnError::Device(cause.clone())),
            };
            metrics.ended(if answer.is_ok() { Outcome::Answered } else { Outcome::Failed });
            let answer = answer.map_err(EngineError::Model);
            let answer = answer.map(|answer| classification(classifier, &request, answer, queue, inference));
            request.answer(answer);
        }
    }

    /// By itself, so that who comes now waits for one image at most. Not counted among the predictions.
    fn answer_later(&mut self, request: Request) {
        let Some(classifier) = request.model.and_then(|id| self.models.take_up(id)) else { return };
        if request.reply.is_closed() {
            return;
        }
        let started = Instant::now();
        let mut batch = [request];
        let outcome = classify(classifier, &mut batch);
        let [request] = batch;
        let queue = started.saturating_duration_since(request.queued);
        let answer = outcome
            .and_then(|rows| rows.into_iter().next().ok_or_else(|| NnError::Device("no answer to an image".into())));
        let inference = started.elapsed();
        let answer = answer.map(|answer| classification(classifier, &request, answer, queue, inference));
        request.answer(answer.map_err(EngineError::Model));
    }
}

fn is_prediction(command: &Command) -> bool {
    matches!(command, Command::Classify(_) | Command::Later(_))
}

fn classification(
    classifier: &Classifier,
    request: &Request,
    (probabilities, activation): Classified,
    queue: Duration,
    inference: Duration,
) -> Classification {
    let (queue_ms, inference_ms) = (milliseconds(queue), milliseconds(inference));
    Classification {
        probabilities,
        activation: activation.filter(|_| request.explain),
        model: classifier.id(),
        spec: Arc::clone(classifier.spec()),
        timing: Timing { queue_ms, preprocess_ms: 0.0, inference_ms },
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
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
mod tests;
