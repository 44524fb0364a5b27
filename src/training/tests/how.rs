//! How batches are trained beyond the plain loop: each part does what it says, all of it together repeats bit for bit, and none of it
//! acts where a plan does not ask.

use super::*;
use crate::domain::{Augmentation, ClassWeights, EarlyStopping, RangeTest, Sampling, Schedule, WeightAveraging};

/// All of it, in a head step and in one of the whole network.
pub(super) fn everything(architecture: Architecture) -> TrainingPlan {
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

fn numbers(told: &Told) -> (Vec<[u64; 3]>, Vec<Vec<u8>>) {
    let bits = |epoch: &EpochRecord| [epoch.train.loss, epoch.selection.loss, epoch.learning_rate].map(f64::to_bits);
    (told.epochs.iter().map(bits).collect(), told.stages.iter().map(|stage| stage.bytes.to_vec()).collect())
}

#[test]
fn the_same_seed_gives_the_same_epochs_and_models_with_all_of_it_on() {
    let trained = |architecture, seed| numbers(&run(TrainingJob { seed, ..job(everything(architecture)) }).unwrap());
    let once = trained(SimpleCnn, 1);
    assert_eq!(once.0.len(), 5);
    assert!(once == trained(SimpleCnn, 1), "another run of the small network gave other numbers");
    assert_ne!(once.0, trained(SimpleCnn, 2).0);
    let short = || {
        let mut plan = everything(ResNet50);
        plan.stages.pop();
        plan.stages[0].steps.iter_mut().for_each(|step| step.epochs = 1);
        numbers(&run(job(plan)).unwrap())
    };
    assert!(short() == short(), "another run of the ResNet gave other numbers");
}

#[test]
fn every_part_changes_what_is_learnt() {
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
    let changes: [(&str, Change<'_>); 8] = [
        ("schedule", &|plan| plan.stages[0].steps[0].schedule = Schedule::Cosine { final_fraction: 0.0 }),
        ("layer_decay", &|plan| plan.stages[0].steps[0].layer_decay = 0.5),
        ("class_weights", &|plan| plan.class_weights = ClassWeights::Balanced),
        ("sampling", &|plan| plan.sampling = Sampling::Balanced),
        ("label_smoothing", &|plan| plan.label_smoothing = 0.1),
        ("mixup", &|plan| plan.mixup = 0.4),
        ("augmentation", &|plan| plan.augmentation.rotation_degrees = 10.0),
        ("weight_averaging", &|plan| plan.weight_averaging = Some(WeightAveraging { decay: 0.9 })),
    ];
    for (name, change) in changes {
        assert!(with(change) != without, "{name} changed nothing");
    }
    assert!(with(&|_| ()) == without);
}

#[test]
fn an_epoch_records_the_rate_of_its_last_batch() {
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-3, 4)]]);
    plan.stages[0].steps[0].schedule = Schedule::Step { factor: 0.1, epochs: 2 };
    let told = run(job(plan)).unwrap();
    let rates: Vec<f64> = told.epochs.iter().map(|epoch| epoch.learning_rate).collect();
    assert_eq!(rates, [1e-3, 1e-3, 1e-3 * 0.1, 1e-3 * 0.1]);
}

#[test]
fn lower_layers_move_less_by_the_decay() {
    // Adam's first step moves each weight by about the learning rate, whatever its gradient.
    let moved = |layer_decay: f64, architecture, names: &[&str]| {
        let mut plan = plan(architecture, &[&[(All, 1e-3, 1)]]);
        plan.batch_size = 8;
        plan.stages[0].steps[0].layer_decay = layer_decay;
        let job = job(plan);
        let (network, spec) = start::network(&job).unwrap();
        let (before, after) = (network.to_bytes(&spec), run(job).unwrap().stages.remove(0).bytes);
        let (before, after) = (part(&before, ""), part(&after, ""));
        names.iter().map(|name| largest_step(&before[*name], &after[*name])).collect::<Vec<f32>>()
    };
    let assert_near = |found: Vec<f32>, expected: &[f32]| {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 0.02, "{found} for {expected}");
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
fn a_head_step_on_changing_images_leaves_the_body_bit_identical_and_passes_no_body_beforehand() {
    let mut plan = plan(ResNet50, &[&[(Head, 1e-2, 2)]]);
    plan.augmentation.vertical_flip = true;
    let job = job(plan);
    let (network, spec) = start::network(&job).unwrap();
    let before = network.to_bytes(&spec);
    let told = run(job).unwrap();
    let after = &told.stages[0].bytes;
    assert!(part(&before, "body.") == part(after, "body."), "the frozen body moved");
    assert!(part(&before, "head.") != part(after, "head."), "the head did not learn");
    assert_eq!(told.body_passes, <[usize; 0]>::default());
}

#[test]
fn what_becomes_of_an_image_depends_on_seed_place_batch_and_position_alone() {
    let plan = everything(SimpleCnn);
    let changed = |seed, epoch, batch| {
        let job = TrainingJob { seed, ..job(plan.clone()) };
        let place = batches::Place { stage: 1, step: 1, epoch };
        let squares = (0..4).map(|_| disc(3).pixels).collect();
        augment::Changes::new(&job, place).applied(batch, squares, SIDE)
    };
    let once = changed(1, 1, 0);
    assert!(once == changed(1, 1, 0));
    assert!(once[0] != once[1], "the same image in two positions");
    for other in [changed(2, 1, 0), changed(1, 2, 0), changed(1, 1, 1)] {
        assert!(once != other);
    }
}

#[test]
fn images_are_mixed_with_the_partners_that_their_targets_have() {
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-3, 1)]]);
    plan.mixup = 1.0;
    let job = job(plan);
    let changes = augment::Changes::new(&job, batches::Place { stage: 1, step: 1, epoch: 1 });
    let squares: Vec<Vec<u8>> = (0..6).map(|number| disc(number).pixels).collect();
    for batch in 0..3 {
        let mix = changes.mix(batch, squares.len()).unwrap();
        assert!(mix.partners.iter().enumerate().any(|(image, partner)| image != *partner));
        assert!(changes.applied(batch, squares.clone(), SIDE) == mix.squares(&squares));
    }
}

#[test]
fn an_epoch_has_the_loss_of_its_changed_images_against_their_mixed_targets() {
    // A learning rate that moves nothing, so that the network is known.
    let mut plan = plan(SimpleCnn, &[&[(All, 1e-12, 1)]]);
    (plan.batch_size, plan.mixup, plan.augmentation.contrast) = (8, 1.0, 0.9);
    let job = job(plan);
    let (network, spec) = start::network(&job).unwrap();
    let place = batches::Place { stage: 1, step: 1, epoch: 1 };
    let changes = augment::Changes::new(&job, place);
    let epoch = batches::Epoch::draw(&job, &(0..8).collect::<Vec<_>>(), place);
    let [batch] = epoch.batches.as_slice() else { panic!("one batch") };
    let squares = batch.iter().map(|&number| disc(number as u32).pixels).collect();
    let squares = changes.applied(0, squares, SIDE);
    let views: Vec<&[u8]> = squares.iter().map(Vec::as_slice).collect();
    let logits = network.forward(&Input::new(&views, SIDE, &spec.normalisation, &device()));
    let truth = batch.iter().map(|&sample| job.samples[sample].class).collect();
    let mut tally = Tally::new(2);
    assert!(tally.add_mixed(logits, &loss::Targets::new(truth, changes.mix(0, 8))));
    let found = run(job).unwrap().epochs[0].train;
    assert!((found.loss - tally.loss()).abs() < 1e-5, "{} for {}", found.loss, tally.loss());
    assert_eq!(found.accuracy, tally.training_scores().accuracy);
}

#[test]
fn the_training_images_alone_are_changed() {
    // A learning rate that moves nothing: the scores of training and selection are of one network.
    let losses = |contrast| {
        let mut plan = plan(SimpleCnn, &[&[(All, 1e-12, 1)]]);
        plan.augmentation.contrast = contrast;
        let told = run(job(plan)).unwrap();
        (told.epochs[0].train.loss, told.epochs[0].selection.loss, told.stages[0].evaluations[0].loss)
    };
    let (plain, changed) = (losses(0.0), losses(0.9));
    assert!((plain.0 - changed.0).abs() > 1e-4, "{plain:?} {changed:?}");
    assert!((plain.1 - changed.1).abs() < 1e-6 && (plain.2 - changed.2).abs() < 1e-6, "{plain:?} {changed:?}");
}

#[test]
fn a_step_that_no_longer_gains_ends_early_and_the_run_still_ends_at_one() {
    // Mirrored labels in the selection split: the better the training, the worse the selection loss.
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 30), (Head, 1e-3, 1)]]));
    job.plan.selection.metric = SelectionMetric::Loss;
    job.plan.stages[0].steps[0].early_stopping = Some(EarlyStopping { patience: 2, min_delta: 0.0 });
    for sample in job.samples.iter_mut().filter(|sample| sample.split == Split::Validation) {
        sample.class = 1 - sample.class;
    }
    let told = run(job).unwrap();
    let losses: Vec<f64> = told.epochs.iter().filter(|epoch| epoch.step == 1).map(|e| e.selection.loss).collect();
    assert!(losses.len() < 30, "it went on to the end: {losses:?}");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(losses[losses.len() - 3], best, "two epochs after the best: {losses:?}");
    assert_eq!(told.epochs.last().unwrap().step, 2, "the next step follows");
    let fractions: Vec<f64> = told.progress.iter().map(|progress| progress.fraction).collect();
    assert!(fractions.is_sorted() && fractions.last() == Some(&1.0), "{fractions:?}");
    assert_eq!(told.progress.last().unwrap().eta_seconds, Some(0.0));
}

#[test]
fn a_range_test_chooses_the_rate_on_a_copy_that_leaves_no_trace() {
    let with = |architecture, range_test| {
        let mut plan = plan(architecture, &[&[(All, 1e-12, 1)]]);
        plan.stages[0].steps[0].range_test = range_test;
        run(job(plan)).unwrap()
    };
    let told = with(SimpleCnn, Some(RangeTest { from: 1e-6, to: 1e-1, batches: 20 }));
    let [choice] = told.rate_choices.as_slice() else { panic!("one step, one choice") };
    let found = choice.chosen.expect("eight images are soon learnt");
    assert!(choice.curve.iter().any(|point| point.learning_rate == found), "{choice:?}");
    assert_eq!((told.epochs[0].learning_rate, choice.planned, choice.stage, choice.step), (found, 1e-12, 1, 1));
    // A test whose rates move nothing finds nothing to speak of; statistics that it left behind would show in the model.
    let idle = with(ResNet50, Some(RangeTest { from: 1e-30, to: 1e-29, batches: 20 }));
    let rate = idle.epochs[0].learning_rate;
    let mut plain = plan(ResNet50, &[&[(All, rate, 1)]]);
    plain.stages[0].steps[0].learning_rate = rate;
    assert!(idle.stages[0].bytes == run(job(plain)).unwrap().stages[0].bytes, "the test left a trace");
}

#[test]
fn the_average_is_evaluated_kept_and_given_to_the_next_step() {
    // One batch: what is left by the first is a tenth, so nine tenths of the way to the trained weights.
    let step = |averaging| {
        let mut plan = plan(ResNet50, &[&[(All, 1e-2, 1)]]);
        (plan.batch_size, plan.weight_averaging) = (8, averaging);
        let job = job(plan);
        let (network, spec) = start::network(&job).unwrap();
        (network.to_bytes(&spec), run(job).unwrap())
    };
    let (before, raw) = step(None);
    let (_, averaged) = step(Some(WeightAveraging { decay: 0.9 }));
    let [before, raw_tensors, mean] =
        [&before, &raw.stages[0].bytes, &averaged.stages[0].bytes].map(|file| part(file, ""));
    for name in ["body.conv1.weight", "body.bn1.running_mean", "body.layer4.2.bn3.running_var", "head.linear.0.weight"]
    {
        let [from, to, found] = [&before[name], &raw_tensors[name], &mean[name]].map(|bytes| floats(bytes));
        for ((from, to), found) in from.iter().zip(&to).zip(&found) {
            let expected = from + 0.9 * (to - from);
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{name}: {found} for {expected}");
        }
    }
    let kept = averaged.stages[0].evaluations.iter().find(|evaluation| evaluation.split == Split::Validation).unwrap();
    assert_eq!(kept.loss, averaged.epochs[0].selection.loss, "the score is of the model that is kept");
    assert_ne!(kept.loss, raw.epochs[0].selection.loss);
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// By how much the weights of a tensor moved at most.
fn largest_step(before: &[u8], after: &[u8]) -> f32 {
    let (before, after) = (floats(before), floats(after));
    before.iter().zip(&after).map(|(before, after)| (after - before).abs()).fold(0.0, f32::max)
}
