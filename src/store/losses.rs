//! Loss curves of runs: the losses of batches, thinned out.

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{LossCurve, LossPoint, RunId};

/// Writes a curve: adds the points since the last write, and deletes those that were thinned out.
pub async fn write(db: &Db, run: RunId, curve: &LossCurve) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    write_in(&mut tx, run, curve).await?;
    tx.commit().await?;
    Ok(())
}

/// [`write()`] within a write transaction.
pub async fn write_in(tx: &mut SqliteConnection, run: RunId, curve: &LossCurve) -> Result<(), StoreError> {
    let written = steps_in(tx, run).await?;
    set_steps(tx, run, curve.steps()).await?;
    let points = curve.points();
    let steps: Vec<u64> = points.iter().map(|point| point.step).collect();
    let (id, steps) = (run.to_string(), columns::to_json("loss_points.step", &steps)?);
    sqlx::query!(
        "delete from loss_points where run_id = ? and step not in (select value from json_each(?))",
        id,
        steps
    )
    .execute(&mut *tx)
    .await?;
    // A curve never gains points before a step that was written.
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

/// Deletes the points after `step`, for a run that resumes from there.
pub async fn truncate_in(tx: &mut SqliteConnection, run: RunId, step: u64) -> Result<(), StoreError> {
    set_steps(tx, run, step).await?;
    let (id, last) = (run.to_string(), columns::number::<i64>("loss_points.step", step)?);
    sqlx::query!("delete from loss_points where run_id = ? and step > ?", id, last).execute(&mut *tx).await?;
    Ok(())
}

/// Points of a run in order, and the number of batches that it has trained.
pub async fn list(db: &Db, run: RunId) -> Result<(Vec<LossPoint>, u64), StoreError> {
    // In a transaction: a write between the two queries would give points beyond the number of batches.
    let mut tx = db.read().begin().await?;
    let steps = steps_in(&mut tx, run).await?;
    let run = run.to_string();
    let rows = sqlx::query_as!(Row, "select step, stage, loss from loss_points where run_id = ? order by step", run)
        .fetch_all(&mut *tx)
        .await?;
    Ok((rows.into_iter().map(Row::read).collect::<Result<_, _>>()?, steps))
}

/// Curve of a run, for resuming it.
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
    async fn stores_a_growing_curve_with_a_bounded_number_of_points() {
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
    async fn a_run_that_resumes_from_a_checkpoint_loses_later_points_and_continues_the_numbering() {
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
    async fn refuses_a_loss_that_is_not_a_number_and_deletes_losses_with_their_run() {
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
