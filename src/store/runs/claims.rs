//! Runs that a process takes from the queue and puts back into it.

use jiff::Timestamp;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Row, Run, get_in, write_state};
use crate::{
    domain::{RunId, RunStatus},
    store::{Db, StoreError},
};

/// The oldest queued run, now running on `device`.
pub async fn claim(db: &Db, device: &str) -> Result<Option<Run>, StoreError> {
    let mut tx = db.begin().await?;
    let row = sqlx::query_as!(Row, "select * from runs where status = 'queued' order by id limit 1")
        .fetch_optional(&mut *tx)
        .await?;
    let Some(run) = row.map(Row::read).transpose()? else { return Ok(None) };
    start(db, tx, run, device).await.map(Some)
}

/// That run, now running on `device`. `InvalidTransition` unless it is queued.
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

/// Puts a run that the program's end interrupts back into the queue; one that somebody asked to stop meanwhile stops. `InvalidTransition` when
/// it does not run.
pub async fn interrupt(db: &Db, id: RunId) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let run = get_in(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    interrupt_in(&mut tx, run).await?;
    db.commit(tx).await
}

async fn interrupt_in(tx: &mut SqliteConnection, mut run: Run) -> Result<(), StoreError> {
    let next = if run.status == RunStatus::Cancelling { RunStatus::Cancelled } else { RunStatus::Queued };
    run.status = run.status.transition(next)?;
    run.finished_at = next.is_final().then(Timestamp::now);
    write_state(tx, &run).await
}

/// Does so with all runs that a dead process left running; how many there were.
pub async fn requeue_orphans(db: &Db) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query_as!(Row, "select * from runs where status in ('running', 'cancelling')")
        .fetch_all(&mut *tx)
        .await?;
    let mut orphans = 0;
    for row in rows {
        interrupt_in(&mut tx, row.read()?).await?;
        orphans += 1;
    }
    db.commit(tx).await?;
    Ok(orphans)
}
