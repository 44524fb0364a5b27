//! A stage: its steps at one image size, the best epoch over all of them, and that epoch's scores on every split.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Device, Tensor};

use super::{
    Session, SplitEvaluation, StageModel, TrainingError,
    batches::Place,
    features::Features,
    fit::{self, Fit, Ready},
    images::{Images, Squares},
    selection_score,
    tally::Tally,
};
use crate::{
    domain::{ModelSpec, Scope, SelectionMetric, Split, Stage, Step},
    nn::{Compiled, Network, input_tensor},
};

/// Trains a stage, gives its model to the observer and returns the network of the best epoch, in inference mode.
pub(super) fn train(
    session: &mut Session<'_>,
    number: u32,
    stage: &Stage,
    spec: ModelSpec,
    mut network: Network,
) -> Result<Network, TrainingError> {
    session.begin(Place { stage: number, step: 0, epoch: 0 }, 0)?;
    let images = Images::open(session, stage.image_size)?;
    let on = Ground { images: &images, spec: &spec };
    let mut best = Best::new(session.job.plan.selection.metric);
    for (step, position) in stage.steps.iter().zip(1..) {
        let place = Place { stage: number, step: position, epoch: 0 };
        network = match step.scope {
            Scope::Head if session.job.plan.changes_images() => {
                train_head_on_images(session, place, step, on, network, &mut best)?
            }
            Scope::Head => train_head(session, place, step, on, network, &mut best)?,
            Scope::All => train_all(session, place, step, on, network, &mut best)?,
        };
    }
    let (place, best) = best.epoch.expect("a checked plan has a step in each stage and an epoch in each step");
    let evaluations = evaluate(session, place, on, &best)?;
    let bytes = best.to_bytes(&spec);
    session.observer.stage(StageModel { stage: number, spec, bytes, evaluations })?;
    Ok(best)
}

/// What the steps of a stage stand on.
#[derive(Clone, Copy)]
struct Ground<'a> {
    images: &'a Arc<Images>,
    spec: &'a ModelSpec,
}

impl Ground<'_> {
    /// A network in inference mode, made ready for images.
    fn ready(&self, network: &Network, device: &Device) -> Ready<'static, Squares> {
        let compiled = Compiled::new(network, self.spec, device);
        Box::new(move |squares| compiled.logits(&squares.views()))
    }
}

fn train_all(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    network: Network,
    best: &mut Best,
) -> Result<Network, TrainingError> {
    let ModelSpec { image_size, normalisation, .. } = on.spec;
    let device = session.job.device.clone();
    let fit = Fit {
        place,
        step,
        side: *image_size,
        feed: &|batches| on.images.feed(batches),
        training_feed: &|changes, batches| on.images.changed_feed(changes, batches),
        forward: &|network, squares, device| {
            network.forward(input_tensor(&squares.views(), *image_size, normalisation, device))
        },
        ready: &|network| on.ready(network, &device),
    };
    fit.run(session, network, &mut |place, network, tally| best.offer(place, tally, network))
}

/// The body computes its features once; the epochs then run on the head alone.
fn train_head(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    network: Network,
    best: &mut Best,
) -> Result<Network, TrainingError> {
    let needed = [session.split(Split::Train), session.split(session.job.plan.selection.split)].concat();
    let device = session.job.device.clone();
    let compiled = Compiled::new(&network, on.spec, &device);
    let features = Features::compute(session, place, &compiled, on.images, &needed)?;
    drop(compiled);
    let fit = Fit {
        place,
        step,
        side: on.spec.image_size,
        feed: &|batches| features.feed(batches),
        training_feed: &|_unchanged, batches| features.feed(batches),
        forward: &|network, features, device| network.classify(Tensor::from_data(features, device)),
        ready: &|network| {
            let (network, device) = (network.clone(), device.clone());
            Box::new(move |features| network.classify(Tensor::from_data(features, &device)))
        },
    };
    fit.run(session, network, &mut |place, network, tally| best.offer(place, tally, network))
}

/// The head alone on images that change from epoch to epoch: the frozen body goes over each of them every time.
fn train_head_on_images(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    network: Network,
    best: &mut Best,
) -> Result<Network, TrainingError> {
    let body = Compiled::new(&network, on.spec, &session.job.device);
    let fit = Fit {
        place,
        step,
        side: on.spec.image_size,
        feed: &|batches| on.images.feed(batches),
        training_feed: &|changes, batches| on.images.changed_feed(changes, batches),
        forward: &|network, squares, _| network.classify(body.features(&squares.views()).autodiff()),
        ready: &|network| {
            let (network, body) = (network.clone(), &body);
            Box::new(move |squares| network.classify(body.features(&squares.views())))
        },
    };
    fit.run(session, network, &mut |place, network, tally| best.offer(place, tally, network))
}

/// The stage's model on every split that has images.
fn evaluate(
    session: &mut Session<'_>,
    place: Place,
    on: Ground<'_>,
    network: &Network,
) -> Result<Vec<SplitEvaluation>, TrainingError> {
    let logits = on.ready(network, &session.job.device);
    let mut evaluations = Vec::new();
    for split in Split::ALL {
        let indices = session.split(split);
        if indices.is_empty() {
            continue;
        }
        let started = Instant::now();
        let tally = fit::evaluate(session, place, &indices, &|batches| on.images.feed(batches), &logits)?;
        session.meter.forward(indices.len(), on.images.side());
        let seconds = started.elapsed().as_secs_f64();
        evaluations.push(SplitEvaluation { split, confusion: tally.confusion().clone(), loss: tally.loss(), seconds });
    }
    Ok(evaluations)
}

/// The best epoch so far; of equal ones the first.
struct Best {
    metric: SelectionMetric,
    score: f64,
    epoch: Option<(Place, Network)>,
}

impl Best {
    fn new(metric: SelectionMetric) -> Self {
        Self { metric, score: f64::NEG_INFINITY, epoch: None }
    }

    fn offer(&mut self, place: Place, tally: &Tally, network: &Network) {
        let score = selection_score(self.metric, tally.confusion(), tally.loss());
        if score > self.score {
            (self.score, self.epoch) = (score, Some((place, network.clone())));
        }
    }
}
