//! Predictions for the images of an evaluation.

use sqlx::SqliteConnection;

use super::{Db, Evaluation, Page, StoreError, columns};
use crate::domain::{ConfusionMatrix, EvaluatedImage, EvaluationId};

/// An evaluation with the prediction for each of its images.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRecord {
    /// The evaluation.
    pub evaluation: Evaluation,
    /// One item for each image.
    pub images: Vec<EvaluatedImage>,
}

/// Stores the predictions of an evaluation that is stored in the same transaction. They must have its confusion matrix.
pub(super) async fn insert(tx: &mut SqliteConnection, record: &EvaluationRecord) -> Result<(), StoreError> {
    let EvaluationRecord { evaluation, images } = record;
    if confusion(images, evaluation.classes.len()).as_ref() != Some(&evaluation.confusion_matrix) {
        return Err(StoreError::Row("outcomes: they differ from the evaluation's confusion matrix".into()));
    }
    let id = evaluation.id.to_string();
    // One statement for all: thousands of images take milliseconds instead of seconds.
    let rows = columns::to_json("outcomes", images)?;
    sqlx::query!(
        "insert into outcomes (evaluation_id, sha256, patient, truth, predicted, probabilities_json)
           select ?1, value ->> 'sha256', value ->> 'patient', value ->> 'truth', value ->> 'predicted', value -> 'probabilities'
           from json_each(?2)",
        id,
        rows
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a prediction for this image"))?;
    Ok(())
}

/// Confusion matrix of the predictions; `None` if one of them has no such class.
fn confusion(images: &[EvaluatedImage], classes: usize) -> Option<ConfusionMatrix> {
    let mut confusion = ConfusionMatrix::new(classes);
    for image in images {
        if image.truth >= classes || image.predicted >= classes {
            return None;
        }
        confusion.record(image.truth, image.predicted);
    }
    Some(confusion)
}

/// All predictions of an evaluation, in order of the images' hashes; none for evaluations from before they were stored.
pub async fn of_evaluation(db: &Db, id: EvaluationId) -> Result<Vec<EvaluatedImage>, StoreError> {
    page(db, id, None, &Page { limit: u32::MAX, after: None }).await
}

/// A page of the predictions of an evaluation, optionally only of the correct or the wrong ones. The cursor is the hash of an image.
pub async fn page(
    db: &Db,
    id: EvaluationId,
    correct: Option<bool>,
    page: &Page,
) -> Result<Vec<EvaluatedImage>, StoreError> {
    let (id, after) = (id.to_string(), page.after());
    let rows = sqlx::query!(
        "select * from outcomes where evaluation_id = ?1 and sha256 > ?2 and (?3 is null or (truth = predicted) = ?3)
           order by sha256 limit ?4",
        id,
        after,
        correct,
        page.limit
    )
    .fetch_all(db.read())
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(EvaluatedImage {
            sha256: columns::hash("outcomes.sha256", row.sha256)?,
            patient: row.patient.map(|patient| columns::number("outcomes.patient", patient)).transpose()?,
            truth: columns::number("outcomes.truth", row.truth)?,
            predicted: columns::number("outcomes.predicted", row.predicted)?,
            probabilities: columns::from_json("outcomes.probabilities_json", &row.probabilities_json)?,
        })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Sha256, Split},
        store::{Model, evaluations, fixtures, models},
    };

    /// A model, not stored yet, with an evaluation.
    async fn model_and_record(db: &Db) -> (Model, EvaluationRecord) {
        let dataset = fixtures::stored_dataset(db).await;
        let model = fixtures::model(None);
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        (model, EvaluationRecord { evaluation, images: fixtures::evaluated_images() })
    }

    #[tokio::test]
    async fn returns_predictions_bit_for_bit_and_deletes_them_with_their_evaluation() {
        let (_dir, db) = fixtures::db().await;
        let (model, record) = model_and_record(&db).await;
        fixtures::store_evaluated(&db, &model, &record).await.unwrap();
        let mut expected = record.images.clone();
        expected.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        let id = record.evaluation.id;
        assert_eq!(of_evaluation(&db, id).await.unwrap(), expected);
        assert_eq!(evaluations::get(&db, id).await.unwrap(), Some(record.evaluation));
        models::delete(&db, model.id).await.unwrap();
        assert_eq!(of_evaluation(&db, id).await.unwrap(), []);
    }

    #[tokio::test]
    async fn refuses_predictions_that_differ_from_the_confusion_matrix() {
        let (_dir, db) = fixtures::db().await;
        let (model, right) = model_and_record(&db).await;
        let wrong: [fn(&mut Vec<EvaluatedImage>); 4] = [
            |images| drop(images.pop()),
            |images| images[0].predicted = 2,
            |images| images[0].truth = 3,
            |images| images[0].probabilities[0] = f32::NAN,
        ];
        for change in wrong {
            let mut record = right.clone();
            change(&mut record.images);
            let refused = fixtures::store_evaluated(&db, &model, &record).await;
            assert!(matches!(refused, Err(StoreError::Row(_))), "{refused:?}");
        }
        let mut twice = right.clone();
        twice.images[1].sha256 = Sha256::of(b"image 0");
        let refused = fixtures::store_evaluated(&db, &model, &twice).await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
        assert_eq!(models::get(&db, model.id).await.unwrap(), None);
        assert_eq!(evaluations::get(&db, right.evaluation.id).await.unwrap(), None);
    }
}
