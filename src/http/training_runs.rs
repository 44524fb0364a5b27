//! `/v1/training-runs`: submit, watch, pause, resume and cancel training runs; their metrics.

mod compare;
mod events;
mod repeat;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{compare::*, repeat::*};
use super::{
    ApiError, AppState,
    extract::{JsonBody, List, ListParams, PathOf, QueryOf, SmallBody},
    json,
    responses::{self, Conflict, Invalid, Malformed, NotFound},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{DatasetId, EpochRecord, LeakageKind, PlanOverrides, RunId, RunStatus, Split},
    service::{self, Fields, JsonObject, RunRequest, TrainingControl, TrainingRun, into_result},
    store::{self, Run, Stores},
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_training_run, list_training_runs))
        .routes(routes!(compare_training_runs))
        .routes(routes!(get_training_run, delete_training_run))
        .routes(routes!(list_training_run_images))
        .routes(routes!(repeat_training_run))
        .routes(routes!(cancel_training_run))
        .routes(routes!(pause_training_run))
        .routes(routes!(resume_training_run))
        .routes(routes!(list_training_run_epochs))
        .routes(routes!(list_training_run_evaluations))
        .merge(events::router())
}

/// A training run to submit.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request; the fields are read one by one")]
struct NewTrainingRun {
    /// Data set to train on.
    dataset_id: DatasetId,
    /// Name of the recipe; `covid-resnet` when absent.
    #[schema(default = "covid-resnet")]
    recipe: Option<String>,
    /// Fields that replace those of the recipe.
    plan: Option<PlanOverrides>,
    /// Free name, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    name: Option<String>,
    /// Random seed for shuffling, initialisation, augmentation and dropout; 0 when absent.
    #[schema(default = 0)]
    seed: Option<u32>,
    /// Names of the leakage findings that are known and accepted, as in GET /v1/datasets/{id}/report. A run on a data set with other
    /// leakage is refused with 409 and the findings.
    #[schema(value_type = Option<Vec<LeakageKind>>)]
    acknowledge: Option<Vec<String>>,
}

/// Filter of runs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunParams {
    /// Only runs with this status.
    status: Option<RunStatus>,
}

/// Filter of evaluations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EvaluationParams {
    /// Only evaluations of this stage, from 1.
    stage: Option<u32>,
    /// Only evaluations on this split.
    split: Option<Split>,
}

/// Submits a training run. An invalid plan is refused with every wrong field. A run on a data set whose splits leak is refused unless
/// `acknowledge` names the findings; the events of the run then record them.
#[utoipa::path(
    post, path = "/v1/training-runs", tag = "training",
    request_body = NewTrainingRun,
    responses((status = 202, description = "Queued", body = TrainingRun), Malformed, Conflict, Invalid)
)]
async fn create_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let run = service::submit(&stores, training.device_memory(), read_request(body)).await?;
    training.queued.notify_one();
    Ok(responses::accepted(location(run.id), scheduled(&stores, &training, run).await?))
}

/// Lists runs, oldest first.
#[utoipa::path(
    get, path = "/v1/training-runs", tag = "training",
    params(RunParams, ListParams<RunId>),
    responses((status = 200, description = "A page", body = List<TrainingRun>), Malformed)
)]
async fn list_training_runs(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    QueryOf(RunParams { status }): QueryOf<RunParams>,
    QueryOf(params): QueryOf<ListParams<RunId>>,
) -> Result<Json<List<TrainingRun>>, ApiError> {
    let page = params.page()?;
    let runs = store::runs::list(&stores.db, status, &page).await?;
    let List { items, next } = List::of(runs, &page, |run| run.id.to_string());
    Ok(Json(List { items: service::schedule_all(&stores.db, &training, items).await?, next }))
}

/// Returns a run with its plan, status, progress and provenance.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "The run", body = RecordedRun), NotFound)
)]
async fn get_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<RecordedRun>, ApiError> {
    let run = find(&stores, id).await?;
    recorded(&stores, &training, run).await.map(Json)
}

/// Options of resuming a run.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request; the field is read by name")]
struct Resumption {
    /// Learning rate of the next step instead of the plan's: above 0 and at most 1.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    learning_rate: Option<f64>,
}

/// Cancels a run for good: a queued or paused run at once, a running one within one batch. Idempotent.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/cancel", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "The current state of the run", body = TrainingRun), NotFound, Conflict)
)]
async fn cancel_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = store::runs::cancel(&stores.db, id).await?;
    requested(&stores, &training, id, run).await
}

/// Pauses a run: a running one writes a checkpoint and frees the device within one batch. Idempotent.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/pause", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "The current state of the run", body = TrainingRun), NotFound, Conflict)
)]
async fn pause_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = store::runs::pause(&stores.db, id).await?;
    requested(&stores, &training, id, run).await
}

/// Resumes a paused or failed run from its last checkpoint, optionally with another learning rate for the next step. Idempotent.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/resume", tag = "training",
    params(("id" = RunId, Path)),
    request_body = Resumption,
    responses((status = 202, description = "The current state of the run", body = TrainingRun), Malformed, NotFound, Conflict, Invalid)
)]
async fn resume_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    PathOf(id): PathOf<RunId>,
    SmallBody(body): SmallBody,
) -> Result<impl IntoResponse, ApiError> {
    // An empty body is accepted, whatever its content type.
    let body = if body.is_empty() { JsonObject::default() } else { json::parse(&body)? };
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let learning_rate: Option<f64> = fields.optional("learning_rate");
    let fits = learning_rate.is_none_or(|rate| rate > 0.0 && rate <= 1.0);
    fields.check(fits, "learning_rate", "must be above 0 and at most 1");
    fields.finish();
    into_result(Some(()), errors)?;
    let run = store::runs::resume(&stores.db, id, learning_rate).await?;
    requested(&stores, &training, id, run).await
}

/// Wakes the worker after a request to a run, and returns the run.
async fn requested(
    stores: &Stores,
    training: &TrainingControl,
    id: RunId,
    run: Option<Run>,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let run = run.ok_or(ApiError::NotFound("training run"))?;
    training.queued.notify_one();
    Ok(responses::accepted(location(id), scheduled(stores, training, run).await?))
}

/// Deletes a run that is not training, with its epochs, checkpoints and evaluations. Its models are kept.
#[utoipa::path(
    delete, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 204, description = "Deleted"), NotFound, Conflict)
)]
async fn delete_training_run(State(stores): State<Stores>, PathOf(id): PathOf<RunId>) -> Result<StatusCode, ApiError> {
    store::runs::delete(&stores.db, id).await?.ok_or(ApiError::NotFound("training run"))?;
    stores.checkpoints.remove_all(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the finished epochs of a run; the cursor is an epoch's `sequence`.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/epochs", tag = "training",
    params(("id" = RunId, Path), ListParams<u32>),
    responses((status = 200, description = "A page", body = List<EpochRecord>), Malformed, NotFound)
)]
async fn list_training_run_epochs(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RunId>,
    QueryOf(params): QueryOf<ListParams<u32>>,
) -> Result<Json<List<EpochRecord>>, ApiError> {
    let page = params.page()?;
    let after = page.after.as_deref().map_or(Ok(0), str::parse);
    let after = after.map_err(|_| ApiError::Malformed("after must be the sequence number of an epoch".into()))?;
    find(&stores, id).await?;
    let mut epochs = store::runs::epochs(&stores.db, id, after).await?;
    epochs.truncate(page.limit as usize);
    Ok(Json(List::of(epochs, &page, |epoch| epoch.sequence.to_string())))
}

/// Lists the evaluations of a run's stage models, with scores and 95 % confidence intervals.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/evaluations", tag = "training",
    params(("id" = RunId, Path), EvaluationParams),
    responses((status = 200, description = "By stage and split", body = List<ScoredEvaluation>), Malformed, NotFound)
)]
async fn list_training_run_evaluations(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RunId>,
    QueryOf(EvaluationParams { stage, split }): QueryOf<EvaluationParams>,
) -> Result<Json<List<ScoredEvaluation>>, ApiError> {
    find(&stores, id).await?;
    let evaluations = store::evaluations::of_run(&stores.db, id, stage, split).await?;
    Ok(Json(List::whole(scored(evaluations).await?)))
}

fn read_request(body: JsonObject) -> RunRequest {
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let dataset_id = fields.required("dataset_id");
    let defaults = RunRequest::new(dataset_id);
    let request = RunRequest {
        recipe: fields.optional("recipe").unwrap_or(defaults.recipe),
        name: fields.optional_text("name", 200),
        seed: fields.optional("seed").unwrap_or(defaults.seed),
        acknowledge: read_acknowledged(&mut fields),
        overrides: fields.object("plan").map(service::read_plan_overrides).unwrap_or_default(),
        ..defaults
    };
    fields.finish();
    RunRequest { unreadable: errors, ..request }
}

fn read_acknowledged(fields: &mut Fields) -> Vec<LeakageKind> {
    let names: Vec<String> = fields.optional("acknowledge").unwrap_or_default();
    let mut known = Vec::new();
    for (position, name) in names.iter().enumerate() {
        match name.parse::<LeakageKind>() {
            Ok(leakage) => known.push(leakage),
            Err(detail) => fields.check(false, &format!("acknowledge/{position}"), &detail),
        }
    }
    known
}

async fn scheduled(stores: &Stores, training: &TrainingControl, run: Run) -> Result<TrainingRun, ApiError> {
    Ok(service::schedule(&stores.db, training, run).await?)
}

async fn find(stores: &Stores, id: RunId) -> Result<Run, ApiError> {
    store::runs::get(&stores.db, id).await?.ok_or(ApiError::NotFound("training run"))
}

fn location(id: RunId) -> String {
    format!("/v1/training-runs/{id}")
}
