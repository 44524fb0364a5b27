//! Training runs and their epochs. A status changes only within a write transaction and only as [`RunStatus::apply`] and
//! [`RunStatus::transition`] allow.

mod claims;
mod queued;
mod row;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, EvaluationRecord, Model, Page, StoreError, StoredCheckpoint, checkpoints, columns, events, models};
use crate::domain::{
    Architecture, DatasetId, EpochRecord, InvalidTransition, Position, RunAction, RunEvent, RunId, RunProgress,
    RunStatus, Sha256, TrainingPlan,
};
pub use claims::{claim, claim_one, interrupt, requeue_interrupted};
use row::Row;

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Identifier.
    pub id: RunId,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Fingerprint of the data set when the run was submitted.
    pub dataset_fingerprint: String,
    /// Name, if one was given.
    pub name: Option<String>,
    /// Recipe of the plan.
    pub recipe: Option<String>,
    /// Complete plan.
    pub plan: TrainingPlan,
    /// Random seed for shuffling, initialisation, augmentation and dropout.
    pub seed: u32,
    /// Hash of the ImageNet weights from which the run starts. Set at its start, or beforehand if it repeats a run; null for random weights.
    pub initial_weights_sha256: Option<Sha256>,
    /// Run that this one repeats.
    pub repeats: Option<RunId>,
    /// Status.
    pub status: RunStatus,
    /// Progress.
    pub progress: RunProgress,
    /// Device that trained the run.
    pub device: Option<String>,
    /// Reason for which the run failed.
    pub error: Option<String>,
    /// True if it trains on synthetic phantoms.
    #[serde(default)]
    pub synthetic: bool,
    /// Number of starts since the last checkpoint.
    #[serde(default)]
    pub starts: u32,
    /// Time of submission.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the first start.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Time of the end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// Stores a queued run.
pub async fn create(db: &Db, run: &Run) -> Result<(), StoreError> {
    create_with_events(db, run, &[]).await
}

/// Stores a queued run and, after the event that it was queued, these events, in one transaction: no worker can claim the run before.
pub async fn create_with_events(db: &Db, run: &Run, run_events: &[RunEvent]) -> Result<(), StoreError> {
    let (id, dataset_id) = (run.id.to_string(), run.dataset_id.to_string());
    let plan = columns::to_json("runs.plan_json", &run.plan)?;
    let progress = columns::to_json("runs.progress_json", &run.progress)?;
    let status = run.status.as_str();
    let (weights, repeats) =
        (run.initial_weights_sha256.as_ref().map(Sha256::as_str), run.repeats.map(|id| id.to_string()));
    let created_at = columns::time(run.created_at);
    let (started_at, finished_at) = (run.started_at.map(columns::time), run.finished_at.map(columns::time));
    let mut tx = db.begin().await?;
    sqlx::query!(
        "insert into runs (id, dataset_id, dataset_fingerprint, name, recipe, plan_json, seed, status, progress_json,
           device, error, synthetic, created_at, started_at, finished_at, initial_weights_sha256, repeats)
           values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        run.synthetic,
        created_at,
        started_at,
        finished_at,
        weights,
        repeats,
    )
    .execute(&mut *tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a training run of this identifier"))?;
    record_transition(&mut tx, None, run).await?;
    for event in run_events {
        events::append_in(&mut tx, run.id, event).await?;
    }
    db.commit(tx).await
}

/// A run by its identifier.
pub async fn get(db: &Db, id: RunId) -> Result<Option<Run>, StoreError> {
    get_in(&mut *db.read().acquire().await?, id).await
}

async fn get_in(tx: &mut SqliteConnection, id: RunId) -> Result<Option<Run>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from runs where id = ?", id).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// Status of a run; `None` if there is no such run.
pub async fn status(db: &Db, id: RunId) -> Result<Option<RunStatus>, StoreError> {
    let id = id.to_string();
    let status = sqlx::query_scalar!("select status from runs where id = ?", id).fetch_optional(db.read()).await?;
    columns::parse_some("runs.status", status.as_deref())
}

/// A page of runs, oldest first; optionally of one status.
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

/// Cancels a run and returns it as changed. `InvalidTransition` as [`RunStatus::apply`] says.
pub async fn cancel(db: &Db, id: RunId) -> Result<Option<Run>, StoreError> {
    apply(db, id, RunAction::Cancel).await
}

/// Pauses a run and returns it as changed. Its trainer stops before its next batch.
pub async fn pause(db: &Db, id: RunId) -> Result<Option<Run>, StoreError> {
    apply(db, id, RunAction::Pause).await
}

async fn apply(db: &Db, id: RunId, action: RunAction) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(mut run) = get_in(&mut tx, id).await? else { return Ok(None) };
    let next = run.status.apply(action)?;
    if next != run.status {
        run.status = next;
        run.finished_at = next.is_final().then(Timestamp::now);
        write_state(&mut tx, &run).await?;
        db.commit(tx).await?;
    }
    Ok(Some(run))
}

/// Queues a paused or failed run to resume from its last checkpoint, and returns it as changed. `learning_rate` replaces the rate of the
/// next step; this is refused while the run trains.
pub async fn resume(db: &Db, id: RunId, learning_rate: Option<f64>) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(mut run) = get_in(&mut tx, id).await? else { return Ok(None) };
    let (before, action) = (run.status, RunAction::Resume);
    run.status = before.apply(action)?;
    if let Some(rate) = learning_rate {
        if before == RunStatus::Running {
            return Err(InvalidTransition::Action { status: before, action }.into());
        }
        let last = checkpoints::of_run_in(&mut tx, id).await?.into_iter().next();
        let next = last.map_or(Position::start_of_stage(1), |checkpoint| checkpoint.position);
        if let Some(step) = run.plan.step_from(next) {
            step.learning_rate = rate;
        }
        write_plan(&mut tx, &run).await?;
        warn_of_rate(&mut tx, id, next, rate).await?;
    }
    if before != run.status {
        (run.error, run.finished_at, run.starts) = (None, None, 0);
        write_state(&mut tx, &run).await?;
    }
    db.commit(tx).await?;
    Ok(Some(run))
}

/// Warns that a step continues with another learning rate: the plan has one rate a step, so that a repetition cannot change it halfway.
async fn warn_of_rate(tx: &mut SqliteConnection, id: RunId, next: Position, rate: f64) -> Result<(), StoreError> {
    let Position { stage, step, epoch, batch } = next;
    if (epoch, batch) == (1, 0) {
        return Ok(());
    }
    let message = format!(
        "stage {stage}, step {step} continues with learning rate {rate} from epoch {epoch} on: a repetition of the run trains \
         the whole step with this rate"
    );
    events::append_in(tx, id, &RunEvent::Warning { message }).await?;
    Ok(())
}

async fn write_plan(tx: &mut SqliteConnection, run: &Run) -> Result<(), StoreError> {
    let (id, plan) = (run.id.to_string(), columns::to_json("runs.plan_json", &run.plan)?);
    sqlx::query!("update runs set plan_json = ? where id = ?", plan, id).execute(tx).await?;
    Ok(())
}

/// Ends a run. `InvalidTransition` as [`RunStatus::transition`] says, `Gone` if there is no such run.
pub async fn finish(db: &Db, id: RunId, status: RunStatus, error: Option<&str>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let mut run = get_in(&mut tx, id).await?.ok_or(StoreError::Gone)?;
    if !status.is_final() {
        return Err(StoreError::Row(format!("runs.status: {status} is not a final status")));
    }
    run.status = run.status.transition(status)?;
    run.error = error.map(str::to_owned);
    run.finished_at = Some(Timestamp::now());
    write_state(&mut tx, &run).await?;
    db.commit(tx).await
}

/// Writes the columns that a change of status concerns, and records the change.
async fn write_state(tx: &mut SqliteConnection, run: &Run) -> Result<(), StoreError> {
    let (id, status) = (run.id.to_string(), run.status.as_str());
    let before = sqlx::query_scalar!("select status from runs where id = ?", id).fetch_optional(&mut *tx).await?;
    let before = before.ok_or(StoreError::Gone)?;
    let before = columns::parse("runs.status", &before)?;
    let (started_at, finished_at) = (run.started_at.map(columns::time), run.finished_at.map(columns::time));
    sqlx::query!(
        "update runs set status = ?, device = ?, error = ?, starts = ?, started_at = ?, finished_at = ? where id = ?",
        status,
        run.device,
        run.error,
        run.starts,
        started_at,
        finished_at,
        id,
    )
    .execute(&mut *tx)
    .await?;
    record_transition(tx, Some(before), run).await
}

async fn record_transition(tx: &mut SqliteConnection, from: Option<RunStatus>, run: &Run) -> Result<(), StoreError> {
    if from != Some(run.status) {
        let event = RunEvent::Status { from, to: run.status, cause: run.error.clone() };
        events::append_in(tx, run.id, &event).await?;
    }
    Ok(())
}

/// Writes progress. `Gone` if there is no such run.
pub async fn set_progress(db: &Db, id: RunId, progress: &RunProgress) -> Result<(), StoreError> {
    let id = id.to_string();
    let progress = columns::to_json("runs.progress_json", progress)?;
    let result =
        sqlx::query!("update runs set progress_json = ? where id = ?", progress, id).execute(db.write()?).await?;
    columns::must_exist(&result)
}

/// Adds an epoch. `Exists` if the run has an epoch of this sequence.
pub async fn add_epoch(db: &Db, run: RunId, epoch: &EpochRecord) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    add_epoch_in(&mut tx, run, epoch).await?;
    db.commit(tx).await
}

async fn add_epoch_in(tx: &mut SqliteConnection, run: RunId, epoch: &EpochRecord) -> Result<(), StoreError> {
    let id = run.to_string();
    let record = columns::to_json("epochs.record_json", epoch)?;
    sqlx::query!("insert into epochs (run_id, sequence, record_json) values (?, ?, ?)", id, epoch.sequence, record)
        .execute(&mut *tx)
        .await
        .map_err(|e| StoreError::from_insert(e, "an epoch of this sequence"))?;
    events::append_in(tx, run, &epoch.into()).await?;
    Ok(())
}

/// Records that are written in the transaction of a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckpointRecords<'a> {
    /// The epoch that ended at the checkpoint.
    pub epoch: Option<&'a EpochRecord>,
    /// The model, with its evaluations, of the stage that ended at the checkpoint.
    pub stage: Option<(&'a Model, &'a [EvaluationRecord])>,
}

/// Adds a checkpoint with its records in one transaction. Returns the names of files of older checkpoints, which no row names any more.
pub async fn add_checkpoint(
    db: &Db,
    id: RunId,
    records: CheckpointRecords<'_>,
    checkpoint: &StoredCheckpoint,
) -> Result<Vec<String>, StoreError> {
    let mut tx = db.begin().await?;
    if let Some(epoch) = records.epoch {
        add_epoch_in(&mut tx, id, epoch).await?;
    }
    if let Some((model, evaluations)) = records.stage {
        models::create_in(&mut tx, model, evaluations).await?;
    }
    let removed = checkpoints::add_in(&mut tx, id, checkpoint).await?;
    let key = id.to_string();
    sqlx::query!("update runs set starts = 0 where id = ?", key).execute(&mut *tx).await?;
    let Position { stage, step, epoch, batch } = checkpoint.position;
    let event = RunEvent::Checkpoint { stage, step, epoch, batch, byte_length: checkpoint.file.byte_length };
    events::append_in(&mut tx, id, &event).await?;
    db.commit(tx).await?;
    Ok(removed)
}

/// Epochs of a run with a sequence above `after`, in order.
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

/// The newest run that trained this network on this device to its end without an interruption, for estimates of training time.
pub async fn latest_uninterrupted(db: &Db, network: Architecture, device: &str) -> Result<Option<Run>, StoreError> {
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

/// Number of runs on a data set whose status is not final.
pub async fn count_active(db: &Db, dataset: DatasetId) -> Result<u64, StoreError> {
    count_active_in(&mut *db.read().acquire().await?, dataset).await
}

pub(super) async fn count_active_in(tx: &mut SqliteConnection, dataset: DatasetId) -> Result<u64, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query!(
        r#"select status, count(*) as "runs!: i64" from runs where dataset_id = ? group by status"#,
        dataset
    )
    .fetch_all(tx)
    .await?;
    let mut active = 0;
    for row in rows {
        // The domain says which statuses are final; the query does not repeat it.
        if !columns::parse::<RunStatus>("runs.status", &row.status)?.is_final() {
            active += columns::number::<u64>("runs", row.runs)?;
        }
    }
    Ok(active)
}

/// Deletes a run with its epochs, checkpoints and evaluations. Its models are retained. `InvalidTransition` as [`RunStatus::apply`] says.
pub async fn delete(db: &Db, id: RunId) -> Result<Option<()>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(run) = get_in(&mut tx, id).await? else { return Ok(None) };
    run.status.apply(RunAction::Delete)?;
    let id = id.to_string();
    sqlx::query!("delete from runs where id = ?", id).execute(&mut *tx).await?;
    tx.commit().await?;
    db.erase_soon();
    Ok(Some(()))
}

#[cfg(test)]
mod tests;
