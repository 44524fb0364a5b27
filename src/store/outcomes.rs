//! What was predicted of each image of an evaluation.

use sqlx::SqliteConnection;

use super::{Db, Evaluation, Page, StoreError, columns};
use crate::domain::{ConfusionMatrix, EvaluatedImage, EvaluationId};

/// An evaluation with what was predicted of each of its images.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// Its counts.
    pub evaluation: Evaluation,
    /// One for each image that it counts.
    pub outcomes: Vec<EvaluatedImage>,
}

/// Adds those of an evaluation that is stored in the same transaction; refused when they are not what it counted.
pub(super) async fn insert(tx: &mut SqliteConnection, evaluated: &Evaluated) -> Result<(), StoreError> {
    let Evaluated { evaluation, outcomes } = evaluated;
    if counted(outcomes, evaluation.classes.len()).as_ref() != Some(&evaluation.confusion_matrix) {
        return Err(StoreError::Row(
            "outcomes: they are not those that the evaluation's confusion matrix counts".into(),
        ));
    }
    let id = evaluation.id.to_string();
    // One statement for all: thousands of images take milliseconds in place of seconds.
    let rows = columns::to_json("outcomes", outcomes)?;
    sqlx::query!(
        "insert into outcomes (evaluation_id, sha256, truth, predicted, probabilities_json)
           select ?1, value ->> 'sha256', value ->> 'truth', value ->> 'predicted', value -> 'probabilities'
           from json_each(?2)",
        id,
        rows
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "an outcome of this image"))?;
    Ok(())
}

/// None where an outcome names no class.
fn counted(outcomes: &[EvaluatedImage], classes: usize) -> Option<ConfusionMatrix> {
    let mut confusion = ConfusionMatrix::new(classes);
    for outcome in outcomes {
        if outcome.truth >= classes || outcome.predicted >= classes {
            return None;
        }
        confusion.record(outcome.truth, outcome.predicted);
    }
    Some(confusion)
}

/// All of an evaluation, in the order of the images' hashes; none for one of before they were kept.
pub async fn of_evaluation(db: &Db, id: EvaluationId) -> Result<Vec<EvaluatedImage>, StoreError> {
    page(db, id, &Page { limit: u32::MAX, after: None }).await
}

/// A page of them; the cursor is an image's hash.
pub async fn page(db: &Db, id: EvaluationId, page: &Page) -> Result<Vec<EvaluatedImage>, StoreError> {
    let (id, after) = (id.to_string(), page.after());
    let rows = sqlx::query!(
        "select * from outcomes where evaluation_id = ? and sha256 > ? order by sha256 limit ?",
        id,
        after,
        page.limit
    )
    .fetch_all(db.read())
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(EvaluatedImage {
            sha256: columns::hash("outcomes.sha256", row.sha256)?,
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

    /// A model that is not stored yet, with an evaluation and its outcomes.
    async fn evaluated(db: &Db) -> (Model, Evaluated) {
        let dataset = fixtures::stored_dataset(db).await;
        let model = fixtures::model(None);
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        let outcomes = fixtures::outcomes();
        (model, Evaluated { evaluation, outcomes })
    }

    async fn store(db: &Db, model: &Model, evaluated: &Evaluated) -> Result<(), StoreError> {
        let mut tx = db.begin().await?;
        models::create_in(&mut tx, model, std::slice::from_ref(evaluated)).await?;
        Ok(tx.commit().await?)
    }

    #[tokio::test]
    async fn outcomes_come_back_bit_for_bit_by_hash_and_go_with_their_evaluation() {
        let (_dir, db) = fixtures::db().await;
        let (model, evaluated) = evaluated(&db).await;
        store(&db, &model, &evaluated).await.unwrap();
        let mut expected = evaluated.outcomes.clone();
        expected.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        let id = evaluated.evaluation.id;
        assert_eq!(of_evaluation(&db, id).await.unwrap(), expected);
        assert_eq!(evaluations::get(&db, id).await.unwrap(), Some(evaluated.evaluation));
        models::delete(&db, model.id).await.unwrap();
        assert_eq!(of_evaluation(&db, id).await.unwrap(), []);
    }

    #[tokio::test]
    async fn outcomes_that_are_not_what_was_counted_are_refused_with_model_and_evaluation() {
        let (_dir, db) = fixtures::db().await;
        let (model, right) = evaluated(&db).await;
        let wrong: [fn(&mut Vec<EvaluatedImage>); 4] = [
            |outcomes| drop(outcomes.pop()),
            |outcomes| outcomes[0].predicted = 2,
            |outcomes| outcomes[0].truth = 3,
            |outcomes| outcomes[0].probabilities[0] = f32::NAN,
        ];
        for change in wrong {
            let mut evaluated = right.clone();
            change(&mut evaluated.outcomes);
            let refused = store(&db, &model, &evaluated).await;
            assert!(matches!(refused, Err(StoreError::Row(_))), "{refused:?}");
        }
        let mut twice = right.clone();
        twice.outcomes[1].sha256 = Sha256::of(b"image 0");
        let refused = store(&db, &model, &twice).await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
        assert_eq!(models::get(&db, model.id).await.unwrap(), None);
        assert_eq!(evaluations::get(&db, right.evaluation.id).await.unwrap(), None);
    }
}
