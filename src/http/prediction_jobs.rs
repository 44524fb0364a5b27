//! `/v1/prediction-jobs`: whole data sets or archives classified in the background.

mod results;

use std::path::Path;

use axum::{
    Json,
    body::Body,
    extract::{Extension, FromRequest, Request, State},
    http::{HeaderName, StatusCode},
};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{fs::File, io::AsyncWriteExt};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    body::{self, BodyError},
    client::Client,
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    quotas::Quotas,
    responses::{self, Binary, Busy, Invalid, Malformed, NotFound, TooLarge, Unavailable, UnsupportedType},
};
use crate::{
    domain::{DatasetId, NOTICE, PredictionJobId, PredictionJobStatus, Split},
    service::PredictionJobs,
    store::{self, PredictionJob, Stores},
};

/// Maximum size of an archive, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 8 << 30;

/// Accepted media types of archives; the format is detected from the content.
const ARCHIVE_TYPES: [&str; 6] = [
    "application/zip",
    "application/x-zip-compressed",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
];

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_prediction_job, list_prediction_jobs))
        .routes(routes!(get_prediction_job, delete_prediction_job))
        .routes(routes!(results::get_prediction_job_results))
}

/// A data set to classify.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPredictionJob {
    /// Data set.
    dataset_id: DatasetId,
    /// Split; all splits when absent.
    split: Option<Split>,
    /// Identifier or alias of a model; the champion when absent.
    #[schema(example = "champion")]
    model: Option<String>,
}

/// Model for an archive.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct JobParams {
    /// Identifier or alias of a model; the champion when absent. For archives only; a data set's model is in the body.
    #[param(example = "champion")]
    model: Option<String>,
}

/// A job with its progress.
#[derive(Serialize, ToSchema)]
pub(super) struct PredictionJobDetail {
    #[serde(flatten)]
    job: PredictionJob,
    /// Fraction of the images that are done, 0 to 1.
    fraction: f64,
    /// Rate since the job started; null before the first image.
    images_per_second: Option<f64>,
    /// Estimated remaining time in seconds, while the job runs.
    eta_seconds: Option<f64>,
    /// For research only.
    notice: &'static str,
}

impl From<PredictionJob> for PredictionJobDetail {
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

/// Classifies the radiographs of a data set (JSON body), or the files of an archive (the body: zip, tar or gzipped tar of PNG, JPEG and
/// DICOM, up to 8 GiB and 100,000 files), in the background. Jobs run one at a time in order of submission, while the engine is idle. An
/// image that cannot be classified is a result with a problem. An archive is deleted when its job ends; its images are not stored.
#[utoipa::path(post, path = "/v1/prediction-jobs", tag = "predictions", params(JobParams),
    request_body(content(
        (NewPredictionJob = "application/json"),
        (Binary = "application/zip"),
        (Binary = "application/x-tar"),
        (Binary = "application/gzip")
    )),
    responses(
        (status = 202, description = "Queued", body = PredictionJobDetail, headers(("Location" = String, description = "The job"))),
        Malformed,
        NotFound,
        TooLarge,
        UnsupportedType,
        Invalid,
        Busy,
        Unavailable
    ))]
async fn create_prediction_job(
    State(jobs): State<PredictionJobs>,
    State(quotas): State<Quotas>,
    Extension(client): Extension<Client>,
    QueryOf(params): QueryOf<JobParams>,
    request: Request,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<PredictionJobDetail>), ApiError> {
    let job = match body::media_type(request.headers()).as_str() {
        "application/json" => {
            let JsonBody(new) = JsonBody::<NewPredictionJob>::from_request(request, &jobs).await?;
            jobs.submit_dataset(new.dataset_id, new.split, new.model.as_deref()).await?
        }
        archive if ARCHIVE_TYPES.contains(&archive) => {
            quotas.take_archive(client)?;
            let upload = jobs.receive_archive(params.model.as_deref()).await?;
            write_archive(request.into_body(), upload.path()).await?;
            jobs.submit_archive(upload).await?
        }
        other => {
            return Err(ApiError::UnsupportedType(format!(
                "send application/json, application/zip, application/x-tar or application/gzip, not {other:?}"
            )));
        }
    };
    Ok(responses::accepted(format!("/v1/prediction-jobs/{}", job.id), job.into()))
}

async fn write_archive(archive: Body, path: &Path) -> Result<(), ApiError> {
    let mut file = File::create(path).await.map_err(ApiError::internal)?;
    let (mut chunks, mut length) = (archive.into_data_stream(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::of_body(&error))?;
        length += chunk.len() as u64;
        if length > MAX_ARCHIVE_BYTES {
            return Err(BodyError::TooLarge(MAX_ARCHIVE_BYTES).into());
        }
        file.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    file.sync_all().await.map_err(ApiError::internal)
}

/// Lists prediction jobs, oldest first.
#[utoipa::path(get, path = "/v1/prediction-jobs", tag = "predictions", params(ListParams<PredictionJobId>), responses(
    (status = 200, description = "A page", body = List<PredictionJobDetail>),
    Malformed
))]
async fn list_prediction_jobs(
    State(stores): State<Stores>,
    QueryOf(params): QueryOf<ListParams<PredictionJobId>>,
) -> Result<Json<List<PredictionJobDetail>>, ApiError> {
    let page = params.page()?;
    let jobs = store::prediction_jobs::list(&stores.db, &page).await?;
    let jobs = jobs.into_iter().map(PredictionJobDetail::from).collect();
    Ok(Json(List::of(jobs, &page, |detail| detail.job.id.to_string())))
}

/// Returns a prediction job with its progress.
#[utoipa::path(get, path = "/v1/prediction-jobs/{id}", tag = "predictions", params(("id" = PredictionJobId, Path)), responses(
    (status = 200, description = "The job", body = PredictionJobDetail),
    NotFound
))]
async fn get_prediction_job(
    State(stores): State<Stores>,
    PathOf(id): PathOf<PredictionJobId>,
) -> Result<Json<PredictionJobDetail>, ApiError> {
    find(&stores, id).await.map(|job| Json(job.into()))
}

async fn find(stores: &Stores, id: PredictionJobId) -> Result<PredictionJob, ApiError> {
    store::prediction_jobs::get(&stores.db, id).await?.ok_or(ApiError::NotFound("prediction job"))
}

/// Deletes a prediction job with its results; a running job stops within a few images.
#[utoipa::path(delete, path = "/v1/prediction-jobs/{id}", tag = "predictions", params(("id" = PredictionJobId, Path)), responses(
    (status = 204, description = "Deleted"),
    NotFound
))]
async fn delete_prediction_job(
    State(jobs): State<PredictionJobs>,
    PathOf(id): PathOf<PredictionJobId>,
) -> Result<StatusCode, ApiError> {
    jobs.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
