//! Training of a stage: its steps at one image size, then the evaluation of the best epoch of all steps on every split.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Device, Tensor};

use super::{
    Checkpoint, Sample, SampleOutcome, Session, SplitEvaluation, StageModel, TrainingError,
    cached_images::{CachedImages, ImageBatch},
    checkpoint::{Parts, ResumeState},
    features::Features,
    fit_job::{self, FitJob, InferenceFn},
    position::EpochIndex,
    running_metrics::RunningMetrics,
};
use crate::{
    domain::{ModelSpec, Scope, Split, Stage, Step},
    nn::{self, Compiled, Input, Network, Pauses},
};

/// Trains the remaining steps of a stage, reports its model to the observer and returns the state in which the next stage starts: with the
/// network of the best epoch.
pub(super) fn train(
    session: &mut Session<'_>,
    number: u32,
    stage: &Stage,
    spec: &ModelSpec,
    mut state: ResumeState,
) -> Result<ResumeState, TrainingError> {
    session.begin_pass(EpochIndex { stage: number, step: 0, epoch: 0 }, 0, 0)?;
    let images = CachedImages::open(session, stage.image_size)?;
    let context = StageContext { images: &images, spec };
    while let Some(step) = stage.steps.get(state.position.step as usize - 1) {
        let index = EpochIndex { stage: number, step: state.position.step, epoch: 0 };
        state = match step.scope {
            Scope::Head if session.job.plan.augments_images() => {
                train_head_on_images(session, index, step, context, state)?
            }
            Scope::Head => train_head_on_features(session, index, step, context, state)?,
            Scope::All => train_all(session, index, step, context, state)?,
        };
    }
    let (index, bytes) = state.best.model().expect("a validated plan has an epoch in each stage");
    let (best, _) = Network::from_bytes(bytes, &session.job.device)?;
    let evaluations = evaluate(session, index, context, &best)?;
    let model = StageModel { stage: number, spec: spec.clone(), bytes: Arc::clone(bytes), evaluations };
    let next = ResumeState::start_of_stage(number + 1, best, &session.job.plan, session.job.classes.len());
    let checkpoint = checkpoint_between_stages(session, &next, Arc::clone(bytes), spec)?;
    session.report_stage(model, checkpoint)?;
    Ok(next)
}

fn checkpoint_between_stages(
    session: &Session<'_>,
    next: &ResumeState,
    network: Arc<Vec<u8>>,
    spec: &ModelSpec,
) -> Result<Checkpoint, TrainingError> {
    let (epochs, meter) = session.progress_state();
    let ResumeState { position, epoch, best, .. } = next;
    let (position, epoch) = (*position, epoch.clone());
    Checkpoint::new(Parts { position, epochs, meter, epoch, network, best, within_step: None }, spec)
}

/// The images and the network specification shared by the steps of a stage.
#[derive(Clone, Copy)]
struct StageContext<'a> {
    images: &'a Arc<CachedImages>,
    spec: &'a ModelSpec,
}

impl StageContext<'_> {
    /// Compiles a network in inference mode for images.
    fn inference(
        &self,
        network: &Network,
        device: &Device,
        pauses: Option<Pauses>,
    ) -> InferenceFn<'static, ImageBatch> {
        let compiled = Compiled::new(network, self.spec, device).pausing(pauses);
        Box::new(move |images: ImageBatch| compiled.logits(&images.views()))
    }
}

/// A step that trains the whole network on images.
fn train_all(
    session: &mut Session<'_>,
    index: EpochIndex,
    step: &Step,
    context: StageContext<'_>,
    from: ResumeState,
) -> Result<ResumeState, TrainingError> {
    let ModelSpec { image_size, normalisation, .. } = context.spec;
    let device = session.job.device.clone();
    if device != Device::flex() {
        let batch_size = session.job.plan.batch_size as usize;
        nn::check_training(&from.network, context.spec, step.scope, batch_size, &device)?;
    }
    let [training_pauses, inference_pauses] = [session.pauses(), session.pauses()];
    let job = FitJob {
        index,
        step,
        spec: context.spec,
        loader: &|batches| context.images.loader(batches),
        training_loader: &|augmenter, first, batches| context.images.augmented_loader(augmenter, first, batches),
        forward: &|network, images, device| {
            let input = Input::new(&images.views(), *image_size, normalisation, device);
            network.forward(&input.pausing(training_pauses.as_ref()))
        },
        inference: &|network| context.inference(network, &device, inference_pauses.clone()),
    };
    job.run(session, from)
}

/// A step that trains the head on features: the frozen body computes them once, and all epochs reuse them.
fn train_head_on_features(
    session: &mut Session<'_>,
    index: EpochIndex,
    step: &Step,
    context: StageContext<'_>,
    from: ResumeState,
) -> Result<ResumeState, TrainingError> {
    let needed =
        [session.split_indices(Split::Train), session.split_indices(session.job.plan.selection.split)].concat();
    let device = session.job.device.clone();
    let compiled = Compiled::new(&from.network, context.spec, &device).pausing(session.pauses());
    let features = Features::compute(session, index, &compiled, context.images, &needed)?;
    drop(compiled);
    let job = FitJob {
        index,
        step,
        spec: context.spec,
        loader: &|batches| features.loader(batches),
        // A plan with augmentation or mixup of images trains the head on images instead.
        training_loader: &|_augmenter, _first, batches| features.loader(batches),
        forward: &|network, features, device| network.classify(Tensor::from_data(features, device)),
        inference: &|network| {
            let (network, device) = (network.clone(), device.clone());
            Box::new(move |features| network.classify(Tensor::from_data(features, &device)))
        },
    };
    job.run(session, from)
}

/// A step that trains the head on augmented images: the frozen body computes the features of each image in every epoch.
fn train_head_on_images(
    session: &mut Session<'_>,
    index: EpochIndex,
    step: &Step,
    context: StageContext<'_>,
    from: ResumeState,
) -> Result<ResumeState, TrainingError> {
    let body = Compiled::new(&from.network, context.spec, &session.job.device).pausing(session.pauses());
    let job = FitJob {
        index,
        step,
        spec: context.spec,
        loader: &|batches| context.images.loader(batches),
        training_loader: &|augmenter, first, batches| context.images.augmented_loader(augmenter, first, batches),
        forward: &|network, images, _| network.classify(body.features(&images.views()).autodiff()),
        inference: &|network| {
            let (network, body) = (network.clone(), &body);
            Box::new(move |images: ImageBatch| network.classify(body.features(&images.views())))
        },
    };
    job.run(session, from)
}

/// Evaluates the model of the stage on every split that has images.
fn evaluate(
    session: &mut Session<'_>,
    index: EpochIndex,
    context: StageContext<'_>,
    network: &Network,
) -> Result<Vec<SplitEvaluation>, TrainingError> {
    let logits = context.inference(network, &session.job.device, session.pauses());
    let mut evaluations = Vec::new();
    for split in Split::ALL {
        let indices = session.split_indices(split);
        if indices.is_empty() {
            continue;
        }
        let started = Instant::now();
        let metrics = fit_job::evaluate(session, index, &indices, &|batches| context.images.loader(batches), &logits)?;
        session.meter.forward(indices.len(), context.images.side());
        let seconds = started.elapsed().as_secs_f64();
        let outcomes = outcomes(session, &indices, &metrics);
        let (confusion, loss) = (metrics.confusion().clone(), metrics.loss());
        evaluations.push(SplitEvaluation { split, confusion, loss, seconds, outcomes });
    }
    Ok(evaluations)
}

/// The predictions for the samples at `indices`, which `metrics` received in that order.
fn outcomes(session: &Session<'_>, indices: &[usize], metrics: &RunningMetrics) -> Vec<SampleOutcome> {
    let samples = indices.iter().map(|&index| &session.job.samples[index]);
    let outcome = |(sample, (predicted, probabilities)): (&Sample, (usize, Vec<f32>))| SampleOutcome {
        key: sample.key.clone(),
        patient: sample.patient,
        truth: sample.class,
        predicted,
        probabilities,
    };
    samples.zip(metrics.predictions()).map(outcome).collect()
}
