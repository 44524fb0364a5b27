//! Training runs and their epochs. A state changes only inside a write transaction and only as
//! [`RunStatus::move_to`] allows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns, events};
use crate::domain::{Architecture, DatasetId, EpochRecord, RunEvent, RunId, RunProgress, RunStatus, TrainingPlan};

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
    let mut tx = db.begin().await?;
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
    .execute(&mut *tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a training run of this identifier"))?;
    tell_move(&mut tx, None, run).await?;
    db.commit(tx).await
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
    db.commit(tx).await?;
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
    db.commit(tx).await?;
    Ok(Some(run))
}

/// Ends it; `IllegalMove` when the state does not allow it, `RowNotFound` when there is no such run.
pub async fn finish(db: &Db, id: RunId, status: RunStatus, error: Option<&str>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let run = get_in(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    finish_in(&mut tx, run, status, error).await?;
    db.commit(tx).await
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

/// Writes what a move changes, and tells of the move.
async fn write_state(tx: &mut SqliteConnection, run: &Run) -> Result<(), StoreError> {
    let (id, status) = (run.id.to_string(), run.status.as_str());
    let before = sqlx::query_scalar!("select status from runs where id = ?", id).fetch_one(&mut *tx).await?;
    let before = columns::parse("runs.status", &before)?;
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
    .execute(&mut *tx)
    .await?;
    tell_move(tx, Some(before), run).await
}

async fn tell_move(tx: &mut SqliteConnection, from: Option<RunStatus>, run: &Run) -> Result<(), StoreError> {
    if from != Some(run.status) {
        let moved = RunEvent::Status { from, to: run.status, cause: run.error.clone() };
        events::append_in(tx, run.id, &moved).await?;
    }
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
pub async fn add_epoch(db: &Db, run: RunId, epoch: &EpochRecord) -> Result<(), StoreError> {
    let id = run.to_string();
    let record = columns::to_json("epochs.record_json", epoch)?;
    let mut tx = db.begin().await?;
    sqlx::query!("insert into epochs (run_id, sequence, record_json) values (?, ?, ?)", id, epoch.sequence, record)
        .execute(&mut *tx)
        .await
        .map_err(|e| StoreError::from_insert(e, "an epoch of this sequence"))?;
    events::append_in(&mut tx, run, &epoch.into()).await?;
    db.commit(tx).await
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
    db.commit(tx).await?;
    Ok(failed)
}

/// The newest run that trained this network on this device to its end without a break, so that its time is that of its work.
pub async fn measured(db: &Db, network: Architecture, device: &str) -> Result<Option<Run>, StoreError> {
    let network = columns::to_json("runs.plan_json", &network)?;
    let row = sqlx::query_as!(
        Row,
        "select * from runs
           where status = 'succeeded' and device = ? and plan_json -> '$.architecture' = ?
             and (select count(*) from run_events where run_id = runs.id and event_json ->> '$.to' = 'running') <= 1
           order by id desc limit 1",
        device,
        network,
    )
    .fetch_optional(db.read())
    .await?;
    row.map(Row::read).transpose()
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
mod tests;
