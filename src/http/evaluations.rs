//! `/v1/evaluations` and `/v1/models/{id}/evaluations`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    extract::{List, ListParams, PathOf, QueryOf},
    responses::{Malformed, NotFound},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{ClassList, EvaluatedImage, EvaluationId, ModelId, Sha256},
    store::{self, Stores},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_evaluation))
        .routes(routes!(list_evaluation_outcomes))
        .routes(routes!(list_model_evaluations))
}

/// Prediction of a model for one image, with the true class.
#[derive(Debug, Serialize, ToSchema)]
struct ImageOutcome {
    /// SHA-256 of the image's bytes, as in the radiograph.
    sha256: Sha256,
    /// True class at the time of the evaluation.
    truth: String,
    /// The most probable class.
    predicted: String,
    /// Probabilities by class; they sum to 1 and are not calibrated.
    probabilities: BTreeMap<String, f32>,
}

impl ImageOutcome {
    /// The store has checked that the outcome's indices are within the class list.
    fn of(EvaluatedImage { sha256, truth, predicted, probabilities, .. }: EvaluatedImage, classes: &ClassList) -> Self {
        let names = classes.names();
        let probabilities = names.iter().cloned().zip(probabilities).collect();
        Self { sha256, truth: names[truth].clone(), predicted: names[predicted].clone(), probabilities }
    }
}

/// Returns an evaluation with its scores.
#[utoipa::path(get, path = "/v1/evaluations/{id}", tag = "models", params(("id" = EvaluationId, Path)), responses(
    (status = 200, description = "The evaluation", body = ScoredEvaluation),
    NotFound
))]
async fn get_evaluation(
    State(stores): State<Stores>,
    PathOf(id): PathOf<EvaluationId>,
) -> Result<Json<ScoredEvaluation>, ApiError> {
    let found = store::evaluations::get(&stores.db, id).await?.ok_or(ApiError::NotFound("evaluation"))?;
    let mut scored = scored(vec![found]).await?;
    scored.pop().map(Json).ok_or(ApiError::NotFound("evaluation"))
}

/// Lists the predictions of an evaluation, one for each image, in the order of the images' hashes, which are the cursor. Empty for
/// evaluations from before predictions were stored.
#[utoipa::path(get, path = "/v1/evaluations/{id}/outcomes", tag = "models",
    params(("id" = EvaluationId, Path), ListParams<Sha256>),
    responses((status = 200, description = "A page, by hash", body = List<ImageOutcome>), Malformed, NotFound))]
async fn list_evaluation_outcomes(
    State(stores): State<Stores>,
    PathOf(id): PathOf<EvaluationId>,
    QueryOf(params): QueryOf<ListParams<Sha256>>,
) -> Result<Json<List<ImageOutcome>>, ApiError> {
    let page = params.page()?;
    let evaluation = store::evaluations::get(&stores.db, id).await?.ok_or(ApiError::NotFound("evaluation"))?;
    let outcomes = store::outcomes::page(&stores.db, id, &page).await?;
    let outcomes = outcomes.into_iter().map(|outcome| ImageOutcome::of(outcome, &evaluation.classes)).collect();
    Ok(Json(List::of(outcomes, &page, |outcome| outcome.sha256.to_string())))
}

/// Lists the evaluations of a model, one for each split that had images when its stage ended.
#[utoipa::path(get, path = "/v1/models/{id}/evaluations", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, description = "By split", body = List<ScoredEvaluation>),
    NotFound
))]
async fn list_model_evaluations(
    State(stores): State<Stores>,
    PathOf(id): PathOf<ModelId>,
) -> Result<Json<List<ScoredEvaluation>>, ApiError> {
    store::models::get(&stores.db, id).await?.ok_or(ApiError::NotFound("model"))?;
    let evaluations = store::evaluations::of_model(&stores.db, id).await?;
    Ok(Json(List::whole(scored(evaluations).await?)))
}
