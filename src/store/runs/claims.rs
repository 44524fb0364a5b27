//! Taking runs from the queue and returning them to it.

use jiff::Timestamp;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Row, Run, get_in, write_state};
use crate::{
    domain::{RunId, RunStatus},
    store::{Db, StoreError},
};

/// Starts the oldest queued run on `device` and returns it.
pub async fn claim(db: &Db, device: &str) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let row = sqlx::query_as!(Row, "select * from runs where status = 'queued' order by id limit 1")
        .fetch_optional(&mut *tx)
        .await?;
    let Some(run) = row.map(Row::read).transpose()? else { return Ok(None) };
    start(db, tx, run, device).await.map(Some)
}

/// Starts a queued run on `device` and returns it. `InvalidTransition` if it is not queued.
pub async fn claim_one(db: &Db, id: RunId, device: &str) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let Some(run) = get_in(&mut tx, id).await? else { return Ok(None) };
    start(db, tx, run, device).await.map(Some)
}

async fn start(db: &Db, mut tx: Transaction<'static, Sqlite>, mut run: Run, device: &str) -> Result<Run, StoreError> {
    run.status = run.status.transition(RunStatus::Running)?;
    run.device = Some(device.to_owned());
    run.started_at = run.started_at.or_else(|| Some(Timestamp::now()));
    run.starts += 1;
    write_state(&mut tx, &run).await?;
    db.commit(tx).await?;
    Ok(run)
}

/// Returns a run to the queue that the end of the program interrupts; a run that is being cancelled ends. `InvalidTransition` if it is not
/// running.
pub async fn interrupt(db: &Db, id: RunId) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let run = get_in(&mut tx, id).await?.ok_or(StoreError::Gone)?;
    interrupt_in(&mut tx, run).await?;
    db.commit(tx).await
}

async fn interrupt_in(tx: &mut SqliteConnection, mut run: Run) -> Result<(), StoreError> {
    let next = if run.status == RunStatus::Cancelling { RunStatus::Cancelled } else { RunStatus::Queued };
    run.status = run.status.transition(next)?;
    run.finished_at = next.is_final().then(Timestamp::now);
    write_state(tx, &run).await
}

/// [`interrupt`] for all runs that a dead process left running. Returns their number.
pub async fn requeue_interrupted(db: &Db) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query_as!(Row, "select * from runs where status in ('running', 'cancelling')")
        .fetch_all(&mut *tx)
        .await?;
    let mut requeued = 0;
    for row in rows {
        interrupt_in(&mut tx, row.read()?).await?;
        requeued += 1;
    }
    db.commit(tx).await?;
    Ok(requeued)
}
