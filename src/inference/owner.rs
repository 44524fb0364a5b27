//! The thread that owns the model: takes what waits as one batch, runs it, answers.

use std::{
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use burn::tensor::Device;
use tokio::sync::oneshot;

use super::{Classification, Classifier, EngineConfig, EngineError, Timing, admission::Place, engine::Current};
use crate::{
    domain::ModelId,
    imaging::{GreyImage, resize_square},
    nn::NnError,
};

/// What a handle asks for.
pub(super) enum Command {
    Load { id: ModelId, bytes: Vec<u8>, reply: oneshot::Sender<Result<(), NnError>> },
    Classify(Request),
}

/// One image that waits for its answer.
pub(super) struct Request {
    /// As decoded; resized again when the model changed its input size since.
    pub(super) original: Arc<GreyImage>,
    /// Resized for the model that served when the request came in.
    pub(super) square: GreyImage,
    pub(super) queued: Instant,
    pub(super) reply: oneshot::Sender<Result<Classification, EngineError>>,
    /// Held until the answer is out.
    pub(super) _place: Place,
}

/// Serves until the last handle is gone.
pub(super) fn run(inbox: &mpsc::Receiver<Command>, config: EngineConfig, device: &Device, current: &Current) {
    let mut classifier: Option<Classifier> = None;
    let mut next = inbox.recv().ok();
    while let Some(command) = next.take() {
        match command {
            Command::Load { id, bytes, reply } => {
                let loaded = Classifier::load(id, &bytes, device, config.max_batch_size);
                let loaded = loaded.map(|fresh| switch(&mut classifier, fresh, current));
                // A requester that went away does not undo the switch.
                drop(reply.send(loaded));
            }
            Command::Classify(first) => {
                let batch;
                (batch, next) = gather(inbox, first, &config);
                answer(classifier.as_ref(), batch);
            }
        }
        next = next.or_else(|| inbox.recv().ok());
    }
}

fn switch(slot: &mut Option<Classifier>, fresh: Classifier, current: &Current) {
    *current.write().unwrap_or_else(PoisonError::into_inner) = Some((fresh.id(), Arc::clone(fresh.spec())));
    *slot = Some(fresh);
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

fn answer(classifier: Option<&Classifier>, mut batch: Vec<Request>) {
    // A client that hung up is dropped before its work is done.
    batch.retain(|request| !request.reply.is_closed());
    if batch.is_empty() {
        return;
    }
    let Some(classifier) = classifier else {
        batch.into_iter().for_each(|request| drop(request.reply.send(Err(EngineError::NoModel))));
        return;
    };
    let started = Instant::now();
    let outcome = classify(classifier, &mut batch);
    let inference_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut probabilities = outcome.map(Vec::into_iter).map_err(|error| error.to_string());
    for request in batch {
        let queue_ms = started.saturating_duration_since(request.queued).as_secs_f64() * 1e3;
        let timing = Timing { queue_ms, preprocess_ms: 0.0, inference_ms };
        let result = match &mut probabilities {
            Ok(rows) => rows.next().ok_or_else(|| NnError::Device("fewer answers than images".into())),
            Err(cause) => Err(NnError::Device(cause.clone())),
        };
        let result = result.map_err(EngineError::Model).map(|probabilities| Classification {
            probabilities,
            model: classifier.id(),
            spec: Arc::clone(classifier.spec()),
            timing,
        });
        drop(request.reply.send(result));
    }
}

fn classify(classifier: &Classifier, batch: &mut [Request]) -> Result<Vec<Vec<f32>>, NnError> {
    let side = classifier.spec().image_size;
    for request in batch.iter_mut().filter(|request| request.square.width != side) {
        request.square = resize_square(&request.original, side);
    }
    let images: Vec<&[u8]> = batch.iter().map(|request| request.square.pixels.as_slice()).collect();
    classifier.probabilities(&images)
}
