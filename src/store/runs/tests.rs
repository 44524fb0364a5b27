//! Runs change their status only as the domain allows, and each is claimed by one process.

use super::*;
use crate::{
    domain::{EpochScores, Split},
    store::{datasets, evaluations, fixtures, models},
};

async fn database_with_data() -> (tempfile::TempDir, Db, crate::store::Dataset) {
    let (dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    (dir, db, dataset)
}

/// A stored run with `status`, set by a raw update.
async fn run_in(db: &Db, dataset: &crate::store::Dataset, status: RunStatus) -> RunId {
    let id = fixtures::stored_run(db, dataset).await.id;
    let (name, key) = (status.as_str(), id.to_string());
    sqlx::query!("update runs set status = ? where id = ?", name, key).execute(db.write().unwrap()).await.unwrap();
    id
}

async fn status(db: &Db, id: RunId) -> RunStatus {
    get(db, id).await.unwrap().unwrap().status
}

#[tokio::test]
async fn returns_a_run_as_stored() {
    let (_dir, db, dataset) = database_with_data().await;
    let queued = fixtures::stored_run(&db, &dataset).await;
    assert_eq!(get(&db, queued.id).await.unwrap(), Some(queued.clone()));
    assert!(matches!(create(&db, &queued).await, Err(StoreError::Exists(_))));
    let ended = Run {
        name: None,
        recipe: None,
        status: RunStatus::Failed,
        device: Some("cpu".into()),
        error: Some("the loss is not finite".into()),
        started_at: Some(Timestamp::now()),
        finished_at: Some(Timestamp::now()),
        ..fixtures::run(&dataset)
    };
    create(&db, &ended).await.unwrap();
    assert_eq!(get(&db, ended.id).await.unwrap(), Some(ended));
}

#[tokio::test]
async fn a_run_is_stored_with_its_events_or_not_at_all() {
    let (_dir, db, dataset) = database_with_data().await;
    let warning = |message: &str| RunEvent::Warning { message: message.into() };
    let warnings = [warning("acknowledged"), warning("planted")];
    let run = fixtures::run(&dataset);
    create_with_events(&db, &run, &warnings[..1]).await.unwrap();
    let queued = RunEvent::Status { from: None, to: RunStatus::Queued, cause: None };
    let stored: Vec<_> = events::list(&db, run.id, 0, 10).await.unwrap().into_iter().map(|event| event.event).collect();
    assert_eq!(stored, [queued, warnings[0].clone()]);

    let trigger = "create trigger refuse before insert on run_events when new.event_json like '%planted%'
                     begin select raise(abort, 'planted'); end";
    sqlx::query(trigger).execute(db.write().unwrap()).await.unwrap();
    let refused = fixtures::run(&dataset);
    assert!(create_with_events(&db, &refused, &warnings).await.is_err());
    assert_eq!(get(&db, refused.id).await.unwrap(), None);
    assert_eq!(events::list(&db, refused.id, 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_repetition_refers_to_its_run_and_outlives_it() {
    let (_dir, db, dataset) = database_with_data().await;
    let first = fixtures::stored_run(&db, &dataset).await;
    let weights = Some(Sha256::of(b"weights"));
    let again = Run { repeats: Some(first.id), initial_weights_sha256: weights.clone(), ..fixtures::run(&dataset) };
    create(&db, &again).await.unwrap();
    assert_eq!(get(&db, again.id).await.unwrap(), Some(again.clone()));
    cancel(&db, first.id).await.unwrap();
    delete(&db, first.id).await.unwrap();
    let left = get(&db, again.id).await.unwrap().unwrap();
    assert_eq!((left.repeats, left.initial_weights_sha256), (None, weights));
}

#[tokio::test]
async fn lists_runs_oldest_first_and_filters_by_status() {
    let (_dir, db, dataset) = database_with_data().await;
    let mut ids = Vec::new();
    for status in [RunStatus::Queued, RunStatus::Failed, RunStatus::Queued] {
        ids.push(run_in(&db, &dataset, status).await);
    }
    let listed = async |status, page| -> Vec<RunId> {
        list(&db, status, &page).await.unwrap().into_iter().map(|run| run.id).collect()
    };
    assert_eq!(listed(None, fixtures::first_page()).await, ids);
    assert_eq!(listed(Some(RunStatus::Queued), fixtures::first_page()).await, [ids[0], ids[2]]);
    let rest = Page { limit: 1, after: Some(ids[0].to_string()) };
    assert_eq!(listed(Some(RunStatus::Queued), rest).await, [ids[2]]);
}

#[tokio::test]
async fn claims_the_oldest_queued_run_and_records_the_device() {
    let (_dir, db, dataset) = database_with_data().await;
    assert_eq!(claim(&db, "cpu").await.unwrap(), None);
    let (older, newer) = (fixtures::run(&dataset), fixtures::run(&dataset));
    create(&db, &newer).await.unwrap();
    create(&db, &older).await.unwrap();
    let claimed = claim(&db, "cpu").await.unwrap().unwrap();
    assert_eq!(claimed.id, older.id);
    assert_eq!((claimed.status, claimed.device.as_deref()), (RunStatus::Running, Some("cpu")));
    assert!(claimed.started_at.is_some());
    assert_eq!(get(&db, older.id).await.unwrap(), Some(claimed));
    assert_eq!(claim(&db, "cpu").await.unwrap().unwrap().id, newer.id);
    assert_eq!(claim(&db, "cpu").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_claims_of_a_run_have_one_winner() {
    let (dir, db, dataset) = database_with_data().await;
    // Pools of its own, like another process.
    let other = Db::open(dir.path()).await.unwrap();
    for _ in 0..5 {
        fixtures::stored_run(&db, &dataset).await;
    }
    let claims: Vec<_> = (0..20)
        .map(|i| (if i % 2 == 0 { &db } else { &other }).clone())
        .map(|db| tokio::spawn(async move { claim(&db, "cpu").await.unwrap() }))
        .collect();
    let mut claimed = Vec::new();
    for claim in claims {
        claimed.extend(claim.await.unwrap().map(|run| run.id.to_string()));
    }
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 5);
}

#[tokio::test]
async fn applies_the_actions_that_the_domain_allows_in_each_status() {
    let (_dir, db, dataset) = database_with_data().await;
    for (before, action) in RunStatus::ALL.into_iter().flat_map(|status| RunAction::ALL.map(|action| (status, action)))
    {
        let id = run_in(&db, &dataset, before).await;
        let answer = match action {
            RunAction::Pause => pause(&db, id).await,
            RunAction::Resume => resume(&db, id, None).await,
            RunAction::Cancel => cancel(&db, id).await,
            RunAction::Delete => {
                let before = get(&db, id).await.unwrap();
                delete(&db, id).await.map(|deleted| deleted.and(before))
            }
        };
        let Ok(after) = before.apply(action) else {
            assert!(matches!(answer, Err(StoreError::InvalidTransition(_))), "{action} {before}");
            assert_eq!(status(&db, id).await, before);
            continue;
        };
        let run = answer.unwrap().unwrap();
        assert_eq!(run.status, after, "{action} {before}");
        if action != RunAction::Delete && after != before {
            assert_eq!(run.finished_at.is_some(), after.is_final(), "{action} {before}");
        }
        let stored = get(&db, id).await.unwrap();
        assert_eq!(stored, (action != RunAction::Delete).then_some(run), "{action} {before}");
    }
    for missing in [pause(&db, RunId::new()).await, resume(&db, RunId::new(), None).await] {
        assert_eq!(missing.unwrap(), None);
    }
}

#[tokio::test]
async fn repeating_an_action_returns_the_same_run() {
    for (status, action) in RunStatus::ALL.into_iter().flat_map(|status| RunAction::ALL.map(|action| (status, action)))
    {
        if let Ok(after) = status.apply(action) {
            assert_eq!(after.apply(action), Ok(after), "{action} {status}");
        }
    }
}

#[tokio::test]
async fn a_failed_run_resumes_with_another_learning_rate_and_a_warning() {
    let (_dir, db, dataset) = database_with_data().await;
    let run = fixtures::stored_run(&db, &dataset).await;
    claim(&db, "cpu").await.unwrap();
    let position = Position { stage: 1, step: 2, epoch: 3, batch: 4 };
    let file = crate::store::StoredFile {
        name: "checkpoint-1.safetensors".into(),
        sha256: crate::domain::Sha256::of(b"weights"),
        byte_length: 7,
    };
    let checkpoint =
        StoredCheckpoint { sequence: 1, file, position, epochs: 5, steps: 7, created_at: Timestamp::now() };
    add_checkpoint(&db, run.id, CheckpointRecords::default(), &checkpoint).await.unwrap();
    finish(&db, run.id, RunStatus::Failed, Some("the loss is not finite")).await.unwrap();
    let resumed = resume(&db, run.id, Some(1e-5)).await.unwrap().unwrap();
    assert_eq!((resumed.status, &resumed.error, resumed.finished_at), (RunStatus::Queued, &None, None));
    let mut plan = run.plan.clone();
    plan.stages[0].steps[1].learning_rate = 1e-5;
    assert_eq!(resumed.plan, plan);
    assert_eq!(get(&db, run.id).await.unwrap(), Some(resumed));
    let recorded = events::list(&db, run.id, 0, 100).await.unwrap();
    let is_warning =
        |event: &RunEvent| matches!(event, RunEvent::Warning { message } if message.contains("1, step 2 continues"));
    assert!(recorded.iter().any(|stored| is_warning(&stored.event)), "{recorded:?}");
    claim(&db, "cpu").await.unwrap().unwrap();
    assert!(matches!(resume(&db, run.id, Some(1e-6)).await, Err(StoreError::InvalidTransition(_))));
}

#[tokio::test]
async fn counts_starts_since_the_last_checkpoint() {
    let (_dir, db, dataset) = database_with_data().await;
    let run = fixtures::stored_run(&db, &dataset).await;
    for starts in 1..=3 {
        assert_eq!(claim(&db, "cpu").await.unwrap().unwrap().starts, starts);
        interrupt(&db, run.id).await.unwrap();
    }
    let file =
        crate::store::StoredFile { name: "a".into(), sha256: crate::domain::Sha256::of(b"weights"), byte_length: 7 };
    let position = Position::start_of_stage(1);
    let checkpoint =
        StoredCheckpoint { sequence: 1, file, position, epochs: 0, steps: 0, created_at: Timestamp::now() };
    add_checkpoint(&db, run.id, CheckpointRecords::default(), &checkpoint).await.unwrap();
    assert_eq!(claim(&db, "cpu").await.unwrap().unwrap().starts, 1);
}

#[tokio::test]
async fn a_run_ends_only_as_the_domain_allows() {
    let (_dir, db, dataset) = database_with_data().await;
    for before in RunStatus::ALL {
        for after in RunStatus::ALL {
            let id = run_in(&db, &dataset, before).await;
            let ended = finish(&db, id, after, Some("why")).await;
            let legal = after.is_final() && before.transition(after).is_ok();
            assert_eq!(ended.is_ok(), legal, "{before} to {after}");
            let run = get(&db, id).await.unwrap().unwrap();
            assert_eq!(run.status, if legal { after } else { before });
            assert_eq!(run.finished_at.is_some(), legal);
            assert_eq!(run.error.as_deref(), legal.then_some("why"));
        }
    }
    let missing = finish(&db, RunId::new(), RunStatus::Failed, None).await;
    assert!(matches!(missing, Err(StoreError::Gone)));
}

#[tokio::test]
async fn stores_progress_and_epochs_and_refuses_a_second_epoch_of_a_sequence() {
    let (_dir, db, dataset) = database_with_data().await;
    let id = fixtures::stored_run(&db, &dataset).await.id;
    let progress = RunProgress { stage: 2, fraction: 0.25, eta_seconds: Some(90.0), ..Default::default() };
    set_progress(&db, id, &progress).await.unwrap();
    assert_eq!(get(&db, id).await.unwrap().unwrap().progress, progress);
    assert!(set_progress(&db, RunId::new(), &progress).await.is_err());

    for sequence in [2, 1, 3] {
        add_epoch(&db, id, &epoch(sequence, 0.5)).await.unwrap();
    }
    assert_eq!(epochs(&db, id, 0).await.unwrap(), [epoch(1, 0.5), epoch(2, 0.5), epoch(3, 0.5)]);
    assert_eq!(epochs(&db, id, 2).await.unwrap(), [epoch(3, 0.5)]);
    assert!(matches!(add_epoch(&db, id, &epoch(3, 0.5)).await, Err(StoreError::Exists(_))));
}

#[tokio::test]
async fn refuses_an_epoch_whose_loss_is_not_a_number() {
    let (_dir, db, dataset) = database_with_data().await;
    let id = fixtures::stored_run(&db, &dataset).await.id;
    add_epoch(&db, id, &epoch(1, 0.5)).await.unwrap();
    assert!(matches!(add_epoch(&db, id, &epoch(2, f64::NAN)).await, Err(StoreError::Row(_))));
    assert_eq!(epochs(&db, id, 0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn reads_epochs_from_before_the_wait_was_measured() {
    let (_dir, db, dataset) = database_with_data().await;
    let id = fixtures::stored_run(&db, &dataset).await.id;
    let mut record = serde_json::to_value(epoch(1, 0.5)).unwrap();
    record.as_object_mut().unwrap().remove("data_wait_share").unwrap();
    let (key, record) = (id.to_string(), record.to_string());
    sqlx::query!("insert into epochs (run_id, sequence, record_json) values (?, 1, ?)", key, record)
        .execute(db.write().unwrap())
        .await
        .unwrap();
    assert_eq!(epochs(&db, id, 0).await.unwrap(), [EpochRecord { data_wait_share: None, ..epoch(1, 0.5) }]);
}

fn epoch(sequence: u32, loss: f64) -> EpochRecord {
    let train = EpochScores { loss, accuracy: 0.75, macro_f1: None };
    EpochRecord {
        sequence,
        stage: 1,
        step: 2,
        epoch: sequence,
        train,
        selection: EpochScores { macro_f1: Some(0.625), ..train },
        learning_rate: 1e-5,
        seconds: 12.5,
        images_per_second: 40.0,
        data_wait_share: Some(0.01),
        serving_wait_share: None,
    }
}

#[tokio::test]
async fn requeues_runs_of_a_dead_process_and_no_others() {
    let (_dir, db, dataset) = database_with_data().await;
    let mut runs = Vec::new();
    for status in RunStatus::ALL {
        runs.push((run_in(&db, &dataset, status).await, status));
    }
    assert_eq!(requeue_interrupted(&db).await.unwrap(), 2);
    for (id, before) in runs {
        let expected = match before {
            RunStatus::Running => RunStatus::Queued,
            RunStatus::Cancelling => RunStatus::Cancelled,
            other => other,
        };
        assert_eq!(status(&db, id).await, expected, "{before}");
    }
}

#[tokio::test]
async fn estimates_use_the_newest_success_on_the_device_that_was_not_interrupted() {
    let (_dir, db, dataset) = database_with_data().await;
    let mut ids = Vec::new();
    for status in [RunStatus::Succeeded, RunStatus::Succeeded, RunStatus::Failed] {
        let id = fixtures::stored_run(&db, &dataset).await.id;
        claim(&db, "cpu").await.unwrap().unwrap();
        finish(&db, id, status, None).await.unwrap();
        ids.push(id);
    }
    let id = async |network, device| latest_uninterrupted(&db, network, device).await.unwrap().map(|run| run.id);
    assert_eq!(id(Architecture::ResNet50, "cpu").await, Some(ids[1]));
    assert_eq!(id(Architecture::SimpleCnn, "cpu").await, None);
    assert_eq!(id(Architecture::ResNet50, "vulkan:0").await, None);
    let resumed = RunEvent::Status { from: Some(RunStatus::Paused), to: RunStatus::Running, cause: None };
    events::append(&db, ids[1], &resumed).await.unwrap();
    assert_eq!(id(Architecture::ResNet50, "cpu").await, Some(ids[0]), "the time of the other includes a pause");
}

#[tokio::test]
async fn counts_the_runs_on_a_data_set_that_have_not_ended() {
    let (_dir, db, dataset) = database_with_data().await;
    let other = fixtures::dataset("other");
    datasets::create(&db, &other).await.unwrap();
    fixtures::stored_run(&db, &other).await;
    assert_eq!(count_active(&db, dataset.id).await.unwrap(), 0);
    for status in RunStatus::ALL {
        run_in(&db, &dataset, status).await;
    }
    assert_eq!(count_active(&db, dataset.id).await.unwrap(), 4);
}

#[tokio::test]
async fn deleting_a_run_deletes_epochs_and_evaluations_but_not_its_models() {
    let (_dir, db, dataset) = database_with_data().await;
    let run = fixtures::stored_run(&db, &dataset).await;
    add_epoch(&db, run.id, &epoch(1, 0.5)).await.unwrap();
    let model = fixtures::model(Some(&run));
    let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
    models::create(&db, &model, std::slice::from_ref(&evaluation)).await.unwrap();

    assert!(matches!(delete(&db, run.id).await, Err(StoreError::InvalidTransition(_))));
    cancel(&db, run.id).await.unwrap();
    assert_eq!(delete(&db, run.id).await.unwrap(), Some(()));
    assert_eq!(delete(&db, run.id).await.unwrap(), None);
    assert_eq!(epochs(&db, run.id, 0).await.unwrap(), []);
    assert_eq!(evaluations::get(&db, evaluation.id).await.unwrap(), None);
    assert_eq!(models::get(&db, model.id).await.unwrap().unwrap().run_id, None);
}
