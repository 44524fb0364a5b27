//! Runs on drawn images: small enough for seconds, real enough to learn.

mod cache;
mod how;
mod resume;
mod told;

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
use told::Told;

/// The side of the drawn images and of the networks' input.
const SIDE: u32 = 32;

#[test]
fn overfits_eight_drawn_images() {
    let plan = plan(SimpleCnn, &[&[(All, 1e-3, 15)]]);
    let told = run(job(plan)).unwrap();
    let evaluation = &told.stages[0].evaluations[0];
    assert_eq!((evaluation.split, evaluation.confusion.total()), (Split::Train, 8));
    assert_eq!(evaluation.confusion.correct(), 8, "{:?}", evaluation.confusion);
    let (first, last) = (&told.epochs[0], &told.epochs[14]);
    assert!(last.train.loss < first.train.loss / 2.0, "{} to {}", first.train.loss, last.train.loss);
}

#[test]
fn a_vgg_16_from_random_weights_learns() {
    let told = run(job(plan(Vgg16, &[&[(All, 1e-4, 8)]]))).unwrap();
    let (first, last) = (&told.epochs[0], &told.epochs[7]);
    assert!(last.train.loss < first.train.loss / 2.0, "{} to {}", first.train.loss, last.train.loss);
    assert_eq!(told.stages[0].spec.architecture, Vgg16);
}

#[test]
fn an_evaluation_says_of_each_image_what_was_predicted() {
    let told = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 2)]]))).unwrap();
    for evaluation in &told.stages[0].evaluations {
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
fn a_head_alone_learns_on_cached_features() {
    let told = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 15)]]))).unwrap();
    assert_eq!(told.stages[0].evaluations[0].confusion.correct(), 8);
}

#[test]
fn the_same_seed_gives_the_same_losses_bit_for_bit_and_another_seed_others() {
    let losses = |seed| {
        let mut plan = plan(SimpleCnn, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)]]);
        plan.dropout = 0.5;
        let told = run(TrainingJob { seed, ..job(plan) }).unwrap();
        let bits = |epoch: &EpochRecord| (epoch.train.loss.to_bits(), epoch.selection.loss.to_bits());
        (told.epochs.iter().map(bits).collect::<Vec<_>>(), told.stages[0].bytes.clone())
    };
    let once = losses(1);
    assert!(once == losses(1), "the same seed gave other numbers");
    assert_ne!(once.0, losses(2).0);
}

#[test]
fn a_head_step_leaves_the_body_and_its_batch_norm_statistics_bit_identical() {
    let job = job(plan(ResNet50, &[&[(Head, 1e-2, 2)]]));
    let (network, spec) = start::network(&job).unwrap();
    let before = network.to_bytes(&spec);
    let after = run(job).unwrap().stages.remove(0).bytes;
    assert!(part(&before, "body.").keys().any(|name| name.ends_with("running_mean")));
    assert!(part(&before, "body.") == part(&after, "body."), "the frozen body moved");
    assert!(part(&before, "head.") != part(&after, "head."), "the head did not learn");
}

#[test]
fn a_step_on_the_whole_network_moves_the_body_and_its_statistics() {
    let job = job(plan(ResNet50, &[&[(All, 1e-3, 1)]]));
    let (network, spec) = start::network(&job).unwrap();
    let (before, after) = (network.to_bytes(&spec), run(job).unwrap().stages.remove(0).bytes);
    let (before, after) = (part(&before, "body."), part(&after, "body."));
    for name in ["body.conv1.weight", "body.bn1.running_mean", "body.bn1.running_var"] {
        assert!(before[name] != after[name], "{name} did not move");
    }
}

#[test]
fn three_head_epochs_take_one_pass_of_the_body() {
    let told = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 3)], &[(Head, 1e-3, 2), (All, 1e-3, 1)]]))).unwrap();
    // Eight images to train on and four to select with, once for each head step and not once for each epoch.
    assert_eq!(told.body_passes, [12, 12]);
    assert_eq!(told.epochs.len(), 6);
}

#[test]
fn the_next_stage_starts_from_the_best_epoch() {
    // Mirrored labels in the selection split: the better the training, the worse the selection loss.
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 4)], &[(Head, 1e-3, 1)]]));
    job.plan.selection.metric = SelectionMetric::Loss;
    for sample in job.samples.iter_mut().filter(|sample| sample.split == Split::Validation) {
        sample.class = 1 - sample.class;
    }
    let told = run(job).unwrap();
    let losses: Vec<f64> = told.epochs[..4].iter().map(|epoch| epoch.selection.loss).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < losses[3], "the best epoch is to be another than the last: {losses:?}");
    let kept = told.stages[0].evaluations.iter().find(|evaluation| evaluation.split == Split::Validation).unwrap();
    assert_eq!(kept.loss, best);
    assert!(part(&told.stages[0].bytes, "body.") == part(&told.stages[1].bytes, "body."), "not the best epoch's body");
}

#[test]
fn of_equally_good_epochs_the_first_is_kept() {
    let mut job = job(plan(SimpleCnn, &[&[(Head, 1e-3, 15)]]));
    job.plan.selection.metric = SelectionMetric::Accuracy;
    let told = run(job).unwrap();
    let first = told.epochs.iter().find(|epoch| epoch.selection.accuracy == 1.0).unwrap();
    assert!(first.epoch < 15 && told.epochs[14].selection.accuracy == 1.0, "two epochs are to be equally good");
    let kept = &told.stages[0].evaluations[1];
    assert_eq!((kept.split, kept.loss), (Split::Validation, first.selection.loss));
}

#[test]
fn a_stop_ends_the_run_before_the_next_batch_wherever_it_is() {
    let asked = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]]))).unwrap().asked;
    for patience in 0..asked {
        let mut told = Told { patience: Some(patience), ..Told::default() };
        let folder = tempfile::tempdir().unwrap();
        let job = job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]]));
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut told);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        assert_eq!((told.asked, told.after_stop), (patience + 1, 0));
    }
}

#[test]
fn predictions_go_first_before_each_batch() {
    let yielded = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&yielded);
    let give_way: GiveWay = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    });
    let job = TrainingJob { give_way, ..job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 1)]])) };
    let told = run(job).unwrap();
    let yielded = yielded.load(Ordering::Relaxed);
    // Batches of four. Features: 12 images in 3. Each epoch: 2 to train, 1 to select. Evaluation: 2 + 1 + 1.
    assert_eq!(yielded, 3 + 2 * (2 + 1) + 4);
    assert!(told.epochs.iter().all(|epoch| epoch.serving_wait_share.unwrap() > 0.0), "{:?}", told.epochs);
    assert_eq!(told.asked, yielded + 16, "asked as often, and once for each image decoded");
}

#[test]
fn every_split_with_images_is_evaluated_after_each_stage() {
    let told = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)], &[(All, 1e-3, 1)]]))).unwrap();
    for (stage, number) in told.stages.iter().zip(1..) {
        let counts: Vec<_> = stage.evaluations.iter().map(|e| (e.split, e.confusion.total())).collect();
        assert_eq!(counts, [(Split::Train, 8), (Split::Validation, 4), (Split::Test, 4)]);
        assert_eq!((stage.stage, stage.spec.image_size), (number, SIDE));
        let (_, spec) = Network::from_bytes(&stage.bytes, &device()).unwrap();
        assert_eq!(spec, stage.spec);
    }
}

#[test]
fn progress_only_grows_and_ends_at_one() {
    let told = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)], &[(All, 1e-3, 1)]]))).unwrap();
    let fractions: Vec<f64> = told.progress.iter().map(|progress| progress.fraction).collect();
    assert!(fractions.is_sorted(), "{fractions:?}");
    assert_eq!((fractions[0], fractions[fractions.len() - 1]), (0.0, 1.0));
    assert!(told.progress.iter().skip_while(|p| p.batch == 0).all(|p| p.eta_seconds.is_some()));
    assert_eq!(told.epochs.iter().map(|epoch| epoch.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let waited: Vec<f64> = told.epochs.iter().map(|epoch| epoch.data_wait_share.unwrap()).collect();
    assert!(waited.iter().all(|share| *share > 0.0 && *share < 1.0), "{waited:?}");
    let places: Vec<_> = told.epochs.iter().map(|epoch| (epoch.stage, epoch.step, epoch.epoch)).collect();
    assert_eq!(places, [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 1, 1)]);
}

#[test]
fn the_loss_of_each_trained_batch_is_told_and_their_mean_is_the_epochs() {
    let told = run(job(plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-4, 2)]]))).unwrap();
    let places: Vec<_> = told.batches.iter().map(|b| (b.step, b.epoch, b.batch, b.learning_rate)).collect();
    let expected =
        [(1, 1, 1, 1e-3), (1, 1, 2, 1e-3), (2, 1, 1, 1e-4), (2, 1, 2, 1e-4), (2, 2, 1, 1e-4), (2, 2, 2, 1e-4)];
    assert_eq!(places, expected, "neither the pass of the body nor those over the selection split");
    // Eight images in batches of four: the batches weigh alike.
    for (epoch, batches) in told.epochs.iter().zip(told.batches.chunks(2)) {
        let mean = (batches[0].loss + batches[1].loss) / 2.0;
        assert!((mean - epoch.train.loss).abs() < 1e-12, "{mean} {}", epoch.train.loss);
        assert!(batches.iter().all(|batch| batch.images_per_second > 0.0));
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1.0, 3)]])) };
    let mut told = Told::default();
    let mut session = Session::new(&job, &mut told);
    let (network, spec) = start::network(&job).unwrap();
    let images = images::Images::open(&mut session, SIDE).unwrap();
    let diverged = |network: &Network, squares: images::Squares, device: &Device| {
        network.forward(&Input::new(&squares.views(), SIDE, &spec.normalisation, device)).mul_scalar(f32::INFINITY)
    };
    let place = batches::Place { stage: 1, step: 1, epoch: 0 };
    let fit = fit::Fit {
        place,
        step: &job.plan.stages[0].steps[0],
        spec: &spec,
        feed: &|batches| images.feed(batches),
        training_feed: &|changes, first, batches| images.changed_feed(changes, first, batches),
        forward: &diverged,
        ready: &|_| unreachable!("the first batch ends the run"),
    };
    let from = Standing::at_stage(1, network, &job.plan, job.classes.len());
    let outcome = fit.run(&mut session, from).map(|_| ());
    assert!(matches!(outcome, Err(TrainingError::NotFinite { stage: 1, step: 1, epoch: 1 })), "{outcome:?}");
    assert_eq!(told.progress.iter().map(|progress| progress.batch).max(), Some(0), "not even one batch counted");
}

#[test]
fn data_that_cannot_be_trained_on_is_refused_with_the_fix() {
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

/// With a cache of its own, which is empty.
fn run(job: TrainingJob) -> Result<Told, TrainingError> {
    run_in(tempfile::tempdir().unwrap().path(), job)
}

fn run_in(cache: &Path, job: TrainingJob) -> Result<Told, TrainingError> {
    let mut told = Told::default();
    train(TrainingJob { cache: cache.into(), ..job }, &mut told).map(|()| told)
}

/// Without dropout, in batches of four, the best epoch by accuracy on the validation split.
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

/// Eight images to train on, four to select with, four to test with: a bright disc left or right.
fn job(plan: TrainingPlan) -> TrainingJob {
    let mut samples = Vec::new();
    for (split, count) in [(Split::Train, 8), (Split::Validation, 4), (Split::Test, 4)] {
        samples.extend((0..count).map(|i| Sample { class: i % 2, split, key: format!("{split}-{i}") }));
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
        give_way: Arc::new(|| {}),
        max_yield: Duration::from_millis(20),
        checkpoint: None,
    }
}

/// Odd numbers on the right; the number moves the disc down and makes it wider.
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

/// The bytes of a model file's tensors whose names start with `prefix`.
fn part(file: &[u8], prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let part = tensors.iter().filter(|(name, _)| name.starts_with(prefix));
    part.map(|(name, view)| (name.to_string(), view.data().to_vec())).collect()
}
