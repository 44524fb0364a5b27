//! Runs that are stopped and go on: they must end as if nothing had happened.

use super::*;
use crate::domain::RangeTest;

/// Dropout, two stages, head and whole network: everything that has a state.
fn whole(architecture: Architecture) -> TrainingJob {
    let mut plan = plan(architecture, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)], &[(All, 1e-3, 2)]]);
    plan.dropout = 0.5;
    job(plan)
}

/// What has to be the same.
fn numbers(epochs: &[EpochRecord], stages: &[StageModel]) -> Vec<String> {
    let epoch = |epoch: &EpochRecord| {
        let EpochRecord { sequence, stage, step, epoch, train, selection, .. } = epoch;
        let bits = (train.loss.to_bits(), train.accuracy.to_bits(), selection.loss.to_bits());
        format!("{sequence} {stage}.{step}.{epoch} {bits:?} {:?}", selection.macro_f1)
    };
    let model = |stage: &StageModel| {
        let losses: Vec<_> = stage.evaluations.iter().map(|of| (of.split, of.loss.to_bits())).collect();
        format!("{} {losses:?} {}", stage.stage, crate::domain::Sha256::of(&stage.bytes))
    };
    epochs.iter().map(epoch).chain(stages.iter().map(model)).collect()
}

/// Stops and goes on at those of the times when it is asked whether to stop that `pick` takes.
fn is_the_same_however_it_is_stopped(job: impl Fn() -> TrainingJob, pick: impl Fn(usize) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    // The first run decodes the images, which the others find decoded.
    run_in(folder.path(), job()).unwrap();
    let uninterrupted = run_in(folder.path(), job()).unwrap();
    let expected = numbers(&uninterrupted.epochs, &uninterrupted.stages);
    for patience in (0..uninterrupted.asked).filter(|&patience| pick(patience)) {
        let mut first = Told { patience: Some(patience), how: Stop::ToGoOn, ..Told::default() };
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job() }, &mut first);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        let checkpoint = first.checkpoint.as_deref().map(|bytes| Checkpoint::read(bytes).unwrap());
        let second = run_in(folder.path(), TrainingJob { checkpoint, ..job() }).unwrap();
        let epochs = [first.epochs, second.epochs].concat();
        let stages: Vec<_> = first.stages.into_iter().chain(second.stages).collect();
        assert_eq!(numbers(&epochs, &stages), expected, "stopped at {patience}");
    }
}

#[test]
fn a_run_that_is_stopped_before_any_batch_goes_on_and_ends_with_the_same_numbers() {
    is_the_same_however_it_is_stopped(|| whole(SimpleCnn), |_| true);
}

#[test]
fn so_does_one_with_batch_norms_stopped_within_an_epoch() {
    // Three batches for the features, two head epochs of three, and into the second of all.
    is_the_same_however_it_is_stopped(|| whole(ResNet50), |patience| patience == 3 + 6 + 4);
}

#[test]
fn so_does_one_with_all_that_a_plan_can_ask_for() {
    let everything = || {
        let mut plan = how::everything(SimpleCnn);
        plan.stages[0].steps[1].range_test = Some(RangeTest { from: 1e-5, to: 1e-1, batches: 20 });
        job(plan)
    };
    is_the_same_however_it_is_stopped(everything, |_| true);
}

#[test]
fn a_long_epoch_has_checkpoints_within_it() {
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    job.plan.checkpoint_minutes = 1e-9;
    let folder = tempfile::tempdir().unwrap();
    // Sixteen images are decoded; the stop comes before the second batch and is for good: no checkpoint is written for it.
    let mut told = Told { patience: Some(17), ..Told::default() };
    let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut told);
    assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
    let checkpoint = Checkpoint::read(&told.checkpoint.unwrap()).unwrap();
    assert_eq!(
        checkpoint.position(),
        crate::domain::Position { batch: 1, ..crate::domain::Position::start_of_stage(1) }
    );
}

#[test]
fn a_run_that_is_at_its_end_ends_again() {
    let told = run(whole(SimpleCnn)).unwrap();
    let checkpoint = Checkpoint::read(&told.checkpoint.unwrap()).unwrap();
    assert_eq!((checkpoint.position().stage, checkpoint.epochs()), (3, 6));
    let again = run(TrainingJob { checkpoint: Some(checkpoint), ..whole(SimpleCnn) }).unwrap();
    assert!(again.epochs.is_empty() && again.stages.is_empty());
    assert_eq!(again.progress.last().unwrap().fraction, 1.0);
}

#[test]
fn what_is_no_checkpoint_is_refused_with_a_reason() {
    let told = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]))).unwrap();
    let refused = |bytes: &[u8]| Checkpoint::read(bytes).unwrap_err().to_string();
    let whole = told.checkpoint.unwrap();
    assert!(refused(&whole[..whole.len() / 2]).contains("cannot be used"));
    assert!(refused(&told.stages[0].bytes).contains("thorax-checkpoint"));
}
