//! The engine thread: owns the loaded models, batches the requests for each of them, runs the batches and sends the results.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Classification, Classifier, EngineConfig, EngineError, Timing, admission::ImagePermit, classifier::ImageOutput,
    model_pool::ModelPool,
};
use crate::{
    domain::ModelId,
    imaging::{GreyImage, resize_square},
    metrics::{Outcome, Predictions, Stage},
    nn::{self, NnError},
};

/// Maximum number of deferred requests. Beyond it a new one evicts the oldest.
const MAX_DEFERRED: usize = 32;

/// Command from an engine handle.
pub(super) enum Command {
    /// Adds a model that is already loaded and warmed up, so that predictions do not wait for that.
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
    /// Classifies once the engine is idle.
    ClassifyDeferred(Request),
}

/// Request to classify one image.
pub(super) struct Request {
    /// The model to use; `None`: the one that serves when the batch is run.
    pub(super) model: Option<ModelId>,
    /// The decoded image, resized again if the serving model has changed to another input size.
    pub(super) original: Arc<GreyImage>,
    /// The image, resized for the model that served when the request arrived.
    pub(super) resized: GreyImage,
    /// True if a class activation map is requested.
    pub(super) explain: bool,
    pub(super) queued: Instant,
    pub(super) reply: oneshot::Sender<Result<Classification, EngineError>>,
    /// Held until the result is sent. `None` for deferred requests, for which the trainer must not wait.
    pub(super) _permit: Option<ImagePermit>,
}

impl Request {
    /// Sends the result. The permit is released first, because the client may send its next image as soon as it has the result.
    fn respond(self, result: Result<Classification, EngineError>) {
        drop(self._permit);
        // Fails if the client has hung up; nothing to do then.
        drop(self.reply.send(result));
    }
}

/// State of the engine thread.
pub(super) struct EngineThread {
    config: EngineConfig,
    models: ModelPool,
    metrics: Predictions,
    inbox: mpsc::Receiver<Command>,
    /// Commands received while a batch was collected and not part of it, in order of arrival.
    pending: VecDeque<Command>,
    deferred: VecDeque<Request>,
}

impl EngineThread {
    pub(super) fn new(
        config: EngineConfig,
        models: ModelPool,
        metrics: Predictions,
        inbox: mpsc::Receiver<Command>,
    ) -> Self {
        Self { config, models, metrics, inbox, pending: VecDeque::new(), deferred: VecDeque::new() }
    }

    /// Handles commands until the last engine handle is dropped.
    pub(super) fn run(mut self) {
        while let Some(command) = self.next() {
            match command {
                Command::Install { classifier, serve, reply } => {
                    let installed = self.models.install(*classifier, serve);
                    self.metrics.models_loaded(self.models.count());
                    // The switch remains, even if the caller has disconnected.
                    drop(reply.send(installed));
                }
                Command::Unload { id, reply } => {
                    self.models.unload(id);
                    self.metrics.models_loaded(self.models.count());
                    reply.send(()).ok();
                }
                Command::Classify(first) => {
                    let model = self.models.resolve(first.model);
                    let batch = self.collect_batch(model, first);
                    self.run_batch(model, batch);
                }
                Command::ClassifyDeferred(request) => self.defer(request),
            }
        }
    }

    /// The next command. Runs deferred requests while there is none; returns `None` once the last handle is dropped.
    fn next(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.pending.pop_front().or_else(|| self.inbox.try_recv().ok()) {
                return Some(command);
            }
            let Some(request) = self.deferred.pop_front() else { return self.inbox.recv().ok() };
            let started = Instant::now();
            self.run_deferred(request);
            // No client waits for a deferred request, but training was paused for it: training gets as long before the next one.
            if nn::is_training()
                && let Some(command) = self.pause(started.elapsed())
            {
                return Some(command);
            }
        }
    }

    fn defer(&mut self, request: Request) {
        self.deferred.push_back(request);
        if self.deferred.len() > MAX_DEFERRED {
            self.deferred.pop_front();
        }
    }

    /// Sleeps for `time`, or until a command that cannot be deferred arrives, which is returned.
    fn pause(&mut self, time: Duration) -> Option<Command> {
        let end = Instant::now() + time;
        loop {
            match self.inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Command::ClassifyDeferred(request)) => self.defer(request),
                other => return other.ok(),
            }
        }
    }

    /// Collects a batch of requests for `model`. A single request runs immediately; once there are two, the batch waits up to
    /// `max_batch_delay_ms` for more. Requests for other models stay pending. Any other command ends the batch, because requests that arrive
    /// after a model switch must see the new model.
    fn collect_batch(&mut self, model: Option<ModelId>, first: Request) -> Vec<Request> {
        let mut batch = vec![first];
        self.take_pending(model, &mut batch);
        let deadline = Instant::now() + Duration::from_millis(self.config.max_batch_delay_ms);
        while batch.len() < self.config.max_batch_size && self.pending.iter().all(is_prediction) {
            let next = match self.inbox.try_recv() {
                Ok(command) => Some(command),
                Err(_) if batch.len() == 1 || !self.pending.is_empty() => None,
                Err(_) => self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
            };
            match next {
                Some(Command::Classify(request)) if self.models.resolve(request.model) == model => batch.push(request),
                Some(other) => self.pending.push_back(other),
                None => break,
            }
        }
        batch
    }

    /// Moves pending requests for `model` into the batch, up to the first command that is not a prediction.
    fn take_pending(&mut self, model: Option<ModelId>, batch: &mut Vec<Request>) {
        let mut remaining = VecDeque::with_capacity(self.pending.len());
        let mut open = true;
        for command in self.pending.drain(..) {
            open &= is_prediction(&command);
            match command {
                Command::Classify(request)
                    if open
                        && batch.len() < self.config.max_batch_size
                        && self.models.resolve(request.model) == model =>
                {
                    batch.push(request);
                }
                other => remaining.push_back(other),
            }
        }
        self.pending = remaining;
    }

    /// Runs a batch with one model and sends each request its result.
    fn run_batch(&mut self, model: Option<ModelId>, mut batch: Vec<Request>) {
        let metrics = &self.metrics;
        // Requests of clients that have hung up are not computed.
        batch.retain(|request| {
            let is_open = !request.reply.is_closed();
            if !is_open {
                metrics.ended(Outcome::Abandoned);
            }
            is_open
        });
        if batch.is_empty() {
            return;
        }
        let Some(classifier) = model.and_then(|id| self.models.touch(id)) else {
            for request in batch {
                metrics.ended(Outcome::Failed);
                let error = request.model.map_or(EngineError::NoModel, EngineError::NotLoaded);
                request.respond(Err(error));
            }
            return;
        };
        let started = Instant::now();
        let outcome = classify(classifier, &mut batch);
        let inference = started.elapsed();
        metrics.batch(batch.len());
        metrics.stage(Stage::Inference, inference);
        let mut results = outcome.map(Vec::into_iter).map_err(|error| error.to_string());
        for request in batch {
            let queue = started.saturating_duration_since(request.queued);
            metrics.stage(Stage::Queue, queue);
            let output = match &mut results {
                Ok(rows) => {
                    rows.next().ok_or_else(|| NnError::Device("the network returned fewer results than images".into()))
                }
                Err(cause) => Err(NnError::Device(cause.clone())),
            };
            let output = output.map_err(EngineError::Failed);
            let result = output.and_then(|output| classification(classifier, &request, output, queue, inference));
            metrics.ended(if result.is_ok() { Outcome::Answered } else { Outcome::Failed });
            report_if_not_finite(metrics, &result);
            request.respond(result);
        }
    }

    /// Runs a deferred request in a batch of its own, so that a prediction that arrives now waits for one image at most. It does not count
    /// in the prediction metrics.
    fn run_deferred(&mut self, request: Request) {
        let Some(classifier) = request.model.and_then(|id| self.models.touch(id)) else { return };
        if request.reply.is_closed() {
            return;
        }
        let started = Instant::now();
        let mut batch = [request];
        let outcome = classify(classifier, &mut batch);
        let [request] = batch;
        let queue = started.saturating_duration_since(request.queued);
        let output = outcome.and_then(|rows| {
            rows.into_iter().next().ok_or_else(|| NnError::Device("the network returned no result for an image".into()))
        });
        let inference = started.elapsed();
        let output = output.map_err(EngineError::Failed);
        let result = output.and_then(|output| classification(classifier, &request, output, queue, inference));
        report_if_not_finite(&self.metrics, &result);
        request.respond(result);
    }
}

fn is_prediction(command: &Command) -> bool {
    matches!(command, Command::Classify(_) | Command::ClassifyDeferred(_))
}

/// Counts and logs a result that is not finite. The self-test of a model finds weights that overflow for any image; these overflow for
/// this one.
fn report_if_not_finite(metrics: &Predictions, result: &Result<Classification, EngineError>) {
    if let Err(EngineError::NotFinite(model)) = result {
        metrics.not_finite();
        tracing::error!(%model, "the network computed a number that is not finite: no prediction");
    }
}

/// The result of a request.
///
/// # Errors
/// `NotFinite` if the probabilities are not finite, or the activation map that the request needs.
fn classification(
    classifier: &Classifier,
    request: &Request,
    ImageOutput { probabilities, activation }: ImageOutput,
    queue: Duration,
    inference: Duration,
) -> Result<Classification, EngineError> {
    let (queue_ms, inference_ms) = (milliseconds(queue), milliseconds(inference));
    let not_finite = || EngineError::NotFinite(classifier.id());
    Ok(Classification {
        probabilities: probabilities.ok_or_else(not_finite)?,
        activation: if request.explain { Some(activation.ok_or_else(not_finite)?) } else { None },
        model: classifier.id(),
        spec: Arc::clone(classifier.spec()),
        timing: Timing { queue_ms, preprocess_ms: 0.0, inference_ms },
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs the network on a batch. Computes class activation maps for all images if any request of the batch needs one.
fn classify(classifier: &Classifier, batch: &mut [Request]) -> Result<Vec<ImageOutput>, NnError> {
    let side = classifier.spec().image_size;
    for request in batch.iter_mut().filter(|request| request.resized.width != side) {
        request.resized = resize_square(&request.original, side);
    }
    let images: Vec<&[u8]> = batch.iter().map(|request| request.resized.pixels.as_slice()).collect();
    classifier.outputs(&images, batch.iter().any(|request| request.explain))
}

#[cfg(test)]
mod tests;
