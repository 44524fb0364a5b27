//! `/v1/training-runs`: submitting, watching and cancelling runs, and their numbers.

mod compare;
mod events;
mod queue;
mod repeat;

use axum::{Json, body::Bytes, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    compare::*,
    queue::{TrainingRun, all_shown, shown},
    repeat::*,
};
use super::{
    ApiError, AppState,
    answer::{self, Conflict, Invalid, Malformed, NotFound},
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{DatasetId, EpochRecord, LeakageKind, PlanOverrides, RunId, RunStatus, Split},
    service::{self, Fields, JsonObject, RunRequest, into_result},
    store::{self, Run},
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

/// A run to be queued.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request; the fields are read one by one")]
struct NewTrainingRun {
    /// What to train on.
    dataset_id: DatasetId,
    /// A plan by name; `covid-resnet` when absent.
    #[schema(default = "covid-resnet")]
    recipe: Option<String>,
    /// Replaces fields of the recipe.
    plan: Option<PlanOverrides>,
    /// Free, 1 to 200 characters.
    name: Option<String>,
    /// Of shuffling, initialisation and dropout; 0 when absent.
    #[schema(default = 0)]
    seed: Option<u32>,
    /// Leakage between the data set's splits that is known and accepted: the names that GET /v1/datasets/{id}/report finds. Without
    /// them a run on such data is refused with 409 and the findings.
    #[schema(value_type = Option<Vec<LeakageKind>>)]
    acknowledge: Option<Vec<String>>,
}

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunParams {
    /// Only those in this state.
    status: Option<RunStatus>,
}

/// Which evaluations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EvaluationParams {
    /// Of this stage, from 1.
    stage: Option<u32>,
    /// On this split.
    split: Option<Split>,
}

/// Queues a run. A wrong plan is refused here, with everything that is wrong with it, and not when its turn comes. So is a run on data
/// whose splits leak, unless `acknowledge` names what was found; the run's events then say so.
#[utoipa::path(
    post, path = "/v1/training-runs", tag = "training",
    request_body = NewTrainingRun,
    responses((status = 202, description = "Queued", body = TrainingRun), Malformed, Conflict, Invalid)
)]
async fn create_training_run(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let run = service::submit(&state.db, &state.caches, read_request(body)).await?;
    state.run_queued.notify_one();
    Ok(answer::accepted(place(run.id), shown(&state, run).await?))
}

/// Lists runs, oldest first.
#[utoipa::path(
    get, path = "/v1/training-runs", tag = "training",
    params(RunParams, ListParams),
    responses((status = 200, description = "A page", body = List<TrainingRun>), Malformed)
)]
async fn list_training_runs(
    State(state): State<AppState>,
    QueryOf(RunParams { status }): QueryOf<RunParams>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<TrainingRun>>, ApiError> {
    let page = params.page()?;
    let runs = store::runs::list(&state.db, status, &page).await?;
    let List { items, next } = List::of(runs, &page, |run| run.id.to_string());
    Ok(Json(List { items: all_shown(&state, items).await?, next }))
}

/// Shows a run: its plan, its state, how far it has come, and what is needed to repeat it.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "The run", body = RecordedRun), NotFound)
)]
async fn get_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<RecordedRun>, ApiError> {
    let run = find(&state, id).await?;
    recorded(&state, run).await.map(Json)
}

/// How a run goes on.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request; the field is read by name")]
struct Resumption {
    /// Learning rate of the step that comes next, in place of the plan's: above 0 and at most 1.
    learning_rate: Option<f64>,
}

/// Asks a run to stop for good: a queued or paused one is cancelled at once, a running one within one batch. Asking again changes nothing.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/cancel", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "The run as it stands now", body = TrainingRun), NotFound, Conflict)
)]
async fn cancel_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = store::runs::cancel(&state.db, id).await?;
    asked(&state, id, run).await
}

/// Pauses a run: a running one writes a checkpoint and frees the device within one batch. Asking again changes nothing.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/pause", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "The run as it stands now", body = TrainingRun), NotFound, Conflict)
)]
async fn pause_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = store::runs::pause(&state.db, id).await?;
    asked(&state, id, run).await
}

/// Lets a paused or failed run go on from its last checkpoint, with another learning rate for the step that comes next if wished. Asking
/// again changes nothing.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/resume", tag = "training",
    params(("id" = RunId, Path)),
    request_body = Option<Resumption>,
    responses((status = 202, description = "The run as it stands now", body = TrainingRun), Malformed, NotFound, Conflict, Invalid)
)]
async fn resume_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
    body: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    // Nothing is fine, whatever its content type.
    let body = if body.is_empty() { JsonObject::default() } else { Json::from_bytes(&body)?.0 };
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let learning_rate: Option<f64> = fields.optional("learning_rate");
    let fits = learning_rate.is_none_or(|rate| rate > 0.0 && rate <= 1.0);
    fields.check(fits, "learning_rate", "must be above 0 and at most 1");
    fields.finish();
    into_result(Some(()), errors)?;
    let run = store::runs::resume(&state.db, id, learning_rate).await?;
    asked(&state, id, run).await
}

/// The answer to what a user asked of a run; the worker is woken to see to it.
async fn asked(state: &AppState, id: RunId, run: Option<Run>) -> Result<impl IntoResponse + use<>, ApiError> {
    let run = run.ok_or(ApiError::NotFound("training run"))?;
    state.run_queued.notify_one();
    Ok(answer::accepted(place(id), shown(state, run).await?))
}

/// Removes a run that does not train, with its epochs, checkpoints and evaluations. Its models stay.
#[utoipa::path(
    delete, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 204, description = "Removed"), NotFound, Conflict)
)]
async fn delete_training_run(State(state): State<AppState>, PathOf(id): PathOf<RunId>) -> Result<StatusCode, ApiError> {
    store::runs::delete(&state.db, id).await?.ok_or(ApiError::NotFound("training run"))?;
    state.checkpoints.remove_all(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a run's finished epochs; the cursor is an epoch's `sequence`.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/epochs", tag = "training",
    params(("id" = RunId, Path), ListParams),
    responses((status = 200, description = "A page", body = List<EpochRecord>), Malformed, NotFound)
)]
async fn list_training_run_epochs(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<EpochRecord>>, ApiError> {
    let page = params.page()?;
    let after = page.after.as_deref().map_or(Ok(0), str::parse);
    let after = after.map_err(|_| ApiError::Malformed("after must be the sequence of an epoch".into()))?;
    find(&state, id).await?;
    let mut epochs = store::runs::epochs(&state.db, id, after).await?;
    epochs.truncate(page.limit as usize);
    Ok(Json(List::of(epochs, &page, |epoch| epoch.sequence.to_string())))
}

/// Lists the evaluations of a run's stage models, with scores and their 95 % intervals.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/evaluations", tag = "training",
    params(("id" = RunId, Path), EvaluationParams),
    responses((status = 200, description = "By stage and split", body = List<ScoredEvaluation>), Malformed, NotFound)
)]
async fn list_training_run_evaluations(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
    QueryOf(EvaluationParams { stage, split }): QueryOf<EvaluationParams>,
) -> Result<Json<List<ScoredEvaluation>>, ApiError> {
    find(&state, id).await?;
    let evaluations = store::evaluations::of_run(&state.db, id, stage, split).await?;
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

async fn find(state: &AppState, id: RunId) -> Result<Run, ApiError> {
    store::runs::get(&state.db, id).await?.ok_or(ApiError::NotFound("training run"))
}

fn place(id: RunId) -> String {
    format!("/v1/training-runs/{id}")
}
