//! The thinned losses of the runs' batches.

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{LossCurve, LossPoint, RunId};

/// Writes what a curve holds now: adds what came since it was written last, and removes what was thinned away.
pub async fn write(db: &Db, run: RunId, curve: &LossCurve) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    write_in(&mut tx, run, curve).await?;
    tx.commit().await?;
    Ok(())
}

/// The same within a write transaction, for a checkpoint that has to find its losses.
pub async fn write_in(tx: &mut SqliteConnection, run: RunId, curve: &LossCurve) -> Result<(), StoreError> {
    let written = steps_in(tx, run).await?;
    set_steps(tx, run, curve.steps()).await?;
    let points = curve.points();
    let kept: Vec<u64> = points.iter().map(|point| point.step).collect();
    let (id, kept) = (run.to_string(), columns::to_json("loss_points.step", &kept)?);
    sqlx::query!("delete from loss_points where run_id = ? and step not in (select value from json_each(?))", id, kept)
        .execute(&mut *tx)
        .await?;
    // Of the steps before, a curve only ever forgets points.
    for point in points.iter().filter(|point| point.step > written) {
        insert(tx, &id, point).await?;
    }
    Ok(())
}

async fn insert(tx: &mut SqliteConnection, run: &str, point: &LossPoint) -> Result<(), StoreError> {
    let step: i64 = columns::number("loss_points.step", point.step)?;
    sqlx::query!(
        "insert into loss_points (run_id, step, stage, loss) values (?, ?, ?, ?)",
        run,
        step,
        point.stage,
        point.loss
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets what was trained after `step`, so that a run that goes on from there counts on from there.
pub async fn truncate_in(tx: &mut SqliteConnection, run: RunId, step: u64) -> Result<(), StoreError> {
    set_steps(tx, run, step).await?;
    let (id, last) = (run.to_string(), columns::number::<i64>("loss_points.step", step)?);
    sqlx::query!("delete from loss_points where run_id = ? and step > ?", id, last).execute(&mut *tx).await?;
    Ok(())
}

/// The points of a run in order, and how many batches it has trained.
pub async fn list(db: &Db, run: RunId) -> Result<(Vec<LossPoint>, u64), StoreError> {
    // In a transaction: a write between the two would give points beyond the number of steps.
    let mut tx = db.read().begin().await?;
    let steps = steps_in(&mut tx, run).await?;
    let run = run.to_string();
    let rows = sqlx::query_as!(Row, "select step, stage, loss from loss_points where run_id = ? order by step", run)
        .fetch_all(&mut *tx)
        .await?;
    Ok((rows.into_iter().map(Row::read).collect::<Result<_, _>>()?, steps))
}

/// The curve of a run, to be gone on with.
pub async fn curve(db: &Db, run: RunId) -> Result<LossCurve, StoreError> {
    let (points, steps) = list(db, run).await?;
    Ok(LossCurve::restore(&points, steps))
}

async fn steps_in(tx: &mut SqliteConnection, run: RunId) -> Result<u64, StoreError> {
    let run = run.to_string();
    let steps = sqlx::query_scalar!("select steps from loss_curves where run_id = ?", run).fetch_optional(tx).await?;
    columns::number("loss_curves.steps", steps.unwrap_or(0))
}

async fn set_steps(tx: &mut SqliteConnection, run: RunId, steps: u64) -> Result<(), StoreError> {
    let (run, steps) = (run.to_string(), columns::number::<i64>("loss_curves.steps", steps)?);
    sqlx::query!(
        "insert into loss_curves (run_id, steps) values (?, ?) on conflict (run_id) do update set steps = excluded.steps",
        run,
        steps
    )
    .execute(tx)
    .await?;
    Ok(())
}

struct Row {
    step: i64,
    stage: i64,
    loss: f64,
}

impl Row {
    fn read(self) -> Result<LossPoint, StoreError> {
        Ok(LossPoint {
            step: columns::number("loss_points.step", self.step)?,
            stage: columns::number("loss_points.stage", self.stage)?,
            loss: self.loss,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::MAX_LOSS_POINTS,
        store::{fixtures, runs},
    };

    async fn run(db: &Db) -> RunId {
        let dataset = fixtures::stored_dataset(db).await;
        fixtures::stored_run(db, &dataset).await.id
    }

    fn train(curve: &mut LossCurve, to: u64) {
        for step in curve.steps() + 1..=to {
            curve.push(1, (step as f64 * 0.7).sin());
        }
    }

    #[tokio::test]
    async fn a_curve_written_again_and_again_is_stored_as_it_is_and_bounded() {
        let (_dir, db) = fixtures::db().await;
        let run = run(&db).await;
        assert_eq!(list(&db, run).await.unwrap(), (vec![], 0));
        let mut curve = LossCurve::new();
        for to in [1, 1, 700, 1500, 1501, 5000, 20_000] {
            train(&mut curve, to);
            write(&db, run, &curve).await.unwrap();
            let (points, steps) = list(&db, run).await.unwrap();
            assert!(points == curve.points() && points.len() <= MAX_LOSS_POINTS, "{to}");
            assert_eq!(steps, to);
        }
    }

    #[tokio::test]
    async fn a_run_that_goes_on_from_a_checkpoint_drops_what_came_after_it_and_counts_on() {
        let (_dir, db) = fixtures::db().await;
        let run = run(&db).await;
        let mut before = LossCurve::new();
        train(&mut before, 9000);
        write(&db, run, &before).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        truncate_in(&mut tx, run, 5003).await.unwrap();
        db.commit(tx).await.unwrap();
        let (points, steps) = list(&db, run).await.unwrap();
        assert!(points.last().unwrap().step <= 5003 && steps == 5003);

        let mut after = curve(&db, run).await.unwrap();
        train(&mut after, 9000);
        write(&db, run, &after).await.unwrap();
        let (points, steps) = list(&db, run).await.unwrap();
        assert_eq!((&points, steps), (&after.points(), 9000));
        assert!(points.is_sorted_by(|a, b| a.step < b.step) && points.last().unwrap().step == 9000);
    }

    #[tokio::test]
    async fn a_loss_that_is_not_a_number_is_refused_and_losses_go_with_their_run() {
        let (_dir, db) = fixtures::db().await;
        let run = run(&db).await;
        let mut curve = LossCurve::new();
        train(&mut curve, 10);
        write(&db, run, &curve).await.unwrap();
        curve.push(1, f64::NAN);
        assert!(write(&db, run, &curve).await.is_err());
        assert_eq!(list(&db, run).await.unwrap().1, 10);
        runs::cancel(&db, run).await.unwrap();
        runs::delete(&db, run).await.unwrap();
        assert_eq!(list(&db, run).await.unwrap(), (vec![], 0));
    }
}
