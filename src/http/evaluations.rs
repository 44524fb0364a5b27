//! `/v1/evaluations` and the evaluations of a model.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{Malformed, NotFound},
    extract::{List, ListParams, PathOf, QueryOf},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{ClassList, EvaluatedImage, EvaluationId, ModelId, Sha256},
    store,
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_evaluation))
        .routes(routes!(list_evaluation_outcomes))
        .routes(routes!(list_model_evaluations))
}

/// What a model made of one image.
#[derive(Debug, Serialize, ToSchema)]
struct ImageOutcome {
    /// Of the image's bytes; a radiograph has the same.
    sha256: Sha256,
    /// Its class when it was evaluated.
    truth: String,
    /// The most probable class.
    predicted: String,
    /// By class; they add up to 1 and are not calibrated.
    probabilities: BTreeMap<String, f32>,
}

impl ImageOutcome {
    /// The store has checked that the outcome's places are some of the class list.
    fn of(EvaluatedImage { sha256, truth, predicted, probabilities }: EvaluatedImage, classes: &ClassList) -> Self {
        let names = classes.names();
        let probabilities = names.iter().cloned().zip(probabilities).collect();
        Self { sha256, truth: names[truth].clone(), predicted: names[predicted].clone(), probabilities }
    }
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

/// What was predicted of each image of an evaluation, in the order of the images' hashes, which are the cursor. Empty for
/// evaluations from before this was kept.
#[utoipa::path(get, path = "/v1/evaluations/{id}/outcomes", tag = "models",
    params(("id" = EvaluationId, Path), ListParams),
    responses((status = 200, body = List<ImageOutcome>), Malformed, NotFound))]
async fn list_evaluation_outcomes(
    State(state): State<AppState>,
    PathOf(id): PathOf<EvaluationId>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<ImageOutcome>>, ApiError> {
    let page = params.page()?;
    let evaluation = store::evaluations::get(&state.db, id).await?.ok_or(ApiError::NotFound("evaluation"))?;
    let outcomes = store::outcomes::page(&state.db, id, &page).await?;
    let outcomes = outcomes.into_iter().map(|outcome| ImageOutcome::of(outcome, &evaluation.classes)).collect();
    Ok(Json(List::of(outcomes, &page, |outcome| outcome.sha256.to_string())))
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
