//! Checkpoints are verified, two are retained, and a rewind deletes what was recorded later.

use super::*;
use crate::{
    domain::{EpochRecord, EpochScores, Split},
    store::{EvaluationRecord, evaluations, fixtures, models, runs::CheckpointRecords},
};

fn stored(sequence: u32, epochs: u32, position: Position) -> StoredCheckpoint {
    let file = StoredFile {
        name: format!("checkpoint-{sequence}.safetensors"),
        sha256: Sha256::of(&sequence.to_le_bytes()),
        byte_length: 1 << 33,
    };
    StoredCheckpoint { sequence, file, position, epochs, steps: 7, created_at: Timestamp::now() }
}

fn epoch(sequence: u32) -> EpochRecord {
    let scores = EpochScores { loss: 0.1, accuracy: 0.5, macro_f1: None };
    EpochRecord {
        sequence,
        stage: 1,
        step: 1,
        epoch: sequence,
        train: scores,
        selection: scores,
        learning_rate: 1e-3,
        seconds: 1.0,
        images_per_second: 1.0,
        data_wait_share: None,
        serving_wait_share: None,
    }
}

#[tokio::test]
async fn returns_a_file_as_written_and_refuses_a_damaged_or_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let files = CheckpointFiles::new(dir.path());
    let run = RunId::new();
    let file = files.write(run, 3, &|path| std::fs::write(path, "weights")).unwrap();
    assert_eq!((file.name.as_str(), file.byte_length), ("checkpoint-3.safetensors", 7));
    assert_eq!(files.read(run, &file).unwrap(), b"weights");
    assert_eq!(entries(&files.folder(run)).await.unwrap().len(), 1, "the temporary file remains");
    std::fs::write(files.folder(run).join(&file.name), "weight").unwrap();
    assert!(files.read(run, &file).unwrap_err().may_pass());
    files.remove(run, std::slice::from_ref(&file.name)).await.unwrap();
    files.remove(run, std::slice::from_ref(&file.name)).await.unwrap();
    assert!(files.read(run, &file).is_err());
}

#[tokio::test]
async fn an_incomplete_write_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let files = CheckpointFiles::new(dir.path());
    let run = RunId::new();
    let half = |path: &Path| std::fs::write(path, "wei").and(Err(io::Error::other("disk full")));
    let error = files.write(run, 1, &half).unwrap_err();
    assert!(error.to_string().contains("disk full") && error.may_pass());
    assert!(entries(&files.folder(run)).await.unwrap().is_empty());
}

#[tokio::test]
async fn retains_the_last_two_checkpoints_and_stores_each_with_its_epoch() {
    let (_dir, db) = fixtures::db().await;
    let run = fixtures::stored_run(&db, &fixtures::stored_dataset(&db).await).await;
    let mut all = Vec::new();
    for sequence in 1..=3 {
        let checkpoint = stored(sequence, sequence, Position { epoch: sequence + 1, ..Position::start_of_stage(1) });
        let epoch = epoch(sequence);
        let records = CheckpointRecords { epoch: Some(&epoch), ..Default::default() };
        let removed = runs::add_checkpoint(&db, run.id, records, &checkpoint).await.unwrap();
        assert_eq!(removed.len(), usize::from(sequence == 3), "{removed:?}");
        all.insert(0, checkpoint);
    }
    assert_eq!(of_run(&db, run.id).await.unwrap(), all[..2]);
    assert_eq!(runs::epochs(&db, run.id, 0).await.unwrap().len(), 3);
    // The epoch exists: neither it nor the checkpoint is written.
    let epoch = epoch(3);
    let again = CheckpointRecords { epoch: Some(&epoch), ..Default::default() };
    runs::add_checkpoint(&db, run.id, again, &stored(4, 4, Position::start_of_stage(2))).await.unwrap_err();
    assert_eq!(of_run(&db, run.id).await.unwrap(), all[..2]);
}

#[tokio::test]
async fn a_rewind_deletes_later_epochs_and_stages_but_not_a_model_with_an_alias() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let run = fixtures::stored_run(&db, &dataset).await;
    for sequence in 1..=2 {
        runs::add_epoch(&db, run.id, &epoch(sequence)).await.unwrap();
    }
    let first = stored(1, 1, Position { epoch: 2, ..Position::start_of_stage(1) });
    runs::add_checkpoint(&db, run.id, CheckpointRecords::default(), &first).await.unwrap();
    let (champion, other) = (fixtures::model(Some(&run)), fixtures::model(Some(&run)));
    let evaluation = fixtures::evaluation(&other, &dataset, Split::Test);
    models::create(&db, &champion, &[]).await.unwrap();
    models::set_alias(&db, "champion", champion.id).await.unwrap();
    let record = EvaluationRecord { evaluation: evaluation.clone(), images: fixtures::evaluated_images() };
    let records = CheckpointRecords { stage: Some((&other, std::slice::from_ref(&record))), ..Default::default() };
    runs::add_checkpoint(&db, run.id, records, &stored(2, 2, Position::start_of_stage(2))).await.unwrap();

    rewind(&db, run.id, Some(&first)).await.unwrap();
    assert_eq!(of_run(&db, run.id).await.unwrap(), [first]);
    assert_eq!(runs::epochs(&db, run.id, 0).await.unwrap(), [epoch(1)]);
    assert_eq!(models::get(&db, other.id).await.unwrap(), None);
    assert_eq!(evaluations::get(&db, evaluation.id).await.unwrap(), None);
    assert_eq!(models::get(&db, champion.id).await.unwrap().unwrap().run_id, None);
    rewind(&db, run.id, None).await.unwrap();
    assert_eq!(of_run(&db, run.id).await.unwrap(), []);
    assert_eq!(runs::epochs(&db, run.id, 0).await.unwrap(), []);
}

#[tokio::test]
async fn a_sweep_removes_files_that_no_row_names() {
    let (dir, db) = fixtures::db().await;
    let files = CheckpointFiles::new(dir.path());
    files.sweep(&db).await.unwrap();
    let run = fixtures::stored_run(&db, &fixtures::stored_dataset(&db).await).await.id;
    let write = |run, sequence| files.write(run, sequence, &|path| std::fs::write(path, "weights")).unwrap();
    let kept = StoredCheckpoint { file: write(run, 2), ..stored(2, 1, Position::start_of_stage(1)) };
    runs::add_checkpoint(&db, run, CheckpointRecords::default(), &kept).await.unwrap();
    write(run, 3);
    std::fs::write(files.folder(run).join("checkpoint-4.safetensors.partial"), "wei").unwrap();
    let gone = RunId::new();
    write(gone, 1);
    files.sweep(&db).await.unwrap();
    assert_eq!(entries(&files.folder(run)).await.unwrap(), [files.folder(run).join(&kept.file.name)]);
    assert!(!files.folder(gone).exists());
}
