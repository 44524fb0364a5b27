//! Prediction jobs: background classification of a data set or an archive.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, EvaluationRecord, Page, StoreError, columns, evaluations, outcomes};
use crate::domain::{
    DatasetId, EvaluationId, GroupAttribute, ModelId, PredictionJobId, PredictionJobStatus, RadiographId, Sha256, Split,
};

/// A prediction job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PredictionJob {
    /// Identifier.
    pub id: PredictionJobId,
    /// Model that classifies.
    pub model_id: ModelId,
    /// Classes of the model.
    pub classes: Vec<String>,
    /// Data set whose radiographs are classified; null for an archive.
    pub dataset_id: Option<DatasetId>,
    /// Split that is classified; null for all.
    pub split: Option<Split>,
    /// Evaluation that the job stores when it succeeds; null for a job that only predicts.
    pub evaluation: Option<RequestedEvaluation>,
    /// Status.
    pub status: PredictionJobStatus,
    /// Number of images.
    pub total: u64,
    /// Images with a prediction.
    pub answered: u64,
    /// Images without a prediction; their results give the reasons.
    pub failed: u64,
    /// Images that were done at the last start.
    #[serde(skip)]
    pub done_before: u64,
    /// Reason for which the job failed.
    pub error: Option<String>,
    /// Time of the request.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last start.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// Time of the end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// Evaluation that a job stores.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RequestedEvaluation {
    /// Identifier of the evaluation, which exists when the job has succeeded.
    pub id: EvaluationId,
    /// Fingerprint of the data set at the time of the request. The job fails if the data set has another one when all images are done.
    pub dataset_fingerprint: String,
    /// Attributes by which the scores are grouped unless a request names others.
    pub group_by: Vec<GroupAttribute>,
}

/// Result for an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// Position in the archive or data set, from 0.
    pub sequence: u64,
    /// Radiograph; null for an image of an archive.
    pub radiograph_id: Option<RadiographId>,
    /// Name of the radiograph. For an archive the position and type of the file, or its path if the server stores the names of uploaded
    /// files.
    pub file_name: String,
    /// Hash of the file, also of one without a prediction; null if it could not be read completely.
    pub sha256: Option<Sha256>,
    /// Label of the radiograph, if it has one.
    pub label: Option<String>,
    /// Most probable class.
    pub prediction: Option<String>,
    /// Probability of each class.
    pub probabilities: Option<BTreeMap<String, f32>>,
    /// Reason for which there is no prediction.
    pub problem: Option<String>,
}

impl PredictionJob {
    /// A queued job of `total` images of an archive.
    pub fn queued(id: PredictionJobId, model_id: ModelId, classes: Vec<String>, total: u64) -> Self {
        Self {
            id,
            model_id,
            classes,
            dataset_id: None,
            split: None,
            evaluation: None,
            status: PredictionJobStatus::Queued,
            total,
            answered: 0,
            failed: 0,
            done_before: 0,
            error: None,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
        }
    }

    /// Number of images that are done.
    pub fn done(&self) -> u64 {
        self.answered + self.failed
    }
}

/// Stores a job.
pub async fn create(db: &Db, job: &PredictionJob) -> Result<(), StoreError> {
    let (id, model_id) = (job.id.to_string(), job.model_id.to_string());
    let classes = columns::to_json("prediction_jobs.classes_json", &job.classes)?;
    let (dataset_id, split) = (job.dataset_id.map(|id| id.to_string()), job.split.map(Split::as_str));
    let evaluation_id = job.evaluation.as_ref().map(|evaluation| evaluation.id.to_string());
    let fingerprint = job.evaluation.as_ref().map(|evaluation| &evaluation.dataset_fingerprint);
    let to_json =
        |evaluation: &RequestedEvaluation| columns::to_json("prediction_jobs.group_by_json", &evaluation.group_by);
    let group_by = job.evaluation.as_ref().map(to_json).transpose()?;
    let total: i64 = columns::number("prediction_jobs.total", job.total)?;
    let (status, created_at) = (job.status.as_str(), columns::time(job.created_at));
    sqlx::query!(
        "insert into prediction_jobs (id, model_id, classes_json, dataset_id, split, evaluation_id, dataset_fingerprint,
           group_by_json, status, total, created_at) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        model_id,
        classes,
        dataset_id,
        split,
        evaluation_id,
        fingerprint,
        group_by,
        status,
        total,
        created_at,
    )
    .execute(db.write()?)
    .await?;
    Ok(())
}

/// A job by its identifier.
pub async fn get(db: &Db, id: PredictionJobId) -> Result<Option<PredictionJob>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from prediction_jobs where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// The job that stores or stored an evaluation.
pub async fn of_evaluation(db: &Db, id: EvaluationId) -> Result<Option<PredictionJob>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from prediction_jobs where evaluation_id = ?", id)
        .fetch_optional(db.read())
        .await?;
    row.map(Row::read).transpose()
}

/// A page of jobs in order of creation.
pub async fn list(db: &Db, page: &Page) -> Result<Vec<PredictionJob>, StoreError> {
    let after = page.after();
    let rows =
        sqlx::query_as!(Row, "select * from prediction_jobs where id > ? order by id limit ?", after, page.limit)
            .fetch_all(db.read())
            .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Starts the next job and returns it: one that an earlier process left running, else the oldest queued one.
pub async fn claim(db: &Db) -> Result<Option<PredictionJob>, StoreError> {
    let mut tx = db.begin().await?;
    let mut found = None;
    for status in [PredictionJobStatus::Running, PredictionJobStatus::Queued] {
        if found.is_none() {
            found = first(&mut tx, status).await?;
        }
    }
    let Some(mut job) = found else { return Ok(None) };
    job.status = job.status.transition(PredictionJobStatus::Running)?;
    job.started_at = Some(Timestamp::now());
    job.done_before = job.done();
    let (id, status, started_at) = (job.id.to_string(), job.status.as_str(), job.started_at.map(columns::time));
    sqlx::query!(
        "update prediction_jobs set status = ?, started_at = ?, done_before = answered + failed where id = ?",
        status,
        started_at,
        id
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(job))
}

async fn first(tx: &mut SqliteConnection, status: PredictionJobStatus) -> Result<Option<PredictionJob>, StoreError> {
    let status = status.as_str();
    let row = sqlx::query_as!(Row, "select * from prediction_jobs where status = ? order by id limit 1", status)
        .fetch_optional(tx)
        .await?;
    row.map(Row::read).transpose()
}

/// Writes results in one transaction; false if the job was deleted.
pub async fn append(db: &Db, id: PredictionJobId, results: &[JobResult]) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let key = id.to_string();
    let answered = results.iter().filter(|result| result.problem.is_none()).count() as i64;
    let failed = results.len() as i64 - answered;
    let counted = sqlx::query!(
        "update prediction_jobs set answered = answered + ?, failed = failed + ? where id = ?",
        answered,
        failed,
        key
    );
    if counted.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(false);
    }
    for result in results {
        insert(&mut tx, &key, result).await?;
    }
    tx.commit().await?;
    Ok(true)
}

async fn insert(tx: &mut SqliteConnection, job: &str, result: &JobResult) -> Result<(), StoreError> {
    let sequence: i64 = columns::number("prediction_job_results.sequence", result.sequence)?;
    let radiograph = result.radiograph_id.map(|id| id.to_string());
    let sha256 = result.sha256.as_ref().map(Sha256::as_str);
    let to_json = |probabilities| columns::to_json("prediction_job_results.probabilities_json", probabilities);
    let probabilities = result.probabilities.as_ref().map(to_json).transpose()?;
    sqlx::query!(
        "insert into prediction_job_results (job_id, sequence, radiograph_id, file_name, sha256, label, prediction,
           probabilities_json, problem) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        job,
        sequence,
        radiograph,
        result.file_name,
        sha256,
        result.label,
        result.prediction,
        probabilities,
        result.problem,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends a job: failed with an error, else succeeded. A job that was deleted meanwhile is ignored.
pub async fn finish(db: &Db, id: PredictionJobId, error: Option<&str>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    finish_in(&mut tx, id, error).await?;
    tx.commit().await?;
    Ok(())
}

/// Ends a job as succeeded and stores its evaluation, in one transaction. A job that was deleted meanwhile is ignored.
pub async fn finish_evaluation(db: &Db, id: PredictionJobId, record: &EvaluationRecord) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    if finish_in(&mut tx, id, None).await? {
        evaluations::insert(&mut tx, &record.evaluation).await?;
        outcomes::insert(&mut tx, record).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// False if the job does not exist.
async fn finish_in(tx: &mut SqliteConnection, id: PredictionJobId, error: Option<&str>) -> Result<bool, StoreError> {
    let (id, now) = (id.to_string(), columns::time(Timestamp::now()));
    let status = sqlx::query_scalar!("select status from prediction_jobs where id = ?", id);
    let Some(status) = status.fetch_optional(&mut *tx).await? else { return Ok(false) };
    let status: PredictionJobStatus = columns::parse("prediction_jobs.status", &status)?;
    let end = if error.is_some() { PredictionJobStatus::Failed } else { PredictionJobStatus::Succeeded };
    let status = status.transition(end)?.as_str();
    sqlx::query!(
        "update prediction_jobs set status = ?, error = ?, finished_at = ? where id = ?",
        status,
        error,
        now,
        id
    )
    .execute(tx)
    .await?;
    Ok(true)
}

/// Deletes a job with its results; false if there was none.
pub async fn delete(db: &Db, id: PredictionJobId) -> Result<bool, StoreError> {
    let id = id.to_string();
    let removed = sqlx::query!("delete from prediction_jobs where id = ?", id).execute(db.write()?).await?;
    db.erase_soon();
    Ok(removed.rows_affected() > 0)
}

/// Results from a position on.
pub async fn results(db: &Db, id: PredictionJobId, from: u64, limit: u32) -> Result<Vec<JobResult>, StoreError> {
    let (id, from): (_, i64) = (id.to_string(), columns::number("prediction_job_results.sequence", from)?);
    let rows = sqlx::query!(
        "select * from prediction_job_results where job_id = ? and sequence >= ? order by sequence limit ?",
        id,
        from,
        limit
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            let parse = |text: String| columns::from_json("prediction_job_results.probabilities_json", &text);
            let hash = |text| columns::hash("prediction_job_results.sha256", text);
            let id = row.radiograph_id.as_deref();
            Ok(JobResult {
                sequence: columns::number("prediction_job_results.sequence", row.sequence)?,
                radiograph_id: columns::parse_some("prediction_job_results.radiograph_id", id)?,
                file_name: row.file_name,
                sha256: row.sha256.map(hash).transpose()?,
                label: row.label,
                prediction: row.prediction,
                probabilities: row.probabilities_json.map(parse).transpose()?,
                problem: row.problem,
            })
        })
        .collect()
}

/// Number of archives that are queued or running.
pub async fn count_archives(db: &Db) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!: i64" from prediction_jobs where status in ('queued', 'running') and dataset_id is null"#
    );
    columns::number("count", count.fetch_one(db.read()).await?)
}

/// Number of radiographs of a data set, or of one of its splits.
pub async fn count_radiographs(db: &Db, dataset: DatasetId, split: Option<Split>) -> Result<u64, StoreError> {
    let (dataset, split) = (dataset.to_string(), split.map(Split::as_str));
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!: i64" from radiographs where dataset_id = ?1 and (?2 is null or split = ?2)"#,
        dataset,
        split
    );
    columns::number("count", count.fetch_one(db.read()).await?)
}

/// Number of radiographs of a split that have a label.
pub async fn count_labelled(db: &Db, dataset: DatasetId, split: Split) -> Result<u64, StoreError> {
    let (dataset, split) = (dataset.to_string(), split.as_str());
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!: i64" from radiographs where dataset_id = ? and split = ? and label is not null"#,
        dataset,
        split
    );
    columns::number("count", count.fetch_one(db.read()).await?)
}

struct Row {
    id: String,
    model_id: String,
    classes_json: String,
    dataset_id: Option<String>,
    split: Option<String>,
    status: String,
    total: i64,
    answered: i64,
    failed: i64,
    done_before: i64,
    error: Option<String>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    evaluation_id: Option<String>,
    dataset_fingerprint: Option<String>,
    group_by_json: Option<String>,
}

impl Row {
    fn read(self) -> Result<PredictionJob, StoreError> {
        let evaluation = match (self.evaluation_id, self.dataset_fingerprint, self.group_by_json) {
            (Some(id), Some(dataset_fingerprint), Some(group_by)) => Some(RequestedEvaluation {
                id: columns::parse("prediction_jobs.evaluation_id", &id)?,
                dataset_fingerprint,
                group_by: columns::from_json("prediction_jobs.group_by_json", &group_by)?,
            }),
            _ => None,
        };
        Ok(PredictionJob {
            id: columns::parse("prediction_jobs.id", &self.id)?,
            model_id: columns::parse("prediction_jobs.model_id", &self.model_id)?,
            classes: columns::from_json("prediction_jobs.classes_json", &self.classes_json)?,
            dataset_id: columns::parse_some("prediction_jobs.dataset_id", self.dataset_id.as_deref())?,
            split: columns::parse_some("prediction_jobs.split", self.split.as_deref())?,
            evaluation,
            status: columns::parse("prediction_jobs.status", &self.status)?,
            total: columns::number("prediction_jobs.total", self.total)?,
            answered: columns::number("prediction_jobs.answered", self.answered)?,
            failed: columns::number("prediction_jobs.failed", self.failed)?,
            done_before: columns::number("prediction_jobs.done_before", self.done_before)?,
            error: self.error,
            created_at: columns::parse("prediction_jobs.created_at", &self.created_at)?,
            started_at: columns::parse_some("prediction_jobs.started_at", self.started_at.as_deref())?,
            finished_at: columns::parse_some("prediction_jobs.finished_at", self.finished_at.as_deref())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{fixtures, models};

    fn job() -> PredictionJob {
        let classes = vec!["normal".into(), "COVID-19".into()];
        PredictionJob::queued(PredictionJobId::new(), ModelId::new(), classes, 3)
    }

    fn result(sequence: u64, problem: Option<&str>) -> JobResult {
        let answered = problem.is_none();
        JobResult {
            sequence,
            radiograph_id: None,
            file_name: format!("folder/{sequence}.png"),
            sha256: answered.then(|| Sha256::of(&sequence.to_le_bytes())),
            label: None,
            prediction: answered.then(|| "normal".into()),
            probabilities: answered.then(|| [("normal".into(), 0.75), ("COVID-19".into(), 0.25)].into()),
            problem: problem.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn claims_jobs_in_order_and_a_started_one_first() {
        let (_dir, db) = fixtures::db().await;
        let made = [job(), job()];
        for job in &made {
            create(&db, job).await.unwrap();
        }
        assert_eq!(list(&db, &fixtures::first_page()).await.unwrap(), made);
        let claimed = claim(&db).await.unwrap().unwrap();
        assert_eq!((claimed.id, claimed.status), (made[0].id, PredictionJobStatus::Running));
        assert!(append(&db, made[0].id, &[result(0, None), result(1, Some("no image"))]).await.unwrap());
        let again = claim(&db).await.unwrap().unwrap();
        assert_eq!((again.id, again.answered, again.failed, again.done_before), (made[0].id, 1, 1, 2));
        finish(&db, made[0].id, None).await.unwrap();
        assert_eq!(claim(&db).await.unwrap().unwrap().id, made[1].id);
        finish(&db, made[1].id, Some("no model")).await.unwrap();
        assert_eq!(claim(&db).await.unwrap(), None);
        let failed = get(&db, made[1].id).await.unwrap().unwrap();
        assert_eq!((failed.status, failed.error.as_deref()), (PredictionJobStatus::Failed, Some("no model")));
    }

    #[tokio::test]
    async fn returns_results_in_order_and_deletes_them_with_their_job() {
        let (_dir, db) = fixtures::db().await;
        let made = job();
        create(&db, &made).await.unwrap();
        let written = [result(0, None), result(1, Some("no image")), result(2, None)];
        assert!(
            append(&db, made.id, &written[..2]).await.unwrap() && append(&db, made.id, &written[2..]).await.unwrap()
        );
        assert_eq!(results(&db, made.id, 0, 9).await.unwrap(), written);
        assert_eq!(results(&db, made.id, 1, 1).await.unwrap(), written[1..2]);
        assert!(delete(&db, made.id).await.unwrap() && !delete(&db, made.id).await.unwrap());
        assert_eq!(results(&db, made.id, 0, 9).await.unwrap(), []);
        assert!(!append(&db, made.id, &written).await.unwrap(), "the job was deleted");
    }

    #[tokio::test]
    async fn an_evaluation_is_stored_with_the_end_of_its_job_and_not_without_the_job() {
        let (_dir, db) = fixtures::db().await;
        let (dataset, model) = (fixtures::stored_dataset(&db).await, fixtures::model(None));
        models::create(&db, &model, &[]).await.unwrap();
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        let requested = RequestedEvaluation {
            id: evaluation.id,
            dataset_fingerprint: "as it was".into(),
            group_by: vec![GroupAttribute::Source, GroupAttribute::AgeBand],
        };
        let made = PredictionJob { evaluation: Some(requested), ..job() };
        create(&db, &made).await.unwrap();
        assert_eq!(of_evaluation(&db, evaluation.id).await.unwrap(), Some(made.clone()));
        claim(&db).await.unwrap();
        let record = EvaluationRecord { evaluation, images: fixtures::evaluated_images() };
        finish_evaluation(&db, PredictionJobId::new(), &record).await.unwrap();
        assert_eq!(evaluations::get(&db, record.evaluation.id).await.unwrap(), None, "its job was deleted");
        finish_evaluation(&db, made.id, &record).await.unwrap();
        assert_eq!(evaluations::get(&db, record.evaluation.id).await.unwrap(), Some(record.evaluation.clone()));
        let ended = get(&db, made.id).await.unwrap().unwrap();
        assert_eq!(ended.status, PredictionJobStatus::Succeeded);
        assert!(finish_evaluation(&db, made.id, &record).await.is_err(), "it has ended");
    }
}
