//! Recorded predictions. The images are not kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns};
use crate::domain::{ModelId, PredictionId, Sha256};

/// A recorded prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// Identifier.
    pub id: PredictionId,
    /// Model that answered.
    pub model_id: ModelId,
    /// Of the uploaded bytes, which are not kept.
    pub input_sha256: Sha256,
    /// Most probable class.
    pub prediction: String,
    /// By class.
    pub probabilities: BTreeMap<String, f32>,
    /// `{queue_ms, preprocess_ms, inference_ms}`.
    pub timing: serde_json::Value,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Records one.
pub async fn create(db: &Db, prediction: &Prediction) -> Result<(), StoreError> {
    let (id, model_id) = (prediction.id.to_string(), prediction.model_id.to_string());
    let input_sha256 = prediction.input_sha256.as_str();
    let probabilities = columns::to_json("predictions.probabilities_json", &prediction.probabilities)?;
    let timing = columns::to_json("predictions.timing_json", &prediction.timing)?;
    let created_at = columns::time(prediction.created_at);
    sqlx::query!(
        "insert into predictions (id, model_id, input_sha256, prediction, probabilities_json, timing_json, created_at)
           values (?, ?, ?, ?, ?, ?, ?)",
        id,
        model_id,
        input_sha256,
        prediction.prediction,
        probabilities,
        timing,
        created_at,
    )
    .execute(db.write())
    .await
    .map_err(|e| StoreError::from_insert(e, "a prediction of this identifier"))?;
    Ok(())
}

/// One.
pub async fn get(db: &Db, id: PredictionId) -> Result<Option<Prediction>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from predictions where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// A page in order of creation.
pub async fn list(db: &Db, page: &Page) -> Result<Vec<Prediction>, StoreError> {
    let after = page.after();
    let rows = sqlx::query_as!(Row, "select * from predictions where id > ? order by id limit ?", after, page.limit)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

struct Row {
    id: String,
    model_id: String,
    input_sha256: String,
    prediction: String,
    probabilities_json: String,
    timing_json: String,
    created_at: String,
}

impl Row {
    fn read(self) -> Result<Prediction, StoreError> {
        Ok(Prediction {
            id: columns::parse("predictions.id", &self.id)?,
            model_id: columns::parse("predictions.model_id", &self.model_id)?,
            input_sha256: columns::hash("predictions.input_sha256", self.input_sha256)?,
            prediction: self.prediction,
            probabilities: columns::from_json("predictions.probabilities_json", &self.probabilities_json)?,
            timing: columns::from_json("predictions.timing_json", &self.timing_json)?,
            created_at: columns::parse("predictions.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures;

    fn prediction() -> Prediction {
        Prediction {
            id: PredictionId::new(),
            model_id: ModelId::new(),
            input_sha256: Sha256::of(b"an upload"),
            prediction: "COVID-19".into(),
            probabilities: [("normal", 0.1), ("pneumonia", 1e-9), ("COVID-19", 0.9)].map(|(c, p)| (c.into(), p)).into(),
            timing: serde_json::json!({"queue_ms": 0.25, "preprocess_ms": 3.5, "inference_ms": 41.0}),
            created_at: Timestamp::now(),
        }
    }

    #[tokio::test]
    async fn predictions_come_back_as_they_were_stored_page_by_page() {
        let (_dir, db) = fixtures::db().await;
        let made = [prediction(), prediction(), prediction()];
        for prediction in &made {
            create(&db, prediction).await.unwrap();
        }
        assert_eq!(get(&db, made[1].id).await.unwrap().as_ref(), Some(&made[1]));
        assert_eq!(get(&db, PredictionId::new()).await.unwrap(), None);
        assert!(matches!(create(&db, &made[0]).await, Err(StoreError::Exists(_))));
        assert_eq!(list(&db, &Page { limit: 2, after: None }).await.unwrap(), made[..2]);
        let rest = Page { limit: 2, after: Some(made[1].id.to_string()) };
        assert_eq!(list(&db, &rest).await.unwrap(), made[2..]);
    }
}
