//! A stage: its steps at one image size, and the scores of the best epoch over all of them on every split.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Device, Tensor};

use super::{
    Checkpoint, Sample, SampleOutcome, Session, SplitEvaluation, StageModel, TrainingError,
    batches::Place,
    checkpoint::{Parts, Standing},
    features::Features,
    fit::{self, Fit, Ready},
    images::{Images, Squares},
    tally::Tally,
};
use crate::{
    domain::{ModelSpec, Scope, Split, Stage, Step},
    nn::{Compiled, Input, Network, Pauses},
};

/// Trains what is left of a stage, gives its model to the observer and returns where the next one begins: with the network of the best
/// epoch.
pub(super) fn train(
    session: &mut Session<'_>,
    number: u32,
    stage: &Stage,
    spec: &ModelSpec,
    mut standing: Standing,
) -> Result<Standing, TrainingError> {
    session.begin(Place { stage: number, step: 0, epoch: 0 }, 0, 0)?;
    let images = Images::open(session, stage.image_size)?;
    let on = Ground { images: &images, spec };
    while let Some(step) = stage.steps.get(standing.position.step as usize - 1) {
        let place = Place { stage: number, step: standing.position.step, epoch: 0 };
        standing = match step.scope {
            Scope::Head if session.job.plan.augments_images() => {
                train_head_on_images(session, place, step, on, standing)?
            }
            Scope::Head => train_head(session, place, step, on, standing)?,
            Scope::All => train_all(session, place, step, on, standing)?,
        };
    }
    let (place, bytes) = standing.best.model().expect("a checked plan has an epoch in each stage");
    let (best, _) = Network::from_bytes(bytes, &session.job.device)?;
    let evaluations = evaluate(session, place, on, &best)?;
    let model = StageModel { stage: number, spec: spec.clone(), bytes: Arc::clone(bytes), evaluations };
    let next = Standing::at_stage(number + 1, best, &session.job.plan, session.job.classes.len());
    let checkpoint = between_stages(session, &next, Arc::clone(bytes), spec)?;
    session.keep_stage(model, checkpoint)?;
    Ok(next)
}

fn between_stages(
    session: &Session<'_>,
    next: &Standing,
    network: Arc<Vec<u8>>,
    spec: &ModelSpec,
) -> Result<Checkpoint, TrainingError> {
    let (epochs, meter) = session.standing();
    let Standing { position, epoch, best, .. } = next;
    let (position, epoch) = (*position, epoch.clone());
    Checkpoint::of(Parts { position, epochs, meter, epoch, network, best, within: None }, spec)
}

/// What the steps of a stage stand on.
#[derive(Clone, Copy)]
struct Ground<'a> {
    images: &'a Arc<Images>,
    spec: &'a ModelSpec,
}

impl Ground<'_> {
    /// A network in inference mode, made ready for images.
    fn ready(&self, network: &Network, device: &Device, pauses: Option<Pauses>) -> Ready<'static, Squares> {
        let compiled = Compiled::new(network, self.spec, device).pausing(pauses);
        Box::new(move |squares| compiled.logits(&squares.views()))
    }
}

fn train_all(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    from: Standing,
) -> Result<Standing, TrainingError> {
    let ModelSpec { image_size, normalisation, .. } = on.spec;
    let device = session.job.device.clone();
    let [training, scoring] = [session.pauses(), session.pauses()];
    let fit = Fit {
        place,
        step,
        spec: on.spec,
        feed: &|batches| on.images.feed(batches),
        training_feed: &|changes, first, batches| on.images.changed_feed(changes, first, batches),
        forward: &|network, squares, device| {
            let input = Input::new(&squares.views(), *image_size, normalisation, device);
            network.forward(&input.pausing(training.as_ref()))
        },
        ready: &|network| on.ready(network, &device, scoring.clone()),
    };
    fit.run(session, from)
}

/// The body computes its features once; the epochs then run on the head alone.
fn train_head(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    from: Standing,
) -> Result<Standing, TrainingError> {
    let needed = [session.split(Split::Train), session.split(session.job.plan.selection.split)].concat();
    let device = session.job.device.clone();
    let compiled = Compiled::new(&from.network, on.spec, &device).pausing(session.pauses());
    let features = Features::compute(session, place, &compiled, on.images, &needed)?;
    drop(compiled);
    let fit = Fit {
        place,
        step,
        spec: on.spec,
        feed: &|batches| features.feed(batches),
        training_feed: &|_unchanged, _first, batches| features.feed(batches),
        forward: &|network, features, device| network.classify(Tensor::from_data(features, device)),
        ready: &|network| {
            let (network, device) = (network.clone(), device.clone());
            Box::new(move |features| network.classify(Tensor::from_data(features, &device)))
        },
    };
    fit.run(session, from)
}

/// The head alone on images that change from epoch to epoch: the frozen body goes over each of them every time.
fn train_head_on_images(
    session: &mut Session<'_>,
    place: Place,
    step: &Step,
    on: Ground<'_>,
    from: Standing,
) -> Result<Standing, TrainingError> {
    let body = Compiled::new(&from.network, on.spec, &session.job.device).pausing(session.pauses());
    let fit = Fit {
        place,
        step,
        spec: on.spec,
        feed: &|batches| on.images.feed(batches),
        training_feed: &|changes, first, batches| on.images.changed_feed(changes, first, batches),
        forward: &|network, squares, _| network.classify(body.features(&squares.views()).autodiff()),
        ready: &|network| {
            let (network, body) = (network.clone(), &body);
            Box::new(move |squares| network.classify(body.features(&squares.views())))
        },
    };
    fit.run(session, from)
}

/// The stage's model on every split that has images.
fn evaluate(
    session: &mut Session<'_>,
    place: Place,
    on: Ground<'_>,
    network: &Network,
) -> Result<Vec<SplitEvaluation>, TrainingError> {
    let logits = on.ready(network, &session.job.device, session.pauses());
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
        let outcomes = outcomes(session, &indices, &tally);
        let (confusion, loss) = (tally.confusion().clone(), tally.loss());
        evaluations.push(SplitEvaluation { split, confusion, loss, seconds, outcomes });
    }
    Ok(evaluations)
}

/// What `tally` says of the samples at `indices`, which it counted in that order.
fn outcomes(session: &Session<'_>, indices: &[usize], tally: &Tally) -> Vec<SampleOutcome> {
    let samples = indices.iter().map(|&index| &session.job.samples[index]);
    let outcome = |(sample, (predicted, probabilities)): (&Sample, (usize, Vec<f32>))| SampleOutcome {
        key: sample.key.clone(),
        truth: sample.class,
        predicted,
        probabilities,
    };
    samples.zip(tally.predictions()).map(outcome).collect()
}
