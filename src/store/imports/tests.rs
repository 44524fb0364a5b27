//! Imports, their rejections and their recovery after a restart.

use super::*;
use crate::store::{datasets, fixtures};

fn rejection(line: Option<u32>) -> ImportRejection {
    let kind = if line.is_some() { RejectionKind::RowWithoutFile } else { RejectionKind::Unusable };
    ImportRejection { kind, file: "train_split.txt".into(), line, reason: "three columns".into() }
}

fn rejected(rejections: Vec<ImportRejection>) -> ImportFindings {
    ImportFindings { rejections, ..ImportFindings::default() }
}

#[tokio::test]
async fn returns_counts_status_and_rejections_in_order() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let mut import = fixtures::stored_import(&db, &dataset).await;
    assert_eq!(get(&db, import.id).await.unwrap(), Some(import.clone()));

    update(&db, &import, &rejected(vec![rejection(Some(7)), rejection(None)])).await.unwrap();
    import.status = ImportStatus::Succeeded;
    (import.total, import.created, import.duplicates, import.rejected) = (1531, 1500, 28, 3);
    import.finished_at = Some(Timestamp::now());
    import.passed_over = vec![ExcludedRows { source: "cohen".into(), reason: "view \"L\"".into(), rows: 84 }];
    update(&db, &import, &rejected(vec![rejection(Some(2))])).await.unwrap();
    assert_eq!(get(&db, import.id).await.unwrap(), Some(import.clone()));
    let expected = [rejection(Some(7)), rejection(None), rejection(Some(2))];
    assert_eq!(rejections(&db, import.id).await.unwrap(), expected);
}

#[tokio::test]
async fn current_rejections_are_those_of_the_newest_ended_import_of_each_path() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let ended = |import: Import| Import { status: ImportStatus::Succeeded, ..import };
    let first = ended(fixtures::stored_import(&db, &dataset).await);
    update(&db, &first, &rejected(vec![rejection(Some(1))])).await.unwrap();
    let second = ended(fixtures::stored_import(&db, &dataset).await);
    update(&db, &second, &rejected(vec![rejection(Some(2))])).await.unwrap();
    let elsewhere = Import::started(dataset.id, "elsewhere".into());
    create(&db, &elsewhere, None).await.unwrap();
    update(&db, &ended(elsewhere), &rejected(vec![rejection(None)])).await.unwrap();
    let running = fixtures::stored_import(&db, &dataset).await;
    update(&db, &running, &rejected(vec![rejection(Some(4))])).await.unwrap();
    assert_eq!(current_rejections(&db, dataset.id).await.unwrap(), [rejection(Some(2)), rejection(None)]);
}

#[tokio::test]
async fn an_import_that_succeeded_refuses_updates_and_their_rejections() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let ended = Import { status: ImportStatus::Succeeded, ..fixtures::stored_import(&db, &dataset).await };
    update(&db, &ended, &ImportFindings::default()).await.unwrap();
    for status in ImportStatus::ALL {
        let again = Import { status, ..ended.clone() };
        assert!(matches!(
            update(&db, &again, &rejected(vec![rejection(None)])).await,
            Err(StoreError::InvalidTransition(_))
        ));
    }
    assert_eq!(get(&db, ended.id).await.unwrap(), Some(ended.clone()));
    assert_eq!(rejections(&db, ended.id).await.unwrap(), []);
}

#[tokio::test]
async fn updating_an_import_of_a_deleted_data_set_fails() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let import = fixtures::stored_import(&db, &dataset).await;
    datasets::delete(&db, dataset.id).await.unwrap();
    let updated = update(&db, &import, &ImportFindings::default()).await;
    assert!(matches!(updated, Err(StoreError::Gone)));
}

#[tokio::test]
async fn fails_imports_of_a_dead_process_and_no_ended_ones() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let (orphan, mut done) =
        (fixtures::stored_import(&db, &dataset).await, fixtures::stored_import(&db, &dataset).await);
    done.status = ImportStatus::Succeeded;
    update(&db, &done, &ImportFindings::default()).await.unwrap();
    assert_eq!(fail_interrupted(&db, "the server ended").await.unwrap(), 1);
    let failed = get(&db, orphan.id).await.unwrap().unwrap();
    assert_eq!((failed.status, failed.error.as_deref()), (ImportStatus::Failed, Some("the server ended")));
    assert!(failed.finished_at.is_some());
    assert_eq!(get(&db, done.id).await.unwrap(), Some(done));
    assert_eq!(fail_interrupted(&db, "the server ended").await.unwrap(), 0);
}

#[tokio::test]
async fn interrupted_imports_are_returned_with_their_request_and_reset_counts() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let from_command_line = fixtures::stored_import(&db, &dataset).await;
    let import = Import { id: ImportId::new(), created: 7, rejected: 1, ..from_command_line.clone() };
    let request = serde_json::json!({ "path": "covidx" });
    create(&db, &import, Some(&request)).await.unwrap();
    let (kind, file) = (RejectionKind::Unusable, "a.png".into());
    update(&db, &import, &rejected(vec![ImportRejection { kind, file, line: None, reason: "cut off".into() }]))
        .await
        .unwrap();
    let restarted = Import { total: 0, created: 0, rejected: 0, ..import.clone() };
    assert_eq!(interrupted(&db).await.unwrap(), [(restarted.clone(), request)]);
    assert_eq!(rejections(&db, import.id).await.unwrap(), []);
    assert_eq!(fail_interrupted(&db, "the server ended").await.unwrap(), 1, "the other one");
    update(&db, &Import { status: ImportStatus::Succeeded, ..restarted }, &ImportFindings::default()).await.unwrap();
    assert_eq!(interrupted(&db).await.unwrap(), []);
}

#[tokio::test]
async fn an_import_continues_although_a_starting_server_marked_it_as_failed() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let import = fixtures::stored_import(&db, &dataset).await;
    assert_eq!(fail_interrupted(&db, "the server ended").await.unwrap(), 1);
    let running = Import { created: 7, ..import };
    update(&db, &running, &rejected(vec![rejection(None)])).await.unwrap();
    assert_eq!(get(&db, running.id).await.unwrap(), Some(running.clone()));
    let succeeded = Import { status: ImportStatus::Succeeded, finished_at: Some(Timestamp::now()), ..running };
    update(&db, &succeeded, &ImportFindings::default()).await.unwrap();
    assert_eq!(get(&db, succeeded.id).await.unwrap(), Some(succeeded));
}
