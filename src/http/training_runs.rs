//! `/v1/training-runs`: submitting, watching and cancelling runs, and their numbers.

mod events;
mod queue;
mod submission;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    queue::{TrainingRun, all_shown, shown},
    submission::{NewTrainingRun, check},
};
use super::{
    ApiError, AppState,
    answer::{self, Conflict, Invalid, Malformed, NotFound},
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    fields::JsonObject,
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{EpochRecord, RunId, RunStatus, Split},
    store::{self, Run, StoreError},
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_training_run, list_training_runs))
        .routes(routes!(get_training_run, delete_training_run))
        .routes(routes!(cancel_training_run))
        .routes(routes!(list_training_run_epochs))
        .routes(routes!(list_training_run_evaluations))
        .merge(events::router())
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

/// Queues a run. A wrong plan is refused here, with everything that is wrong with it, and not when its turn comes.
#[utoipa::path(
    post, path = "/v1/training-runs", tag = "training",
    request_body = NewTrainingRun,
    responses((status = 202, description = "Queued", body = TrainingRun), Malformed, Invalid)
)]
async fn create_training_run(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let run = check(&state, body).await?;
    store::runs::create(&state.db, &run).await?;
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

/// Shows a run: its plan, its state and how far it has come.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "The run", body = TrainingRun), NotFound)
)]
async fn get_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<TrainingRun>, ApiError> {
    let run = find(&state, id).await?;
    Ok(Json(shown(&state, run).await?))
}

/// Asks a run to stop: a queued one is cancelled at once, a running one within one batch. Asking again changes nothing.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/cancel", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "The run as it stands now", body = TrainingRun), NotFound, Conflict)
)]
async fn cancel_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = match store::runs::cancel(&state.db, id).await {
        Ok(run) => run.ok_or(ApiError::NotFound("training run"))?,
        Err(StoreError::IllegalMove(illegal)) => already_cancelled(&state, id, illegal.into()).await?,
        Err(error) => return Err(error.into()),
    };
    state.run_queued.notify_one();
    Ok(answer::accepted(place(id), shown(&state, run).await?))
}

/// Removes a finished run with its epochs and evaluations. Its models stay.
#[utoipa::path(
    delete, path = "/v1/training-runs/{id}", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 204, description = "Removed"), NotFound, Conflict)
)]
async fn delete_training_run(State(state): State<AppState>, PathOf(id): PathOf<RunId>) -> Result<StatusCode, ApiError> {
    store::runs::delete(&state.db, id).await?.ok_or(ApiError::NotFound("training run"))?;
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

async fn find(state: &AppState, id: RunId) -> Result<Run, ApiError> {
    store::runs::get(&state.db, id).await?.ok_or(ApiError::NotFound("training run"))
}

/// A run that was cancelled before is answered as it was then; any other final state is a conflict.
async fn already_cancelled(state: &AppState, id: RunId, refused: StoreError) -> Result<Run, ApiError> {
    let run = find(state, id).await?;
    match run.status {
        RunStatus::Cancelling | RunStatus::Cancelled => Ok(run),
        _ => Err(refused.into()),
    }
}

fn place(id: RunId) -> String {
    format!("/v1/training-runs/{id}")
}
