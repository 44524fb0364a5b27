//! `/v1/prediction-jobs`: a whole data set or an archive scored in the background.

mod results;
mod run;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Request, State},
    http::{HeaderName, StatusCode},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::TempPath;
use tokio::{fs::File, sync::Mutex};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{self, Busy, Invalid, Malformed, NotFound, TooLarge, Unavailable, UnsupportedType},
    body,
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    predictions,
};
use crate::{
    dataset,
    domain::{DatasetId, NOTICE, PredictionJobId, PredictionJobStatus, Split},
    inference::EngineError,
    store::{self, Model, PredictionJob},
    worker::CHAMPION,
};
pub use run::resume;

/// Largest archive, in bytes.
const MAX_ARCHIVE_BYTES: usize = 8 << 30;

/// Archives that are received at once, and that wait: each takes disk.
const RECEIVED_AT_ONCE: usize = 4;
const MOST_WAITING: u64 = 16;

/// What an archive may be called; what it is, its content tells.
const ARCHIVE_TYPES: [&str; 6] = [
    "application/zip",
    "application/x-zip-compressed",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
];

/// The jobs of a server: one at a time, and where their archives are until they have ended.
#[derive(Clone, Debug)]
pub struct Jobs {
    turn: Arc<Mutex<()>>,
    receiving: Arc<tokio::sync::Semaphore>,
    folder: Arc<Path>,
}

impl Jobs {
    /// With archives in `<data_dir>/jobs`.
    pub fn new(data_dir: &Path) -> Self {
        let receiving = Arc::new(tokio::sync::Semaphore::new(RECEIVED_AT_ONCE));
        Self { turn: Arc::default(), receiving, folder: data_dir.join("jobs").into() }
    }

    fn archive(&self, id: PredictionJobId) -> PathBuf {
        self.folder.join(format!("{id}.archive"))
    }
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_prediction_job, list_prediction_jobs))
        .routes(routes!(get_prediction_job, delete_prediction_job))
        .routes(routes!(results::get_prediction_job_results))
}

/// A data set to be scored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPredictionJob {
    /// Whose radiographs.
    dataset_id: DatasetId,
    /// Of which split; all of them when absent.
    split: Option<Split>,
    /// Identifier or alias of a model; the one that serves when absent.
    #[schema(example = "champion")]
    model: Option<String>,
}

/// Who shall score an archive.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobParams {
    /// Identifier or alias of a model; the one that serves when absent. For an archive; a data set's is in the body.
    #[param(example = "champion")]
    model: Option<String>,
}

/// A job and how far it is.
#[derive(Serialize, ToSchema)]
struct JobAnswer {
    #[serde(flatten)]
    job: PredictionJob,
    /// Share of the images that are done, 0 to 1.
    fraction: f64,
    /// Since it was begun; null before it is, and without an image done.
    images_per_second: Option<f64>,
    /// Estimated time to its end, while it runs.
    eta_seconds: Option<f64>,
    /// For research only.
    notice: &'static str,
}

impl From<PredictionJob> for JobAnswer {
    fn from(job: PredictionJob) -> Self {
        let done = job.done();
        let now = job.finished_at.unwrap_or_else(Timestamp::now);
        let seconds = job.started_at.map(|began| now.duration_since(began).as_secs_f64());
        let fresh = done.saturating_sub(job.done_before) as f64;
        let images_per_second = seconds.filter(|seconds| fresh > 0.0 && *seconds > 0.0).map(|seconds| fresh / seconds);
        let left = job.total.saturating_sub(done) as f64;
        let eta_seconds =
            images_per_second.filter(|_| job.status == PredictionJobStatus::Running).map(|rate| left / rate);
        let fraction = done as f64 / job.total.max(1) as f64;
        Self { job, fraction, images_per_second, eta_seconds, notice: NOTICE }
    }
}

/// Scores the radiographs of a data set (JSON), or the files of an archive that is the body (zip, tar or gzipped tar of PNG, JPEG and DICOM,
/// up to 8 GiB and 100,000 files), in the background: when the engine has nothing else to do, one job at a time, in their order. An image
/// that cannot be classified is a result with a problem. The images of an archive are not kept: it is removed at the job's end.
#[utoipa::path(post, path = "/v1/prediction-jobs", tag = "predictions", params(JobParams),
    request_body(content(
        (NewPredictionJob = "application/json"),
        (Vec<u8> = "application/zip"),
        (Vec<u8> = "application/x-tar"),
        (Vec<u8> = "application/gzip")
    )),
    responses(
        (status = 202, body = JobAnswer, headers(("Location" = String, description = "The job"))),
        Malformed,
        NotFound,
        TooLarge,
        UnsupportedType,
        Invalid,
        Busy,
        Unavailable
    ))]
async fn create_prediction_job(
    State(state): State<AppState>,
    QueryOf(params): QueryOf<JobParams>,
    request: Request,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<JobAnswer>), ApiError> {
    let job = match body::media_type(request.headers()).as_str() {
        "application/json" => {
            let JsonBody(new) = JsonBody::from_request(request, &state).await?;
            of_dataset(&state, new).await?
        }
        archive if ARCHIVE_TYPES.contains(&archive) => {
            of_archive(&state, params.model.as_deref(), request.into_body()).await?
        }
        other => {
            return Err(ApiError::UnsupportedType(format!(
                "send application/json, application/zip, application/x-tar or application/gzip, not {other:?}"
            )));
        }
    };
    run::start(&state);
    Ok(answer::accepted(format!("/v1/prediction-jobs/{}", job.id), job.into()))
}

async fn of_dataset(state: &AppState, new: NewPredictionJob) -> Result<PredictionJob, ApiError> {
    let NewPredictionJob { dataset_id, split, model } = new;
    let model = model_of(state, model.as_deref()).await?;
    if store::datasets::get(&state.db, dataset_id).await?.is_none() {
        return Err(ApiError::invalid("/dataset_id", "there is no such data set"));
    }
    let total = store::prediction_jobs::count_radiographs(&state.db, dataset_id, split).await?;
    if total == 0 {
        let pointer = if split.is_some() { "/split" } else { "/dataset_id" };
        return Err(ApiError::invalid(pointer, "there are no radiographs in it"));
    }
    let job = PredictionJob { dataset_id: Some(dataset_id), split, ..queued(PredictionJobId::new(), &model, total) };
    store::prediction_jobs::create(&state.db, &job).await?;
    Ok(job)
}

async fn of_archive(state: &AppState, model: Option<&str>, archive: Body) -> Result<PredictionJob, ApiError> {
    let busy = |_| ApiError::Busy("as many archives are being received as this server takes at once".into());
    let _place = state.jobs.receiving.try_acquire().map_err(busy)?;
    if store::prediction_jobs::count_archives(&state.db).await? >= MOST_WAITING {
        return Err(ApiError::Busy(format!("{MOST_WAITING} archives wait to be scored: come back when one is done")));
    }
    let model = model_of(state, model).await?;
    let id = PredictionJobId::new();
    tokio::fs::create_dir_all(&state.jobs.folder).await.map_err(ApiError::internal)?;
    // Removed unless it becomes a job.
    let path = TempPath::try_from_path(state.jobs.archive(id)).map_err(ApiError::internal)?;
    let mut file = File::create(&path).await.map_err(ApiError::internal)?;
    body::write(archive, MAX_ARCHIVE_BYTES, &mut file).await?;
    file.sync_all().await.map_err(ApiError::internal)?;
    let counting = path.to_path_buf();
    let counted = tokio::task::spawn_blocking(move || dataset::count_archive(&counting)).await;
    let total = counted.map_err(ApiError::internal)?.map_err(|why| ApiError::Unusable(format!("the archive {why}")))?;
    let job = queued(id, &model, total);
    // First the file, then the row: one that no job names is removed at the next start.
    let path = path.keep().map_err(ApiError::internal)?;
    if let Err(error) = store::prediction_jobs::create(&state.db, &job).await {
        tokio::fs::remove_file(path).await.map_err(ApiError::internal)?;
        return Err(error.into());
    }
    Ok(job)
}

async fn model_of(state: &AppState, asked: Option<&str>) -> Result<Model, ApiError> {
    if asked.is_none() && state.engine.current().is_none() {
        return Err(EngineError::NoModel.into());
    }
    let (model, _) = predictions::find_model(state, asked.unwrap_or(CHAMPION)).await?;
    Ok(model)
}

fn queued(id: PredictionJobId, model: &Model, total: u64) -> PredictionJob {
    PredictionJob {
        id,
        model_id: model.id,
        classes: model.spec.classes.names().to_vec(),
        dataset_id: None,
        split: None,
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

/// Jobs in order of creation.
#[utoipa::path(get, path = "/v1/prediction-jobs", tag = "predictions", params(ListParams), responses(
    (status = 200, body = List<JobAnswer>),
    Malformed
))]
async fn list_prediction_jobs(
    State(state): State<AppState>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<JobAnswer>>, ApiError> {
    let page = params.page()?;
    let jobs = store::prediction_jobs::list(&state.db, &page).await?;
    let jobs = jobs.into_iter().map(JobAnswer::from).collect();
    Ok(Json(List::of(jobs, &page, |answer| answer.job.id.to_string())))
}

/// How far a job is.
#[utoipa::path(get, path = "/v1/prediction-jobs/{id}", tag = "predictions", params(("id" = PredictionJobId, Path)), responses(
    (status = 200, body = JobAnswer),
    NotFound
))]
async fn get_prediction_job(
    State(state): State<AppState>,
    PathOf(id): PathOf<PredictionJobId>,
) -> Result<Json<JobAnswer>, ApiError> {
    find(&state, id).await.map(|job| Json(job.into()))
}

async fn find(state: &AppState, id: PredictionJobId) -> Result<PredictionJob, ApiError> {
    store::prediction_jobs::get(&state.db, id).await?.ok_or(ApiError::NotFound("prediction job"))
}

/// Ends a job if it goes on, within a few images, and removes it with its results.
#[utoipa::path(delete, path = "/v1/prediction-jobs/{id}", tag = "predictions", params(("id" = PredictionJobId, Path)), responses(
    (status = 204, description = "Removed"),
    NotFound
))]
async fn delete_prediction_job(
    State(state): State<AppState>,
    PathOf(id): PathOf<PredictionJobId>,
) -> Result<StatusCode, ApiError> {
    if !store::prediction_jobs::delete(&state.db, id).await? {
        return Err(ApiError::NotFound("prediction job"));
    }
    run::remove_archive(&state, id).await;
    Ok(StatusCode::NO_CONTENT)
}
