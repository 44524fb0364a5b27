//! Evaluations of models and their scores for each class.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, StoreError, columns};
use crate::domain::{ClassList, ConfusionMatrix, DatasetId, EvaluationId, ModelId, RunId, Scores, Split};

/// An evaluation of a model on a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// Identifier.
    pub id: EvaluationId,
    /// Evaluated model.
    pub model_id: ModelId,
    /// Run that trained the model and evaluated it when its stage ended; null for an evaluation that was requested later.
    pub run_id: Option<RunId>,
    /// Stage of the run, from 1; null without a run.
    pub stage: Option<u32>,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Fingerprint of the data set at that time.
    pub dataset_fingerprint: String,
    /// Evaluated split.
    pub split: Split,
    /// Split by which the epoch was selected. Scores on this split are optimistic.
    pub selection_split: Option<Split>,
    /// Classes, in the order of the matrix.
    pub classes: ClassList,
    /// Confusion matrix: rows are true classes, columns predicted ones.
    pub confusion_matrix: ConfusionMatrix,
    /// Scores with 95 % intervals that take patients as the unit. Null for evaluations of earlier versions, until the server has computed
    /// them in the background.
    pub scores: Option<Scores>,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Duration in seconds.
    pub seconds: f64,
    /// Time of evaluation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Stores an evaluation with its scores for each class.
pub async fn create(db: &Db, evaluation: &Evaluation) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    insert(&mut tx, evaluation).await?;
    tx.commit().await?;
    Ok(())
}

/// [`create`] within a transaction.
pub(super) async fn insert(tx: &mut SqliteConnection, evaluation: &Evaluation) -> Result<(), StoreError> {
    let (id, model_id) = (evaluation.id.to_string(), evaluation.model_id.to_string());
    let run_id = evaluation.run_id.map(|id| id.to_string());
    let dataset_id = evaluation.dataset_id.to_string();
    let (split, selection_split) = (evaluation.split.as_str(), evaluation.selection_split.map(Split::as_str));
    let classes = columns::to_json("evaluations.classes_json", &evaluation.classes)?;
    let confusion = columns::to_json("evaluations.confusion_json", &evaluation.confusion_matrix)?;
    let scores =
        evaluation.scores.as_ref().map(|scores| columns::to_json("evaluations.scores_json", scores)).transpose()?;
    let created_at = columns::time(evaluation.created_at);
    sqlx::query!(
        "insert into evaluations (id, model_id, run_id, stage, dataset_id, dataset_fingerprint, split,
           selection_split, classes_json, confusion_json, scores_json, loss, seconds, created_at)
           values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        model_id,
        run_id,
        evaluation.stage,
        dataset_id,
        evaluation.dataset_fingerprint,
        split,
        selection_split,
        classes,
        confusion,
        scores,
        evaluation.loss,
        evaluation.seconds,
        created_at,
    )
    .execute(&mut *tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "an evaluation of this identifier"))?;
    insert_class_metrics(tx, evaluation).await
}

async fn insert_class_metrics(tx: &mut SqliteConnection, evaluation: &Evaluation) -> Result<(), StoreError> {
    let classes = evaluation.classes.names();
    let square = evaluation.confusion_matrix.rows().iter().all(|row| row.len() == classes.len());
    if !square || evaluation.confusion_matrix.rows().len() != classes.len() {
        return Err(StoreError::Row(format!("evaluations.confusion_json: not {0} by {0}", classes.len())));
    }
    let id = evaluation.id.to_string();
    for (class, scores) in classes.iter().zip(evaluation.confusion_matrix.per_class()) {
        let support: i64 = columns::number("class_metrics.support", scores.support)?;
        sqlx::query!(
            "insert into class_metrics (evaluation_id, class, precision, recall, f1, specificity, support)
               values (?, ?, ?, ?, ?, ?, ?)",
            id,
            class,
            scores.precision,
            scores.recall,
            scores.f1,
            scores.specificity,
            support,
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// An evaluation by its identifier.
pub async fn get(db: &Db, id: EvaluationId) -> Result<Option<Evaluation>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from evaluations where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// Evaluations of a run in order of stage, optionally of one stage or split.
pub async fn of_run(
    db: &Db,
    run: RunId,
    stage: Option<u32>,
    split: Option<Split>,
) -> Result<Vec<Evaluation>, StoreError> {
    let run = run.to_string();
    let split = split.map(Split::as_str);
    let rows = sqlx::query_as!(
        Row,
        "select * from evaluations where run_id = ?1 and (?2 is null or stage = ?2) and (?3 is null or split = ?3)
           order by stage, id",
        run,
        stage,
        split,
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Evaluations of a model, oldest first.
pub async fn of_model(db: &Db, model: ModelId) -> Result<Vec<Evaluation>, StoreError> {
    let model = model.to_string();
    let rows = sqlx::query_as!(Row, "select * from evaluations where model_id = ? order by id", model)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Some evaluations without scores whose predictions are stored.
pub async fn without_scores(db: &Db, limit: u32) -> Result<Vec<Evaluation>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select * from evaluations
           where scores_json is null and exists (select 1 from outcomes where evaluation_id = evaluations.id)
           order by id limit ?",
        limit
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Stores the scores of an evaluation that has none. An evaluation that was deleted meanwhile is no error.
pub async fn set_scores(db: &Db, id: EvaluationId, scores: &Scores) -> Result<(), StoreError> {
    let (id, scores) = (id.to_string(), columns::to_json("evaluations.scores_json", scores)?);
    let mut tx = db.begin().await?;
    sqlx::query!("update evaluations set scores_json = ? where id = ? and scores_json is null", scores, id)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

struct Row {
    id: String,
    model_id: String,
    run_id: Option<String>,
    stage: Option<i64>,
    dataset_id: String,
    dataset_fingerprint: String,
    split: String,
    selection_split: Option<String>,
    classes_json: String,
    confusion_json: String,
    scores_json: Option<String>,
    loss: f64,
    seconds: f64,
    created_at: String,
}

impl Row {
    fn read(self) -> Result<Evaluation, StoreError> {
        Ok(Evaluation {
            id: columns::parse("evaluations.id", &self.id)?,
            model_id: columns::parse("evaluations.model_id", &self.model_id)?,
            run_id: columns::parse_some("evaluations.run_id", self.run_id.as_deref())?,
            stage: self.stage.map(|stage| columns::number("evaluations.stage", stage)).transpose()?,
            dataset_id: columns::parse("evaluations.dataset_id", &self.dataset_id)?,
            dataset_fingerprint: self.dataset_fingerprint,
            split: columns::parse("evaluations.split", &self.split)?,
            selection_split: columns::parse_some("evaluations.selection_split", self.selection_split.as_deref())?,
            classes: columns::from_json("evaluations.classes_json", &self.classes_json)?,
            confusion_matrix: columns::from_json("evaluations.confusion_json", &self.confusion_json)?,
            scores: self
                .scores_json
                .map(|scores| columns::from_json("evaluations.scores_json", &scores))
                .transpose()?,
            loss: self.loss,
            seconds: self.seconds,
            created_at: columns::parse("evaluations.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Model, fixtures, models};

    #[tokio::test]
    async fn returns_an_evaluation_bit_for_bit_with_a_row_for_each_class() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let model = fixtures::model(None);
        models::create(&db, &model, &[]).await.unwrap();
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        create(&db, &evaluation).await.unwrap();
        assert_eq!(get(&db, evaluation.id).await.unwrap(), Some(evaluation.clone()));
        assert!(matches!(create(&db, &evaluation).await, Err(StoreError::Exists(_))));

        let rows = sqlx::query!("select * from class_metrics order by class").fetch_all(db.read()).await.unwrap();
        let row = |class: &str| rows.iter().find(|row| row.class == class).unwrap();
        assert_eq!(rows.len(), 3);
        // Two of three images predicted as normal are normal; one of two images of COVID-19 is predicted as such.
        assert_eq!((row("normal").precision, row("normal").recall), (2.0 / 3.0, Some(1.0)));
        assert_eq!((row("COVID-19").precision, row("COVID-19").recall), (1.0, Some(0.5)));
        assert_eq!((row("normal").specificity, row("normal").f1), (0.75, Some(0.8)));
        assert!(rows.iter().all(|row| row.support == 2 && row.evaluation_id == evaluation.id.to_string()));
    }

    #[tokio::test]
    async fn refuses_a_matrix_whose_size_is_not_the_number_of_classes() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let model = fixtures::model(None);
        models::create(&db, &model, &[]).await.unwrap();
        for size in [2, 4] {
            let confusion_matrix = ConfusionMatrix::new(size);
            let evaluation = Evaluation { confusion_matrix, ..fixtures::evaluation(&model, &dataset, Split::Test) };
            assert!(matches!(create(&db, &evaluation).await, Err(StoreError::Row(_))));
            assert_eq!(get(&db, evaluation.id).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn filters_evaluations_of_a_run_by_stage_and_split() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        let mut stored = Vec::new();
        for stage in [2, 1] {
            let model = Model { stage: Some(stage), ..fixtures::model(Some(&run)) };
            let scores = [Split::Train, Split::Test].map(|split| fixtures::evaluation(&model, &dataset, split));
            models::create(&db, &model, &scores).await.unwrap();
            stored.extend(scores);
        }
        stored.sort_by_key(|evaluation| evaluation.stage);
        assert_eq!(of_run(&db, run.id, None, None).await.unwrap(), stored);
        assert_eq!(of_run(&db, run.id, Some(1), None).await.unwrap(), stored[..2]);
        assert_eq!(of_run(&db, run.id, Some(2), Some(Split::Test)).await.unwrap(), stored[3..]);
        assert_eq!(of_run(&db, RunId::new(), None, None).await.unwrap(), []);
    }
}
