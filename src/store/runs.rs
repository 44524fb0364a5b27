//! Training runs and their epochs. A state changes only inside a write transaction and only as
//! [`RunStatus::move_to`] allows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns};
use crate::domain::{DatasetId, EpochRecord, RunId, RunProgress, RunStatus, TrainingPlan};

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Identifier.
    pub id: RunId,
    /// Data.
    pub dataset_id: DatasetId,
    /// The data's content when the run was submitted.
    pub dataset_fingerprint: String,
    /// Free name.
    pub name: Option<String>,
    /// Recipe it came from.
    pub recipe: Option<String>,
    /// Complete plan.
    pub plan: TrainingPlan,
    /// Seed of shuffling, initialisation and dropout.
    pub seed: u32,
    /// State.
    pub status: RunStatus,
    /// How far.
    pub progress: RunProgress,
    /// Device it ran on.
    pub device: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Submitted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// A queued one.
pub async fn create(db: &Db, run: &Run) -> Result<(), StoreError> {
    let (id, dataset_id) = (run.id.to_string(), run.dataset_id.to_string());
    let plan = columns::to_json("runs.plan_json", &run.plan)?;
    let progress = columns::to_json("runs.progress_json", &run.progress)?;
    let status = run.status.as_str();
    let created_at = columns::time(run.created_at);
    let (started_at, finished_at) = (run.started_at.map(columns::time), run.finished_at.map(columns::time));
    sqlx::query!(
        "insert into runs (id, dataset_id, dataset_fingerprint, name, recipe, plan_json, seed, status, progress_json,
           device, error, created_at, started_at, finished_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        dataset_id,
        run.dataset_fingerprint,
        run.name,
        run.recipe,
        plan,
        run.seed,
        status,
        progress,
        run.device,
        run.error,
        created_at,
        started_at,
        finished_at,
    )
    .execute(db.write())
    .await
    .map_err(|e| StoreError::from_insert(e, "a training run of this identifier"))?;
    Ok(())
}

/// One.
pub async fn get(db: &Db, id: RunId) -> Result<Option<Run>, StoreError> {
    get_in(&mut *db.read().acquire().await?, id).await
}

async fn get_in(tx: &mut SqliteConnection, id: RunId) -> Result<Option<Run>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from runs where id = ?", id).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// A page, oldest first; optionally of one state.
pub async fn list(db: &Db, status: Option<RunStatus>, page: &Page) -> Result<Vec<Run>, StoreError> {
    let status = status.map(RunStatus::as_str);
    let after = page.after();
    let rows = sqlx::query_as!(
        Row,
        "select * from runs where id > ?1 and (?2 is null or status = ?2) order by id limit ?3",
        after,
        status,
        page.limit,
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// The oldest queued run, now running on `device`.
pub async fn claim(db: &Db, device: &str) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let row = sqlx::query_as!(Row, "select * from runs where status = 'queued' order by id limit 1")
        .fetch_optional(&mut *tx)
        .await?;
    let Some(mut run) = row.map(Row::read).transpose()? else { return Ok(None) };
    run.status = run.status.move_to(RunStatus::Running)?;
    run.device = Some(device.to_owned());
    run.started_at = Some(Timestamp::now());
    write_state(&mut tx, &run).await?;
    tx.commit().await?;
    Ok(Some(run))
}

/// queued becomes cancelled, running becomes cancelling; the run afterwards. Asking twice is fine: a run that is
/// cancelling stays so. `IllegalMove` from final states.
pub async fn cancel(db: &Db, id: RunId) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(mut run) = get_in(&mut tx, id).await? else { return Ok(None) };
    let next = match run.status {
        RunStatus::Cancelling => return Ok(Some(run)),
        RunStatus::Running => RunStatus::Cancelling,
        _ => RunStatus::Cancelled,
    };
    run.status = run.status.move_to(next)?;
    run.finished_at = next.is_final().then(Timestamp::now);
    write_state(&mut tx, &run).await?;
    tx.commit().await?;
    Ok(Some(run))
}

/// Ends it; `IllegalMove` when the state does not allow it, `RowNotFound` when there is no such run.
pub async fn finish(db: &Db, id: RunId, status: RunStatus, error: Option<&str>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let run = get_in(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    finish_in(&mut tx, run, status, error).await?;
    tx.commit().await?;
    Ok(())
}

async fn finish_in(
    tx: &mut SqliteConnection,
    mut run: Run,
    status: RunStatus,
    error: Option<&str>,
) -> Result<(), StoreError> {
    if !status.is_final() {
        return Err(StoreError::Row(format!("runs.status: a run does not end as {status}")));
    }
    run.status = run.status.move_to(status)?;
    run.error = error.map(str::to_owned);
    run.finished_at = Some(Timestamp::now());
    write_state(tx, &run).await
}

/// Writes what a move changes.
async fn write_state(tx: &mut SqliteConnection, run: &Run) -> Result<(), StoreError> {
    let (id, status) = (run.id.to_string(), run.status.as_str());
    let (started_at, finished_at) = (run.started_at.map(columns::time), run.finished_at.map(columns::time));
    sqlx::query!(
        "update runs set status = ?, device = ?, error = ?, started_at = ?, finished_at = ? where id = ?",
        status,
        run.device,
        run.error,
        started_at,
        finished_at,
        id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes progress. `RowNotFound` when there is no such run.
pub async fn set_progress(db: &Db, id: RunId, progress: &RunProgress) -> Result<(), StoreError> {
    let id = id.to_string();
    let progress = columns::to_json("runs.progress_json", progress)?;
    let result =
        sqlx::query!("update runs set progress_json = ? where id = ?", progress, id).execute(db.write()).await?;
    columns::must_exist(&result)
}

/// Adds an epoch; `Exists` when the run has one of this sequence.
pub async fn add_epoch(db: &Db, id: RunId, epoch: &EpochRecord) -> Result<(), StoreError> {
    let id = id.to_string();
    let record = columns::to_json("epochs.record_json", epoch)?;
    sqlx::query!("insert into epochs (run_id, sequence, record_json) values (?, ?, ?)", id, epoch.sequence, record)
        .execute(db.write())
        .await
        .map_err(|e| StoreError::from_insert(e, "an epoch of this sequence"))?;
    Ok(())
}

/// Epochs with a greater sequence, in order.
pub async fn epochs(db: &Db, id: RunId, after: u32) -> Result<Vec<EpochRecord>, StoreError> {
    let id = id.to_string();
    let records = sqlx::query_scalar!(
        "select record_json from epochs where run_id = ? and sequence > ? order by sequence",
        id,
        after
    )
    .fetch_all(db.read())
    .await?;
    records.iter().map(|record| columns::from_json("epochs.record_json", record)).collect()
}

/// Marks runs left running or cancelling by a dead process as failed; how many.
pub async fn fail_orphans(db: &Db, why: &str) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query_as!(Row, "select * from runs where status in ('running', 'cancelling')")
        .fetch_all(&mut *tx)
        .await?;
    let mut failed = 0;
    for row in rows {
        finish_in(&mut tx, row.read()?, RunStatus::Failed, Some(why)).await?;
        failed += 1;
    }
    tx.commit().await?;
    Ok(failed)
}

/// How many runs on this data set are not final.
pub async fn active_on(db: &Db, dataset: DatasetId) -> Result<u64, StoreError> {
    active_in(&mut *db.read().acquire().await?, dataset).await
}

pub(super) async fn active_in(tx: &mut SqliteConnection, dataset: DatasetId) -> Result<u64, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query!(
        r#"select status, count(*) as "runs!: i64" from runs where dataset_id = ? group by status"#,
        dataset
    )
    .fetch_all(tx)
    .await?;
    let mut active = 0;
    for row in rows {
        // Which states are final is the domain's to say, so it is not repeated in the query.
        if !columns::parse::<RunStatus>("runs.status", &row.status)?.is_final() {
            active += columns::number::<u64>("runs", row.runs)?;
        }
    }
    Ok(active)
}

/// Removes a final run with its epochs and evaluations; `InUse` when it has not ended. Its models stay.
pub async fn delete(db: &Db, id: RunId) -> Result<Option<()>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(run) = get_in(&mut tx, id).await? else { return Ok(None) };
    if !run.status.is_final() {
        return Err(StoreError::InUse("the training run has not ended"));
    }
    let id = id.to_string();
    sqlx::query!("delete from runs where id = ?", id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(()))
}

struct Row {
    id: String,
    dataset_id: String,
    dataset_fingerprint: String,
    name: Option<String>,
    recipe: Option<String>,
    plan_json: String,
    seed: i64,
    status: String,
    progress_json: String,
    device: Option<String>,
    error: Option<String>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

impl Row {
    fn read(self) -> Result<Run, StoreError> {
        Ok(Run {
            id: columns::parse("runs.id", &self.id)?,
            dataset_id: columns::parse("runs.dataset_id", &self.dataset_id)?,
            dataset_fingerprint: self.dataset_fingerprint,
            name: self.name,
            recipe: self.recipe,
            plan: columns::from_json("runs.plan_json", &self.plan_json)?,
            seed: columns::number("runs.seed", self.seed)?,
            status: columns::parse("runs.status", &self.status)?,
            progress: columns::from_json("runs.progress_json", &self.progress_json)?,
            device: self.device,
            error: self.error,
            created_at: columns::parse("runs.created_at", &self.created_at)?,
            started_at: columns::parse_some("runs.started_at", self.started_at.as_deref())?,
            finished_at: columns::parse_some("runs.finished_at", self.finished_at.as_deref())?,
        })
    }
}

#[cfg(test)]
mod tests {
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

    /// A stored run that is in `status`, led there by a raw update, as not every state can be reached by a move.
    async fn run_in(db: &Db, dataset: &crate::store::Dataset, status: RunStatus) -> RunId {
        let id = fixtures::stored_run(db, dataset).await.id;
        let (name, key) = (status.as_str(), id.to_string());
        sqlx::query!("update runs set status = ? where id = ?", name, key).execute(db.write()).await.unwrap();
        id
    }

    async fn status(db: &Db, id: RunId) -> RunStatus {
        get(db, id).await.unwrap().unwrap().status
    }

    #[tokio::test]
    async fn a_run_comes_back_as_it_was_stored() {
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
    async fn lists_run_oldest_first_and_can_be_of_one_state() {
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
    async fn the_oldest_queued_run_is_claimed_first_and_begins_on_its_device() {
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
    async fn a_run_claimed_by_many_at_once_goes_to_one() {
        let (dir, db, dataset) = database_with_data().await;
        // A second pair of pools, as another process has.
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
    async fn cancelling_does_in_each_state_what_the_domain_allows() {
        let (_dir, db, dataset) = database_with_data().await;
        for before in RunStatus::ALL {
            let id = run_in(&db, &dataset, before).await;
            let after = match before {
                RunStatus::Queued => RunStatus::Cancelled,
                RunStatus::Running | RunStatus::Cancelling => RunStatus::Cancelling,
                _ => {
                    let refused = cancel(&db, id).await;
                    // Paused, too, while the domain has no way out of it.
                    assert!(matches!(refused, Err(StoreError::IllegalMove(_))), "{before}");
                    assert_eq!(status(&db, id).await, before);
                    continue;
                }
            };
            let run = cancel(&db, id).await.unwrap().unwrap();
            assert_eq!(run.status, after, "{before}");
            assert_eq!(run.finished_at.is_some(), after.is_final());
            assert_eq!(get(&db, id).await.unwrap(), Some(run));
        }
        assert_eq!(cancel(&db, RunId::new()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_run_ends_only_as_its_state_allows() {
        let (_dir, db, dataset) = database_with_data().await;
        for before in RunStatus::ALL {
            for after in RunStatus::ALL {
                let id = run_in(&db, &dataset, before).await;
                let ended = finish(&db, id, after, Some("why")).await;
                let legal = after.is_final() && before.move_to(after).is_ok();
                assert_eq!(ended.is_ok(), legal, "{before} to {after}");
                let run = get(&db, id).await.unwrap().unwrap();
                assert_eq!(run.status, if legal { after } else { before });
                assert_eq!(run.finished_at.is_some(), legal);
                assert_eq!(run.error.as_deref(), legal.then_some("why"));
            }
        }
        let missing = finish(&db, RunId::new(), RunStatus::Failed, None).await;
        assert!(matches!(missing, Err(StoreError::Database(sqlx::Error::RowNotFound))));
    }

    #[tokio::test]
    async fn progress_and_epochs_come_back_and_a_sequence_is_taken_once() {
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
    async fn a_loss_that_is_not_a_number_is_refused_and_the_other_epochs_stay_readable() {
        let (_dir, db, dataset) = database_with_data().await;
        let id = fixtures::stored_run(&db, &dataset).await.id;
        add_epoch(&db, id, &epoch(1, 0.5)).await.unwrap();
        assert!(matches!(add_epoch(&db, id, &epoch(2, f64::NAN)).await, Err(StoreError::Row(_))));
        assert_eq!(epochs(&db, id, 0).await.unwrap().len(), 1);
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
        }
    }

    #[tokio::test]
    async fn runs_of_a_dead_process_fail_and_all_others_stay() {
        let (_dir, db, dataset) = database_with_data().await;
        let mut runs = Vec::new();
        for status in RunStatus::ALL {
            runs.push((run_in(&db, &dataset, status).await, status));
        }
        assert_eq!(fail_orphans(&db, "the server ended").await.unwrap(), 2);
        for (id, before) in runs {
            let orphan = matches!(before, RunStatus::Running | RunStatus::Cancelling);
            let run = get(&db, id).await.unwrap().unwrap();
            assert_eq!(run.status, if orphan { RunStatus::Failed } else { before });
            assert_eq!(run.error.as_deref(), orphan.then_some("the server ended"));
        }
    }

    #[tokio::test]
    async fn active_are_the_runs_on_that_data_set_that_have_not_ended() {
        let (_dir, db, dataset) = database_with_data().await;
        let other = fixtures::dataset("other");
        datasets::create(&db, &other).await.unwrap();
        fixtures::stored_run(&db, &other).await;
        assert_eq!(active_on(&db, dataset.id).await.unwrap(), 0);
        for status in RunStatus::ALL {
            run_in(&db, &dataset, status).await;
        }
        assert_eq!(active_on(&db, dataset.id).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_deleted_run_takes_epochs_and_evaluations_along_but_not_its_models() {
        let (_dir, db, dataset) = database_with_data().await;
        let run = fixtures::stored_run(&db, &dataset).await;
        add_epoch(&db, run.id, &epoch(1, 0.5)).await.unwrap();
        let model = fixtures::model(Some(&run));
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        models::create(&db, &model, std::slice::from_ref(&evaluation)).await.unwrap();

        assert!(matches!(delete(&db, run.id).await, Err(StoreError::InUse(_))));
        cancel(&db, run.id).await.unwrap();
        assert_eq!(delete(&db, run.id).await.unwrap(), Some(()));
        assert_eq!(delete(&db, run.id).await.unwrap(), None);
        assert_eq!(epochs(&db, run.id, 0).await.unwrap(), []);
        assert_eq!(evaluations::get(&db, evaluation.id).await.unwrap(), None);
        assert_eq!(models::get(&db, model.id).await.unwrap().unwrap().run_id, None);
    }
}
