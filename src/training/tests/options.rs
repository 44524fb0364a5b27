//! Training options (schedules, augmentation, mixup, averaging, ...): each has its effect, all together are reproducible bit for bit, and
//! none has an effect unless the plan enables it.

use super::*;
use crate::domain::{Augmentation, ClassWeights, EarlyStopping, RangeTest, Sampling, Schedule, WeightAveraging};

/// A plan with all options, with a head step and steps of the whole network.
pub(super) fn all_options(architecture: Architecture) -> TrainingPlan {
    let mut plan = TrainingPlan {
        dropout: 0.5,
        class_weights: ClassWeights::Balanced,
        sampling: Sampling::Balanced,
        label_smoothing: 0.1,
        mixup: 0.4,
        augmentation: Augmentation {
            rotation_degrees: 10.0,
            translation: 0.1,
            zoom: 0.1,
            contrast: 0.2,
            brightness: 0.1,
            horizontal_flip: false,
            vertical_flip: true,
        },
        weight_averaging: Some(WeightAveraging { decay: 0.9 }),
        early_stopping: Some(EarlyStopping { patience: 3, min_delta: 0.0 }),
        ..plan(architecture, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)], &[(All, 1e-3, 1)]])
    };
    for step in plan.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
        step.schedule = Schedule::OneCycle { warm_up_fraction: 0.3, start_divisor: 25.0, final_divisor: 100.0 };
        step.layer_decay = if step.scope == All { 0.5 } else { 1.0 };
    }
    plan
}

fn numbers(recorded: &RecordingObserver) -> (Vec<[u64; 3]>, Vec<Vec<u8>>) {
    let bits = |epoch: &EpochRecord| [epoch.train.loss, epoch.selection.loss, epoch.learning_rate].map(f64::to_bits);
    (recorded.epochs.iter().map(bits).collect(), recorded.stages.iter().map(|stage| stage.bytes.to_vec()).collect())
}

#[test]
fn runs_with_all_options_are_reproducible() {
    let trained = |architecture, seed| numbers(&run(TrainingJob { seed, ..job(all_options(architecture)) }).unwrap());
    let first = trained(SimpleCnn, 1);
    assert_eq!(first.0.len(), 5);
    assert!(first == trained(SimpleCnn, 1), "a second run of the small network gave other numbers");
    assert_ne!(first.0, trained(SimpleCnn, 2).0);
    let short = || {
        let mut plan = all_options(ResNet50);
        plan.stages.pop();
        plan.stages[0].steps.iter_mut().for_each(|step| step.epochs = 1);
        numbers(&run(job(plan)).unwrap())
    };
    assert!(short() == short(), "a second run of the ResNet gave other numbers");
}

#[test]
fn every_option_changes_the_model() {
    let plain = plan(SimpleCnn, &[&[(All, 1e-3, 2)]]);
    let trained = |plan: TrainingPlan| {
        let mut job = job(plan);
        // Five images of one class and three of the other.
        job.samples[1].class = 0;
        run(job).unwrap().stages.remove(0).bytes
    };
    let without = trained(plain.clone());
    let with = |change: &dyn Fn(&mut TrainingPlan)| {
        let mut plan = plain.clone();
        change(&mut plan);
        trained(plan)
    };
    type Change<'a> = &'a dyn Fn(&mut TrainingPlan);
    let options: [(&str, Change<'_>); 8] = [
        ("schedule", &|plan| plan.stages[0].steps[0].schedule = Schedule::Cosine { final_fraction: 0.0 }),
        ("layer_decay", &|plan| plan.stages[0].steps[0].layer_decay = 0.5),
        ("class_weights", &|plan| plan.class_weights = ClassWeights::Balanced),
        ("sampling", &|plan| plan.sampling = Sampling::Balanced),
        ("label_smoothing", &|plan| plan.label_smoothing = 0.1),
        ("mixup", &|plan| plan.mixup = 0.4),
        ("augmentation", &|plan| plan.augmentation.rotation_degrees = 10.0),
        ("weight_averaging", &|plan| plan.weight_averaging = Some(WeightAveraging { decay: 0.9 })),
    ];
    for (name, change) in options {
        assert!(with(change) != without, "{name} had no effect");
    }
    assert!(with(&|_| ()) == without);
}

#[test]
fn an_epoch_records_the_learning_rate_of_its_last_batch() {
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-3, 4)]]);
    plan.stages[0].steps[0].schedule = Schedule::Step { factor: 0.1, epochs: 2 };
    let recorded = run(job(plan)).unwrap();
    let rates: Vec<f64> = recorded.epochs.iter().map(|epoch| epoch.learning_rate).collect();
    assert_eq!(rates, [1e-3, 1e-3, 1e-3 * 0.1, 1e-3 * 0.1]);
}

#[test]
fn layer_decay_reduces_the_learning_rate_of_lower_layers() {
    // Adam's first update changes each weight by about the learning rate, regardless of its gradient.
    let moved = |layer_decay: f64, architecture, names: &[&str]| {
        let mut plan = plan(architecture, &[&[(All, 1e-3, 1)]]);
        plan.batch_size = 8;
        plan.stages[0].steps[0].layer_decay = layer_decay;
        let job = job(plan);
        let (network, spec) = setup::initial_network(&job).unwrap();
        let (before, after) = (network.to_bytes(&spec), run(job).unwrap().stages.remove(0).bytes);
        let (before, after) = (tensors(&before, ""), tensors(&after, ""));
        names.iter().map(|name| largest_step(&before[*name], &after[*name])).collect::<Vec<f32>>()
    };
    let assert_near = |found: Vec<f32>, expected: &[f32]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 0.02, "{found} instead of {expected}");
        }
    };
    let small = ["head.linear.1.weight", "body.conv.2.weight", "body.conv.1.weight", "body.conv.0.weight"];
    assert_near(moved(0.5, SimpleCnn, &small), &[1e-3, 5e-4, 2.5e-4, 1.25e-4]);
    assert_near(moved(1.0, SimpleCnn, &small), &[1e-3; 4]);
    let stages =
        ["body.layer4.0.conv2", "body.layer3.0.conv2", "body.layer2.0.conv2", "body.layer1.0.conv2", "body.conv1"];
    let large = stages.map(|name| format!("{name}.weight"));
    let large: Vec<&str> = large.iter().map(String::as_str).chain(["body.bn1.weight"]).collect();
    assert_near(moved(0.4, ResNet50, &large), &[4e-4, 1.6e-4, 6.4e-5, 2.56e-5, 1.024e-5, 1.024e-5]);
}

#[test]
fn a_head_step_with_augmentation_leaves_the_body_bit_identical_and_precomputes_no_features() {
    let mut plan = plan(ResNet50, &[&[(Head, 1e-2, 2)]]);
    plan.augmentation.vertical_flip = true;
    let job = job(plan);
    let (network, spec) = setup::initial_network(&job).unwrap();
    let before = network.to_bytes(&spec);
    let recorded = run(job).unwrap();
    let after = &recorded.stages[0].bytes;
    assert!(tensors(&before, "body.") == tensors(after, "body."), "the frozen body changed");
    assert!(tensors(&before, "head.") != tensors(after, "head."), "the head did not learn");
    assert_eq!(recorded.body_passes, <[usize; 0]>::default());
}

#[test]
fn augmentation_depends_only_on_seed_epoch_batch_and_position() {
    let plan = all_options(SimpleCnn);
    let changed = |seed, epoch, batch| {
        let job = TrainingJob { seed, ..job(plan.clone()) };
        let index = position::EpochIndex { stage: 1, step: 1, epoch };
        let images = (0..4).map(|_| disc(3).pixels).collect();
        augmenter::BatchAugmenter::new(&job, index).augment(batch, images, SIDE)
    };
    let first = changed(1, 1, 0);
    assert!(first == changed(1, 1, 0));
    assert!(first[0] != first[1], "the same image in two positions must be augmented differently");
    for other in [changed(2, 1, 0), changed(1, 2, 0), changed(1, 1, 1)] {
        assert!(first != other);
    }
}

#[test]
fn images_and_targets_have_the_same_mixup_partners() {
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-3, 1)]]);
    plan.mixup = 1.0;
    let job = job(plan);
    let augmenter = augmenter::BatchAugmenter::new(&job, position::EpochIndex { stage: 1, step: 1, epoch: 1 });
    let images: Vec<Vec<u8>> = (0..6).map(|number| disc(number).pixels).collect();
    for batch in 0..3 {
        let mixup = augmenter.mixup(batch, images.len()).unwrap();
        assert!(mixup.partners.iter().enumerate().any(|(image, partner)| image != *partner));
        assert!(augmenter.augment(batch, images.clone(), SIDE) == mixup.apply(&images));
    }
}

#[test]
fn epoch_loss_is_that_of_augmented_images_and_mixed_targets() {
    // A learning rate too small to change the network, so that its weights are known.
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-12, 1)]]);
    (plan.batch_size, plan.mixup, plan.augmentation.contrast) = (8, 1.0, 0.9);
    let job = job(plan);
    let (network, spec) = setup::initial_network(&job).unwrap();
    let index = position::EpochIndex { stage: 1, step: 1, epoch: 1 };
    let augmenter = augmenter::BatchAugmenter::new(&job, index);
    let epoch = batches::EpochBatches::new(&job, &(0..8).collect::<Vec<_>>(), index);
    let [batch] = epoch.batches.as_slice() else { panic!("one batch") };
    let images = batch.iter().map(|&number| disc(number as u32).pixels).collect();
    let images = augmenter.augment(0, images, SIDE);
    let views: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let logits = network.forward(&Input::new(&views, SIDE, &spec.normalisation, &device()));
    let truth = batch.iter().map(|&sample| job.samples[sample].class).collect();
    let mut metrics = RunningMetrics::new(2);
    assert!(metrics.add_mixed(logits, &loss::Targets::new(truth, augmenter.mixup(0, 8))));
    let found = run(job).unwrap().epochs[0].train;
    assert!((found.loss - metrics.loss()).abs() < 1e-5, "{} instead of {}", found.loss, metrics.loss());
    assert_eq!(found.accuracy, metrics.training_scores().accuracy);
}

#[test]
fn only_training_images_are_augmented() {
    // A learning rate too small to change the network: training and selection scores are those of one network.
    let losses = |contrast| {
        let mut plan = plan(SimpleCnn, &[&[(All, 1e-12, 1)]]);
        plan.augmentation.contrast = contrast;
        let recorded = run(job(plan)).unwrap();
        (recorded.epochs[0].train.loss, recorded.epochs[0].selection.loss, recorded.stages[0].evaluations[0].loss)
    };
    let (plain, changed) = (losses(0.0), losses(0.9));
    assert!((plain.0 - changed.0).abs() > 1e-4, "{plain:?} {changed:?}");
    assert!((plain.1 - changed.1).abs() < 1e-6 && (plain.2 - changed.2).abs() < 1e-6, "{plain:?} {changed:?}");
}

#[test]
fn early_stopping_ends_a_step_and_progress_still_reaches_one() {
    // Mirrored labels in the selection split: the better the training, the worse the selection loss.
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 30), (Head, 1e-3, 1)]]));
    job.plan.selection.metric = SelectionMetric::Loss;
    job.plan.stages[0].steps[0].early_stopping = Some(EarlyStopping { patience: 2, min_delta: 0.0 });
    for sample in job.samples.iter_mut().filter(|sample| sample.split == Split::Validation) {
        sample.class = 1 - sample.class;
    }
    let recorded = run(job).unwrap();
    let losses: Vec<f64> = recorded.epochs.iter().filter(|epoch| epoch.step == 1).map(|e| e.selection.loss).collect();
    assert!(losses.len() < 30, "it did not stop early: {losses:?}");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses[losses.len() - 3], best, "two epochs after the best: {losses:?}");
    assert_eq!(recorded.epochs.last().unwrap().step, 2, "the next step follows");
    let fractions: Vec<f64> = recorded.progress.iter().map(|progress| progress.fraction).collect();
    assert!(fractions.is_sorted() && fractions.last() == Some(&1.0), "{fractions:?}");
    assert_eq!(recorded.progress.last().unwrap().eta_seconds, Some(0.0));
}

#[test]
fn a_range_test_chooses_the_learning_rate_without_changing_the_network() {
    let with = |architecture, range_test| {
        let mut plan = plan(architecture, &[&[(All, 1e-12, 1)]]);
        plan.stages[0].steps[0].range_test = range_test;
        run(job(plan)).unwrap()
    };
    let recorded = with(SimpleCnn, Some(RangeTest { from: 1e-6, to: 1e-1, batches: 20 }));
    let [choice] = recorded.rate_choices.as_slice() else { panic!("one step, one choice") };
    let found = choice.chosen.expect("the loss on eight images falls quickly");
    assert!(choice.curve.iter().any(|point| point.learning_rate == found), "{choice:?}");
    assert_eq!((recorded.epochs[0].learning_rate, choice.planned, choice.stage, choice.step), (found, 1e-12, 1, 1));
    // A test with rates too small to change the weights. If it updated batch-norm statistics, the model would differ.
    let idle = with(ResNet50, Some(RangeTest { from: 1e-30, to: 1e-29, batches: 20 }));
    let rate = idle.epochs[0].learning_rate;
    let mut plain = plan(ResNet50, &[&[(All, rate, 1)]]);
    plain.stages[0].steps[0].learning_rate = rate;
    assert!(idle.stages[0].bytes == run(job(plain)).unwrap().stages[0].bytes, "the range test changed the network");
}

#[test]
fn the_weight_average_is_evaluated_and_stored() {
    // One batch: the effective decay of the first update is 0.1, so the average is nine tenths of the way to the trained weights.
    let step = |averaging| {
        let mut plan = plan(ResNet50, &[&[(All, 1e-2, 1)]]);
        (plan.batch_size, plan.weight_averaging) = (8, averaging);
        let job = job(plan);
        let (network, spec) = setup::initial_network(&job).unwrap();
        (network.to_bytes(&spec), run(job).unwrap())
    };
    let (before, raw) = step(None);
    let (_, averaged) = step(Some(WeightAveraging { decay: 0.9 }));
    let [before, raw_tensors, mean] =
        [&before, &raw.stages[0].bytes, &averaged.stages[0].bytes].map(|file| tensors(file, ""));
    for name in ["body.conv1.weight", "body.bn1.running_mean", "body.layer4.2.bn3.running_var", "head.linear.0.weight"]
    {
        let [from, to, found] = [&before[name], &raw_tensors[name], &mean[name]].map(|bytes| floats(bytes));
        for ((from, to), found) in from.iter().zip(&to).zip(&found) {
            let expected = from + 0.9 * (to - from);
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{name}: {found} instead of {expected}");
        }
    }
    let validation =
        averaged.stages[0].evaluations.iter().find(|evaluation| evaluation.split == Split::Validation).unwrap();
    assert_eq!(validation.loss, averaged.epochs[0].selection.loss, "the score is that of the stored model");
    assert_ne!(validation.loss, raw.epochs[0].selection.loss);
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Largest absolute change of a weight of a tensor.
fn largest_step(before: &[u8], after: &[u8]) -> f32 {
    let (before, after) = (floats(before), floats(after));
    before.iter().zip(&after).map(|(before, after)| (after - before).abs()).fold(0.0, f32::max)
}
