//! Recorded predictions. The images are not stored.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns, prediction_stats};
use crate::domain::{InputStatistics, ModelId, PredictionId, Sha256};

/// Maximum number of rows that are deleted in one transaction, so that others can write in between.
const MAX_DELETED: u32 = 5000;

/// A recorded prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// Identifier.
    pub id: PredictionId,
    /// Model that classified the image.
    pub model_id: ModelId,
    /// Hash of the uploaded bytes, which are not stored.
    pub input_sha256: Sha256,
    /// Most probable class.
    pub prediction: String,
    /// Probability of each class.
    pub probabilities: BTreeMap<String, f32>,
    /// Duration of each step: `queue_ms`, `preprocess_ms`, `inference_ms`.
    pub timing: serde_json::Value,
    /// Name of the key of the request; null if the server requires none.
    pub key: Option<String>,
    /// Class according to a clinician.
    pub feedback: Option<String>,
    /// Time of the feedback.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub feedback_at: Option<Timestamp>,
    /// Time of the prediction.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A prediction with values that enter the hourly statistics and are not stored themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedPrediction {
    /// The prediction.
    pub prediction: Prediction,
    /// Time from the arrival of the image to the response.
    pub milliseconds: f64,
    /// Statistics of the image.
    pub image: InputStatistics,
}

/// Number of images for which a model predicted one class, and clinicians or another model chose another or the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PredictionPair {
    /// Class predicted by the model.
    pub said: String,
    /// Class chosen by the others.
    pub other: String,
    /// Number of images.
    pub count: u64,
}

/// Stores predictions and adds them to the hourly statistics.
pub(super) async fn create_in(tx: &mut SqliteConnection, observed: &[ObservedPrediction]) -> Result<(), StoreError> {
    for observed in observed {
        insert(tx, &observed.prediction).await?;
    }
    prediction_stats::count_in(tx, observed).await
}

async fn insert(tx: &mut SqliteConnection, prediction: &Prediction) -> Result<(), StoreError> {
    let (id, model_id) = (prediction.id.to_string(), prediction.model_id.to_string());
    let input_sha256 = prediction.input_sha256.as_str();
    let probabilities = columns::to_json("predictions.probabilities_json", &prediction.probabilities)?;
    let timing = columns::to_json("predictions.timing_json", &prediction.timing)?;
    let created_at = columns::time(prediction.created_at);
    sqlx::query!(
        "insert into predictions (id, model_id, input_sha256, prediction, probabilities_json, timing_json, key_name, created_at)
           values (?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        model_id,
        input_sha256,
        prediction.prediction,
        probabilities,
        timing,
        prediction.key,
        created_at,
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a prediction of this identifier"))?;
    Ok(())
}

/// A prediction by its identifier.
pub async fn get(db: &Db, id: PredictionId) -> Result<Option<Prediction>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from predictions where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// A page of predictions in order of creation.
pub async fn list(db: &Db, page: &Page) -> Result<Vec<Prediction>, StoreError> {
    let after = page.after();
    let rows = sqlx::query_as!(Row, "select * from predictions where id > ? order by id limit ?", after, page.limit)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Sets or withdraws the feedback of a clinician. `Gone` if there is no such prediction.
pub async fn set_feedback(db: &Db, id: PredictionId, label: Option<&str>) -> Result<(), StoreError> {
    let (id, now) = (id.to_string(), label.map(|_| columns::time(Timestamp::now())));
    let set = sqlx::query!("update predictions set feedback = ?, feedback_at = ? where id = ?", label, now, id);
    columns::must_exist(&set.execute(db.write()?).await?)
}

/// Predictions of a model since then against the feedback of clinicians.
pub async fn feedback_of(db: &Db, model: ModelId, since: Timestamp) -> Result<Vec<PredictionPair>, StoreError> {
    let (model, since) = (model.to_string(), columns::first_id(since));
    let rows = sqlx::query!(
        r#"select prediction, feedback as "feedback!", count(*) as "count!: i64" from predictions
             where model_id = ? and feedback is not null and id >= ? group by prediction, feedback"#,
        model,
        since
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            let count = columns::number("count", row.count)?;
            Ok(PredictionPair { said: row.prediction, other: row.feedback, count })
        })
        .collect()
}

/// Deletes predictions from before `then` and returns their number. The hourly statistics are retained.
pub async fn delete_before(db: &Db, then: Timestamp) -> Result<u64, StoreError> {
    let first = columns::first_id(then);
    let mut deleted = 0;
    loop {
        let delete = sqlx::query!(
            "delete from predictions where id in (select id from predictions where id < ? order by id limit ?)",
            first,
            MAX_DELETED
        );
        match delete.execute(db.write()?).await?.rows_affected() {
            0 => return Ok(deleted),
            count => deleted += count,
        }
    }
}

struct Row {
    id: String,
    model_id: String,
    input_sha256: String,
    prediction: String,
    probabilities_json: String,
    timing_json: String,
    key_name: Option<String>,
    feedback: Option<String>,
    feedback_at: Option<String>,
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
            key: self.key_name,
            feedback: self.feedback,
            feedback_at: columns::parse_some("predictions.feedback_at", self.feedback_at.as_deref())?,
            created_at: columns::parse("predictions.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::store::fixtures;

    async fn create(db: &Db, observed: &[ObservedPrediction]) -> Result<(), StoreError> {
        let mut tx = db.begin().await?;
        create_in(&mut tx, observed).await?;
        Ok(tx.commit().await?)
    }

    #[tokio::test]
    async fn returns_predictions_as_stored_page_by_page() {
        let (_dir, db) = fixtures::db().await;
        let made = [(); 3].map(|()| fixtures::observed(ModelId::new(), "COVID-19"));
        create(&db, &made).await.unwrap();
        let made = made.map(|observed| observed.prediction);
        assert_eq!(get(&db, made[1].id).await.unwrap().as_ref(), Some(&made[1]));
        assert_eq!(get(&db, PredictionId::new()).await.unwrap(), None);
        assert_eq!(list(&db, &Page { limit: 2, after: None }).await.unwrap(), made[..2]);
        let rest = Page { limit: 2, after: Some(made[1].id.to_string()) };
        assert_eq!(list(&db, &rest).await.unwrap(), made[2..]);
    }

    #[tokio::test]
    async fn counts_feedback_by_class_and_can_withdraw_it() {
        let (_dir, db) = fixtures::db().await;
        let model = ModelId::new();
        let made = ["normal", "normal", "COVID-19", "normal"].map(|class| fixtures::observed(model, class));
        create(&db, &made).await.unwrap();
        let long_ago = Timestamp::now() - 1.hour();
        assert_eq!(feedback_of(&db, model, long_ago).await.unwrap(), []);
        for (at, label) in [(0, "normal"), (1, "pneumonia"), (2, "COVID-19"), (3, "pneumonia")] {
            set_feedback(&db, made[at].prediction.id, Some(label)).await.unwrap();
        }
        let pair = |said: &str, other: &str, count| PredictionPair { said: said.into(), other: other.into(), count };
        let mut found = feedback_of(&db, model, long_ago).await.unwrap();
        found.sort_by(|one, other| (&one.said, &one.other).cmp(&(&other.said, &other.other)));
        assert_eq!(
            found,
            [pair("COVID-19", "COVID-19", 1), pair("normal", "normal", 1), pair("normal", "pneumonia", 2)]
        );
        assert_eq!(feedback_of(&db, model, Timestamp::now() + 1.hour()).await.unwrap(), []);
        set_feedback(&db, made[0].prediction.id, None).await.unwrap();
        let withdrawn = get(&db, made[0].prediction.id).await.unwrap().unwrap();
        assert_eq!((withdrawn.feedback, withdrawn.feedback_at), (None, None));
        assert!(set_feedback(&db, PredictionId::new(), Some("normal")).await.is_err());
    }

    #[tokio::test]
    async fn deletes_old_predictions_and_retains_their_hourly_statistics() {
        let (_dir, db) = fixtures::db().await;
        let model = ModelId::new();
        create(&db, &[(); 3].map(|()| fixtures::observed(model, "normal"))).await.unwrap();
        assert_eq!(delete_before(&db, Timestamp::now() - 1.hour()).await.unwrap(), 0);
        assert_eq!(delete_before(&db, Timestamp::now() + 1.second()).await.unwrap(), 3);
        assert_eq!(list(&db, &Page { limit: 2, after: None }).await.unwrap(), []);
        let hours = prediction_stats::hours(&db, model, Timestamp::now() - 2.hours()).await.unwrap();
        assert_eq!(hours.iter().map(|(_, counts)| counts.predictions()).sum::<u64>(), 3);
    }
}
