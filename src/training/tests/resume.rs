//! Suspended runs resume and end with the same numbers as uninterrupted ones.

use super::*;
use crate::domain::RangeTest;

/// A job with dropout, two stages, and steps of the head and of the whole network.
fn two_stages(architecture: Architecture) -> TrainingJob {
    let mut plan = plan(architecture, &[&[(Head, 1e-3, 2), (All, 1e-3, 2)], &[(All, 1e-3, 2)]]);
    plan.dropout = 0.5;
    job(plan)
}

/// Everything that must be identical.
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

/// Suspends and resumes a run at each stop check that `pick` selects, and compares the numbers with those of an uninterrupted run.
fn assert_resumes_identically(job: impl Fn() -> TrainingJob, pick: impl Fn(usize) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    // The first run fills the image cache, so that all further runs have the same number of stop checks.
    run_in(folder.path(), job()).unwrap();
    let uninterrupted = run_in(folder.path(), job()).unwrap();
    let expected = numbers(&uninterrupted.epochs, &uninterrupted.stages);
    for stop_after in (0..uninterrupted.stop_checks).filter(|&stop_after| pick(stop_after)) {
        let mut first = RecordingObserver {
            stop_after: Some(stop_after),
            stop_mode: Stop::Suspend,
            ..RecordingObserver::default()
        };
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job() }, &mut first);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        let checkpoint = first.checkpoint.as_deref().map(|bytes| Checkpoint::read(bytes).unwrap());
        let second = run_in(folder.path(), TrainingJob { checkpoint, ..job() }).unwrap();
        let epochs = [first.epochs, second.epochs].concat();
        let stages: Vec<_> = first.stages.into_iter().chain(second.stages).collect();
        assert_eq!(numbers(&epochs, &stages), expected, "stopped at check {stop_after}");
    }
}

#[test]
fn resumes_identically_before_any_batch() {
    assert_resumes_identically(|| two_stages(SimpleCnn), |_| true);
}

#[test]
fn resumes_identically_with_batch_norm_within_an_epoch() {
    // Three batches for the features, two head epochs of three, then into the second epoch of the whole network.
    assert_resumes_identically(|| two_stages(ResNet50), |stop_after| stop_after == 3 + 6 + 4);
}

#[test]
fn resumes_identically_with_all_options() {
    let all_options = || {
        let mut plan = options::all_options(SimpleCnn);
        plan.stages[0].steps[1].range_test = Some(RangeTest { from: 1e-5, to: 1e-1, batches: 20 });
        job(plan)
    };
    assert_resumes_identically(all_options, |_| true);
}

#[test]
fn a_long_epoch_has_checkpoints() {
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    job.plan.checkpoint_minutes = 1e-9;
    let folder = tempfile::tempdir().unwrap();
    // 16 stop checks while images are decoded; the run is cancelled before the second batch, without a further checkpoint.
    let mut recorded = RecordingObserver { stop_after: Some(17), ..RecordingObserver::default() };
    let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut recorded);
    assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
    let checkpoint = Checkpoint::read(&recorded.checkpoint.unwrap()).unwrap();
    assert_eq!(
        checkpoint.position(),
        crate::domain::Position { batch: 1, ..crate::domain::Position::start_of_stage(1) }
    );
}

#[test]
fn resuming_a_finished_run_ends_immediately() {
    let recorded = run(two_stages(SimpleCnn)).unwrap();
    let checkpoint = Checkpoint::read(&recorded.checkpoint.unwrap()).unwrap();
    assert_eq!((checkpoint.position().stage, checkpoint.epochs()), (3, 6));
    let again = run(TrainingJob { checkpoint: Some(checkpoint), ..two_stages(SimpleCnn) }).unwrap();
    assert!(again.epochs.is_empty() && again.stages.is_empty());
    assert_eq!(again.progress.last().unwrap().fraction, 1.0);
}

#[test]
fn invalid_checkpoints_are_refused_with_a_reason() {
    let recorded = run(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]))).unwrap();
    let refused = |bytes: &[u8]| Checkpoint::read(bytes).unwrap_err().to_string();
    let whole = recorded.checkpoint.unwrap();
    assert!(refused(&whole[..whole.len() / 2]).contains("cannot be used"));
    assert!(refused(&recorded.stages[0].bytes).contains("thorax-checkpoint"));
}
