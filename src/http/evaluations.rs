//! `/v1/evaluations` and the evaluations of a model.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::NotFound,
    extract::{List, PathOf},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{EvaluationId, ModelId},
    store,
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_evaluation)).routes(routes!(list_model_evaluations))
}

/// One evaluation.
#[utoipa::path(get, path = "/v1/evaluations/{id}", tag = "models", params(("id" = EvaluationId, Path)), responses(
    (status = 200, body = ScoredEvaluation),
    NotFound
))]
async fn get_evaluation(
    State(state): State<AppState>,
    PathOf(id): PathOf<EvaluationId>,
) -> Result<Json<ScoredEvaluation>, ApiError> {
    let found = store::evaluations::get(&state.db, id).await?.ok_or(ApiError::NotFound("evaluation"))?;
    let mut scored = scored(vec![found]).await?;
    scored.pop().map(Json).ok_or(ApiError::NotFound("evaluation"))
}

/// A model's evaluations, on every split that had images when its stage ended.
#[utoipa::path(get, path = "/v1/models/{id}/evaluations", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, body = List<ScoredEvaluation>),
    NotFound
))]
async fn list_model_evaluations(
    State(state): State<AppState>,
    PathOf(id): PathOf<ModelId>,
) -> Result<Json<List<ScoredEvaluation>>, ApiError> {
    store::models::get(&state.db, id).await?.ok_or(ApiError::NotFound("model"))?;
    let evaluations = store::evaluations::of_model(&state.db, id).await?;
    Ok(Json(List::whole(scored(evaluations).await?)))
}
