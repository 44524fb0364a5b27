//! Training runs on small synthetic images: they take seconds, and the networks learn from them.

mod cache;
mod options;
mod recording_observer;
mod resume;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use safetensors::SafeTensors;

use super::*;
use crate::{
    domain::{
        Architecture::{self, ResNet50, SimpleCnn, Vgg16},
        InitialWeights, Optimizer,
        Scope::{self, All, Head},
        Selection, Stage, Step, recipe,
    },
    imaging::{GreyImage, encode_png},
    nn::{DeviceChoice, Input, Network},
};
use recording_observer::RecordingObserver;

/// Side of the synthetic images and of the networks' input.
const SIDE: u32 = 32;

#[test]
fn overfits_eight_synthetic_images() {
    let plan = plan(SimpleCnn, &[&[(All, 1e-3, 15)]]);
    let recorded = run(job(plan)).unwrap();
    let evaluation = &recorded.stages[0].evaluations[0];
    assert_eq!((evaluation.split, evaluation.confusion.total()), (Split::Train, 8));
    assert_eq!(evaluation.confusion.correct(), 8, "{:?}", evaluation.confusion);
    let (first, last) = (&recorded.epochs[0], &recorded.epochs[14]);
    assert!(last.train.loss < first.train.loss / 2.0, "{} to {}", first.train.loss, last.train.loss);
}

#[test]
fn vgg16_learns_from_random_weights() {
    let recorded = run(job(plan(Vgg16, &[&[(All, 1e-4, 8)]]))).unwrap();
    let (first, last) = (&recorded.epochs[0], &recorded.epochs[7]);
    assert!(last.train.loss < first.train.loss / 2.0, "{} to {}", first.train.loss, last.train.loss);
    assert_eq!(recorded.stages[0].spec.architecture, Vgg16);
}

#[test]
fn an_evaluation_has_the_prediction_for_each_image() {
    let recorded = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 2)]]))).unwrap();
    for evaluation in &recorded.stages[0].evaluations {
        let keys: Vec<&str> = evaluation.outcomes.iter().map(|outcome| outcome.key.as_str()).collect();
        let images = evaluation.confusion.total();
        assert_eq!(keys, (0..images).map(|i| format!("{}-{i}", evaluation.split)).collect::<Vec<_>>());
        let mut counted = ConfusionMatrix::new(2);
        for SampleOutcome { truth, predicted, probabilities, .. } in &evaluation.outcomes {
            counted.record(*truth, *predicted);
            assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(probabilities.iter().all(|share| *share <= probabilities[*predicted]));
        }
        assert_eq!(counted, evaluation.confusion);
    }
}

#[test]
fn the_head_learns_on_precomputed_features() {
    let recorded = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 15)]]))).unwrap();
    assert_eq!(recorded.stages[0].evaluations[0].confusion.correct(), 8);
}

#[test]
fn losses_are_bit_identical_for_the_same_seed_and_differ_for_another() {
    let losses = |seed| {
        let mut plan = plan(SimpleCnn, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)]]);
        plan.dropout = 0.5;
        let recorded = run(TrainingJob { seed, ..job(plan) }).unwrap();
        let bits = |epoch: &EpochRecord| (epoch.train.loss.to_bits(), epoch.selection.loss.to_bits());
        (recorded.epochs.iter().map(bits).collect::<Vec<_>>(), recorded.stages[0].bytes.clone())
    };
    let first = losses(1);
    assert!(first == losses(1), "the same seed gave other numbers");
    assert_ne!(first.0, losses(2).0);
}

#[test]
fn a_head_step_leaves_the_body_and_its_batch_norm_statistics_bit_identical() {
    let job = job(plan(ResNet50, &[&[(Head, 1e-2, 2)]]));
    let (network, spec) = setup::initial_network(&job).unwrap();
    let before = network.to_bytes(&spec);
    let after = run(job).unwrap().stages.remove(0).bytes;
    assert!(tensors(&before, "body.").keys().any(|name| name.ends_with("running_mean")));
    assert!(tensors(&before, "body.") == tensors(&after, "body."), "the frozen body changed");
    assert!(tensors(&before, "head.") != tensors(&after, "head."), "the head did not learn");
}

#[test]
fn a_step_on_the_whole_network_updates_the_body_and_its_batch_norm_statistics() {
    let job = job(plan(ResNet50, &[&[(All, 1e-3, 1)]]));
    let (network, spec) = setup::initial_network(&job).unwrap();
    let (before, after) = (network.to_bytes(&spec), run(job).unwrap().stages.remove(0).bytes);
    let (before, after) = (tensors(&before, "body."), tensors(&after, "body."));
    for name in ["body.conv1.weight", "body.bn1.running_mean", "body.bn1.running_var"] {
        assert!(before[name] != after[name], "{name} did not change");
    }
}

#[test]
fn head_epochs_share_one_pass_of_the_body() {
    let recorded = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 3)], &[(Head, 1e-3, 2), (All, 1e-3, 1)]]))).unwrap();
    // Eight training and four validation images, once for each head step instead of once for each epoch.
    assert_eq!(recorded.body_passes, [12, 12]);
    assert_eq!(recorded.epochs.len(), 6);
}

#[test]
fn the_next_stage_starts_from_the_best_epoch() {
    // Mirrored labels in the selection split: the better the training, the worse the selection loss.
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 4)], &[(Head, 1e-3, 1)]]));
    job.plan.selection.metric = SelectionMetric::Loss;
    for sample in job.samples.iter_mut().filter(|sample| sample.split == Split::Validation) {
        sample.class = 1 - sample.class;
    }
    let recorded = run(job).unwrap();
    let losses: Vec<f64> = recorded.epochs[..4].iter().map(|epoch| epoch.selection.loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < losses[3], "the last epoch must not be the best one: {losses:?}");
    let validation =
        recorded.stages[0].evaluations.iter().find(|evaluation| evaluation.split == Split::Validation).unwrap();
    assert_eq!(validation.loss, best);
    assert!(
        tensors(&recorded.stages[0].bytes, "body.") == tensors(&recorded.stages[1].bytes, "body."),
        "the second stage did not start from the best epoch"
    );
}

#[test]
fn the_first_of_equally_good_epochs_is_selected() {
    let mut job = job(plan(SimpleCnn, &[&[(Head, 1e-3, 15)]]));
    job.plan.selection.metric = SelectionMetric::Accuracy;
    let recorded = run(job).unwrap();
    let first = recorded.epochs.iter().find(|epoch| epoch.selection.accuracy == 1.0).unwrap();
    assert!(first.epoch < 15 && recorded.epochs[14].selection.accuracy == 1.0, "two epochs must be equally good");
    let selected = &recorded.stages[0].evaluations[1];
    assert_eq!((selected.split, selected.loss), (Split::Validation, first.selection.loss));
}

#[test]
fn a_stop_ends_the_run_before_the_next_batch_at_any_point() {
    let stop_checks = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]]))).unwrap().stop_checks;
    for stop_after in 0..stop_checks {
        let mut recorded = RecordingObserver { stop_after: Some(stop_after), ..RecordingObserver::default() };
        let folder = tempfile::tempdir().unwrap();
        let job = job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]]));
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut recorded);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        assert_eq!((recorded.stop_checks, recorded.after_stop), (stop_after + 1, 0));
    }
}

#[test]
fn training_yields_to_predictions_before_each_batch() {
    let yielded = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&yielded);
    let wait_until_idle: WaitUntilIdle = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    });
    let job = TrainingJob { wait_until_idle, ..job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]])) };
    let recorded = run(job).unwrap();
    let yielded = yielded.load(Ordering::Relaxed);
    // Batches of four images. Features: 3. Each epoch: 2 for training and 1 for selection. Evaluation of all splits: 2 + 1 + 1.
    assert_eq!(yielded, 3 + 2 * (2 + 1) + 4);
    assert!(recorded.epochs.iter().all(|epoch| epoch.serving_wait_share.unwrap() > 0.0), "{:?}", recorded.epochs);
    assert_eq!(recorded.stop_checks, yielded + 16, "a stop check before each batch, and one for each decoded image");
}

#[test]
fn every_split_with_images_is_evaluated_after_each_stage() {
    let recorded = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)], &[(All, 1e-3, 1)]]))).unwrap();
    for (stage, number) in recorded.stages.iter().zip(1..) {
        let counts: Vec<_> = stage.evaluations.iter().map(|e| (e.split, e.confusion.total())).collect();
        assert_eq!(counts, [(Split::Train, 8), (Split::Validation, 4), (Split::Test, 4)]);
        assert_eq!((stage.stage, stage.spec.image_size), (number, SIDE));
        let (_, spec) = Network::from_bytes(&stage.bytes, &device()).unwrap();
        assert_eq!(spec, stage.spec);
    }
}

#[test]
fn progress_never_decreases_and_ends_at_one() {
    let recorded = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)], &[(All, 1e-3, 1)]]))).unwrap();
    let fractions: Vec<f64> = recorded.progress.iter().map(|progress| progress.fraction).collect();
    assert!(fractions.is_sorted(), "{fractions:?}");
    assert_eq!((fractions[0], fractions[fractions.len() - 1]), (0.0, 1.0));
    assert!(recorded.progress.iter().skip_while(|p| p.batch == 0).all(|p| p.eta_seconds.is_some()));
    assert_eq!(recorded.epochs.iter().map(|epoch| epoch.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let waited: Vec<f64> = recorded.epochs.iter().map(|epoch| epoch.data_wait_share.unwrap()).collect();
    assert!(waited.iter().all(|share| *share > 0.0 && *share < 1.0), "{waited:?}");
    let positions: Vec<_> = recorded.epochs.iter().map(|epoch| (epoch.stage, epoch.step, epoch.epoch)).collect();
    assert_eq!(positions, [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 1, 1)]);
}

#[test]
fn batch_losses_are_reported_and_their_mean_is_the_epoch_loss() {
    let recorded = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-4, 2)]]))).unwrap();
    let positions: Vec<_> = recorded.batches.iter().map(|b| (b.step, b.epoch, b.batch, b.learning_rate)).collect();
    let expected =
        [(1, 1, 1, 1e-3), (1, 1, 2, 1e-3), (2, 1, 1, 1e-4), (2, 1, 2, 1e-4), (2, 2, 1, 1e-4), (2, 2, 2, 1e-4)];
    assert_eq!(positions, expected, "training batches only: not the pass of the body and not the selection split");
    // Eight images in batches of four: all batches have the same weight.
    for (epoch, batches) in recorded.epochs.iter().zip(recorded.batches.chunks(2)) {
        let mean = (batches[0].loss + batches[1].loss) / 2.0;
        assert!((mean - epoch.train.loss).abs() < 1e-12, "{mean} {}", epoch.train.loss);
        assert!(batches.iter().all(|batch| batch.images_per_second > 0.0));
    }
}

#[test]
fn a_non_finite_loss_ends_the_run_immediately() {
    let folder = tempfile::tempdir().unwrap();
    let job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1.0, 3)]])) };
    let mut recorded = RecordingObserver::default();
    let mut session = Session::new(&job, &mut recorded);
    let (network, spec) = setup::initial_network(&job).unwrap();
    let images = cached_images::CachedImages::open(&mut session, SIDE).unwrap();
    let diverged = |network: &Network, images: cached_images::ImageBatch, device: &Device| {
        network.forward(&Input::new(&images.views(), SIDE, &spec.normalisation, device)).mul_scalar(f32::INFINITY)
    };
    let index = position::EpochIndex { stage: 1, step: 1, epoch: 0 };
    let fit = fit_job::FitJob {
        index,
        step: &job.plan.stages[0].steps[0],
        spec: &spec,
        loader: &|batches| images.loader(batches),
        training_loader: &|augmenter, first, batches| images.augmented_loader(augmenter, first, batches),
        forward: &diverged,
        inference: &|_| unreachable!("the run ends at the first batch"),
    };
    let from = ResumeState::start_of_stage(1, network, &job.plan, job.classes.len());
    let outcome = fit.run(&mut session, from).map(|_| ());
    assert!(matches!(outcome, Err(TrainingError::NotFinite { stage: 1, step: 1, epoch: 1 })), "{outcome:?}");
    assert_eq!(recorded.progress.iter().map(|progress| progress.batch).max(), Some(0), "no batch was counted");
}

#[test]
fn a_run_that_diverges_fails_and_names_the_epoch() {
    // The loss stays finite at this learning rate: the weights grow by about 1 in each batch.
    let mut recorded = RecordingObserver::default();
    let folder = tempfile::tempdir().unwrap();
    let job = TrainingJob { cache: folder.path().into(), ..job(plan(Vgg16, &[&[(All, 1.0, 6)]])) };
    let error = train(job, &mut recorded).unwrap_err();
    let TrainingError::Diverged { stage: 1, step: 1, epoch, .. } = error else { panic!("{error}") };
    assert_eq!(recorded.epochs.len() as u32, epoch - 1, "the diverged epoch has no checkpoint");
    let why = error.to_string();
    assert!(why.contains(&format!("epoch {epoch}: the ")) && why.contains("times that of guessing (ln(2)"), "{why}");
}

#[test]
fn weights_that_are_huge_or_not_finite_are_found_in_a_model() {
    let job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    let (network, spec) = setup::initial_network(&job).unwrap();
    let model = network.to_bytes(&spec);
    assert_eq!(nn::excessive_weight(&model, 1e6).unwrap(), None);
    // The last four bytes are a value of the last tensor.
    for (value, expected) in [(-2e6f32, "beyond 1e6"), (f32::NAN, "not finite"), (f32::INFINITY, "not finite")] {
        let mut changed = model.clone();
        let end = changed.len() - 4;
        changed[end..].copy_from_slice(&value.to_le_bytes());
        let found = nn::excessive_weight(&changed, 1e6).unwrap().unwrap();
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn unusable_data_is_refused_with_advice() {
    let refused = |change: &dyn Fn(&mut TrainingJob)| {
        let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
        change(&mut job);
        run(job).err().expect("is refused").to_string()
    };
    let empty = refused(&|job| job.samples.retain(|sample| sample.split != Split::Validation));
    assert!(empty.contains("validation split") && empty.contains("selection.split"), "{empty}");
    let lacking = refused(&|job| job.samples.retain(|sample| sample.class == 0 || sample.split != Split::Train));
    assert!(lacking.contains("class right has no image in the train split"), "{lacking}");
    let unreadable = refused(&|job| job.read = Arc::new(|_| Ok(b"not an image".to_vec())));
    assert!(unreadable.contains("image t") && unreadable.contains("PNG"), "{unreadable}");
    let missing = refused(&|job| job.read = Arc::new(|_| Err(std::io::Error::other("gone"))));
    assert!(missing.contains("gone"), "{missing}");
}

/// Trains with an empty cache.
fn run(job: TrainingJob) -> Result<RecordingObserver, TrainingError> {
    run_in(tempfile::tempdir().unwrap().path(), job)
}

fn run_in(cache: &Path, job: TrainingJob) -> Result<RecordingObserver, TrainingError> {
    let mut recorded = RecordingObserver::default();
    train(TrainingJob { cache: cache.into(), ..job }, &mut recorded).map(|()| recorded)
}

/// A plan without dropout, with batches of four; the best epoch is selected by accuracy on the validation split.
fn plan(architecture: Architecture, stages: &[&[(Scope, f64, u32)]]) -> TrainingPlan {
    let step = |&(scope, learning_rate, epochs): &(Scope, f64, u32)| Step::new(scope, learning_rate, epochs);
    let stage = |steps: &&[_]| Stage { image_size: SIDE, steps: steps.iter().map(step).collect() };
    TrainingPlan {
        architecture,
        initial_weights: InitialWeights::Random,
        batch_size: 4,
        optimizer: Optimizer::Adam,
        dropout: 0.0,
        selection: Selection { split: Split::Validation, metric: SelectionMetric::Accuracy },
        checkpoint_minutes: 10.0,
        stages: stages.iter().map(stage).collect(),
        ..recipe("covid-resnet").unwrap().plan
    }
}

/// A job on images of a bright disc on the left or the right: eight for training, four for validation, four for testing.
fn job(plan: TrainingPlan) -> TrainingJob {
    let mut samples = Vec::new();
    for (split, count) in [(Split::Train, 8), (Split::Validation, 4), (Split::Test, 4)] {
        samples.extend((0..count).map(|i| Sample { class: i % 2, split, key: format!("{split}-{i}"), patient: None }));
    }
    TrainingJob {
        plan,
        classes: ClassList::new(vec!["left".into(), "right".into()]).unwrap(),
        samples,
        read: Arc::new(|sample| Ok(encode_png(&disc(sample.key.rsplit('-').next().unwrap().parse().unwrap())))),
        cache: PathBuf::new(),
        max_pixels: 1 << 20,
        body: None,
        seed: 1,
        device: device(),
        wait_until_idle: Arc::new(|| {}),
        max_yield: Duration::from_millis(20),
        checkpoint: None,
    }
}

/// An image of a disc, on the right for odd numbers. A larger number moves the disc down and enlarges it.
fn disc(number: u32) -> GreyImage {
    let (x0, y0, radius) =
        (if number.is_multiple_of(2) { 9.0 } else { 23.0 }, 10.0 + f64::from(number), 4.0 + f64::from(number) / 4.0);
    let level = |x: u32, y: u32| {
        let distance = ((f64::from(x) - x0).powi(2) + (f64::from(y) - y0).powi(2)).sqrt();
        if distance < radius { 220 } else { 40 }
    };
    let pixels = (0..SIDE * SIDE).map(|i| level(i % SIDE, i / SIDE)).collect();
    GreyImage { width: SIDE, height: SIDE, pixels }
}

fn device() -> Device {
    DeviceChoice::Cpu.open(None).unwrap().0
}

/// The tensors of a model file whose names start with `prefix`, as bytes.
fn tensors(file: &[u8], prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let selected = tensors.iter().filter(|(name, _)| name.starts_with(prefix));
    selected.map(|(name, view)| (name.to_string(), view.data().to_vec())).collect()
}
