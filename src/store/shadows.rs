//! Shadow predictions: those of a challenger for images that another model classified.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::{Db, StoreError, columns, predictions::PredictionPair};
use crate::domain::{ModelId, PredictionId};

/// A prediction of a challenger.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// Prediction that the client received.
    pub prediction_id: PredictionId,
    /// Model of the challenger.
    pub model_id: ModelId,
    /// Class that the client received.
    pub answered: String,
    /// Class predicted by the challenger.
    pub prediction: String,
    /// Probability of each class according to the challenger.
    pub probabilities: BTreeMap<String, f32>,
    /// Time of the prediction.
    pub created_at: Timestamp,
}

/// Stores shadow predictions.
pub(super) async fn create_in(tx: &mut SqliteConnection, shadows: &[Shadow]) -> Result<(), StoreError> {
    for shadow in shadows {
        let (prediction_id, model_id) = (shadow.prediction_id.to_string(), shadow.model_id.to_string());
        let probabilities = columns::to_json("shadows.probabilities_json", &shadow.probabilities)?;
        let created_at = columns::time(shadow.created_at);
        sqlx::query!(
            "insert into shadows (prediction_id, model_id, answered, prediction, probabilities_json, created_at)
               values (?, ?, ?, ?, ?, ?)",
            prediction_id,
            model_id,
            shadow.answered,
            shadow.prediction,
            probabilities,
            created_at,
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Predictions of a challenger against those that clients received.
pub async fn pairs(db: &Db, model: ModelId) -> Result<Vec<PredictionPair>, StoreError> {
    let model = model.to_string();
    let rows = sqlx::query!(
        r#"select prediction, answered, count(*) as "count!: i64" from shadows where model_id = ? group by answered, prediction"#,
        model
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            let count = columns::number("count", row.count)?;
            Ok(PredictionPair { said: row.prediction, other: row.answered, count })
        })
        .collect()
}

/// The newest predictions for which a challenger predicted another class.
pub async fn disagreements(db: &Db, model: ModelId, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
    let model = model.to_string();
    let ids = sqlx::query_scalar!(
        "select prediction_id from shadows where model_id = ? and answered <> prediction order by prediction_id desc limit ?",
        model,
        limit
    )
    .fetch_all(db.read())
    .await?;
    ids.iter().map(|id| columns::parse("shadows.prediction_id", id)).collect()
}

/// Deletes shadow predictions of predictions from before `then`.
pub async fn delete_before(db: &Db, then: Timestamp) -> Result<(), StoreError> {
    let first = columns::first_id(then);
    sqlx::query!("delete from shadows where prediction_id < ?", first).execute(db.write()?).await?;
    Ok(())
}
