//! Events of training runs. An event is written in the transaction of the change that it reports, so that neither exists without the
//! other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, StoreError, columns, runs};
use crate::domain::{RangeTestResult, RunEvent, RunId, RunStatus};

/// A stored event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredEvent {
    /// Number within the run, from 1. Cursor of the list, and value of `Last-Event-ID`.
    pub id: u64,
    /// Time of the event.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The event.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// Adds an event to a run within a write transaction and returns its id. `Db::commit` notifies followers; they see an event that was
/// committed otherwise only at their next poll.
pub async fn append_in(tx: &mut SqliteConnection, run: RunId, event: &RunEvent) -> Result<u64, StoreError> {
    let run = run.to_string();
    let json = columns::to_json("run_events.event_json", event)?;
    let now = columns::time(Timestamp::now());
    let id = sqlx::query_scalar!(
        r#"insert into run_events (run_id, id, event_json, created_at)
             values (?1, (select coalesce(max(id), 0) + 1 from run_events where run_id = ?1), ?2, ?3)
             returning id as "id!: i64""#,
        run,
        json,
        now,
    )
    .fetch_one(tx)
    .await?;
    columns::number("run_events.id", id)
}

/// Adds an event that reports no change of the database.
pub async fn append(db: &Db, run: RunId, event: &RunEvent) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let id = append_in(&mut tx, run, event).await?;
    db.commit(tx).await?;
    Ok(id)
}

/// The first `limit` events with an id above `after`, in order.
pub async fn list(db: &Db, run: RunId, after: u64, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
    let run = run.to_string();
    // SQLite has no greater id.
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = sqlx::query_as!(
        Row,
        "select id, event_json, created_at from run_events where run_id = ? and id > ? order by id limit ?",
        run,
        after,
        limit,
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Results of a run's learning-rate range tests in order of the steps; the last result of each step.
pub async fn range_tests(db: &Db, run: RunId) -> Result<Vec<RangeTestResult>, StoreError> {
    let run = run.to_string();
    let rows = sqlx::query_scalar!(
        "select event_json from run_events where run_id = ? and event_json ->> '$.kind' = 'range_test' order by id",
        run,
    )
    .fetch_all(db.read())
    .await?;
    let mut choices = BTreeMap::new();
    for row in rows {
        if let RunEvent::RangeTest(choice) = columns::from_json("run_events.event_json", &row)? {
            choices.insert((choice.stage, choice.step), choice);
        }
    }
    Ok(choices.into_values().collect())
}

/// [`list`] with the status of the run; `None` if there is no such run. The status is read first, so that with a final status the list
/// includes the last event.
pub async fn follow(
    db: &Db,
    run: RunId,
    after: u64,
    limit: u32,
) -> Result<Option<(RunStatus, Vec<StoredEvent>)>, StoreError> {
    let Some(status) = runs::status(db, run).await? else { return Ok(None) };
    Ok(Some((status, list(db, run, after, limit).await?)))
}

struct Row {
    id: i64,
    event_json: String,
    created_at: String,
}

impl Row {
    fn read(self) -> Result<StoredEvent, StoreError> {
        Ok(StoredEvent {
            id: columns::number("run_events.id", self.id)?,
            created_at: columns::parse("run_events.created_at", &self.created_at)?,
            event: columns::from_json("run_events.event_json", &self.event_json)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{EpochRecord, EpochScores},
        store::{fixtures, models},
    };

    async fn stored(db: &Db, run: RunId) -> Vec<RunEvent> {
        let events = list(db, run, 0, 100).await.unwrap();
        assert!(events.iter().map(|event| event.id).eq(1..=events.len() as u64), "{events:?}");
        events.into_iter().map(|event| event.event).collect()
    }

    fn moved(from: Option<RunStatus>, to: RunStatus, cause: Option<&str>) -> RunEvent {
        RunEvent::Status { from, to, cause: cause.map(str::to_owned) }
    }

    #[tokio::test]
    async fn records_status_changes_epochs_and_models_in_order() {
        use RunStatus::*;
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        runs::claim(&db, "cpu").await.unwrap();
        runs::add_epoch(&db, run.id, &epoch()).await.unwrap();
        let model = fixtures::model(Some(&run));
        models::create(&db, &model, &[]).await.unwrap();
        runs::cancel(&db, run.id).await.unwrap();
        runs::cancel(&db, run.id).await.unwrap();
        runs::finish(&db, run.id, Failed, Some("the disk is full")).await.unwrap();
        let expected = [
            moved(None, Queued, None),
            moved(Some(Queued), Running, None),
            RunEvent::from(&epoch()),
            RunEvent::Stage { stage: 1, model_id: model.id },
            moved(Some(Running), Cancelling, None),
            moved(Some(Cancelling), Failed, Some("the disk is full")),
        ];
        assert_eq!(stored(&db, run.id).await, expected, "a repeated cancellation is recorded once");
    }

    #[tokio::test]
    async fn a_change_that_fails_records_no_event() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        assert!(runs::finish(&db, run.id, RunStatus::Cancelled, None).await.is_err(), "nobody cancelled it");
        runs::add_epoch(&db, run.id, &epoch()).await.unwrap();
        assert!(runs::add_epoch(&db, run.id, &epoch()).await.is_err(), "the sequence is in use");
        models::create(&db, &fixtures::model(None), &[]).await.unwrap();
        assert_eq!(stored(&db, run.id).await.len(), 2);
        assert!(
            append(&db, RunId::new(), &moved(None, RunStatus::Queued, None)).await.is_err(),
            "there is no such run"
        );
    }

    #[tokio::test]
    async fn each_run_has_its_own_numbers_and_its_events_are_deleted_with_it() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let (one, other) = (fixtures::stored_run(&db, &dataset).await, fixtures::stored_run(&db, &dataset).await);
        let warning = RunEvent::Warning { message: "slow".into() };
        assert_eq!(append(&db, one.id, &warning).await.unwrap(), 2);
        assert_eq!(append(&db, other.id, &warning).await.unwrap(), 2);
        let rest = list(&db, one.id, 1, 1).await.unwrap();
        assert_eq!((rest.len(), &rest[0].event), (1, &warning));
        runs::cancel(&db, one.id).await.unwrap();
        let (status, events) = follow(&db, one.id, 2, 100).await.unwrap().unwrap();
        assert_eq!((status, events[0].id), (RunStatus::Cancelled, 3));
        runs::delete(&db, one.id).await.unwrap();
        assert_eq!(follow(&db, one.id, 0, 100).await.unwrap(), None);
        assert_eq!((stored(&db, one.id).await.len(), stored(&db, other.id).await.len()), (0, 2));
    }

    #[tokio::test]
    async fn followers_are_notified_once_an_event_can_be_read() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let mut changes = db.events();
        let run = fixtures::stored_run(&db, &dataset).await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let mut tx = db.begin().await.unwrap();
        append_in(&mut tx, run.id, &RunEvent::Warning { message: "slow".into() }).await.unwrap();
        assert!(!changes.has_changed().unwrap());
        db.commit(tx).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(stored(&db, run.id).await.len(), 2);
    }

    fn epoch() -> EpochRecord {
        let train = EpochScores { loss: 0.5, accuracy: 0.75, macro_f1: None };
        EpochRecord {
            sequence: 1,
            stage: 1,
            step: 1,
            epoch: 1,
            train,
            selection: EpochScores { macro_f1: Some(0.625), ..train },
            learning_rate: 1e-3,
            seconds: 12.5,
            images_per_second: 40.0,
            data_wait_share: None,
            serving_wait_share: None,
        }
    }
}
