//! `/v1/evaluations` and `/v1/models/{id}/evaluations`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    prediction_jobs::PredictionJobDetail,
    responses::{self, Conflict, Invalid, Malformed, NotFound},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{
        ClassList, DatasetId, EvaluatedImage, EvaluationId, GroupAttribute, ModelId, RadiographId, Sha256, Split,
    },
    evaluation::Grouping,
    service::{self, NewEvaluation, PredictionJobs},
    store::{self, Stores},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_evaluation))
        .routes(routes!(list_evaluation_outcomes))
        .routes(routes!(list_evaluation_groups))
        .routes(routes!(list_model_evaluations, create_model_evaluation))
}

/// Data to evaluate a model on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewModelEvaluation {
    /// Data set. The model must know all of its classes.
    dataset_id: DatasetId,
    /// Split of the data set; its labelled radiographs are evaluated.
    split: Split,
    /// Attributes by which `GET /v1/evaluations/{id}/groups` groups the scores unless its request names another one.
    #[serde(default)]
    group_by: Vec<GroupAttribute>,
}

/// Filter of the predictions of an evaluation.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OutcomeFilter {
    /// Only the images that were classified correctly (`true`), or only the others (`false`).
    correct: Option<bool>,
}

/// Attribute of the groups.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct GroupParams {
    /// Attribute; those of the evaluation's request when absent, and no item if it named none.
    by: Option<GroupAttribute>,
}

/// Prediction of a model for one image, with the true class.
#[derive(Debug, Serialize, ToSchema)]
struct ImageOutcome {
    /// SHA-256 of the image's bytes, as in the radiograph.
    sha256: Sha256,
    /// Radiograph of the data set with these bytes; null after it was deleted.
    radiograph_id: Option<RadiographId>,
    /// True class at the time of the evaluation.
    truth: String,
    /// The most probable class.
    predicted: String,
    /// Probabilities by class; they sum to 1 and are not calibrated.
    probabilities: BTreeMap<String, f32>,
}

impl ImageOutcome {
    /// The store has checked that the outcome's indices are within the class list.
    fn of(image: EvaluatedImage, radiograph_id: Option<RadiographId>, classes: &ClassList) -> Self {
        let EvaluatedImage { sha256, truth, predicted, probabilities, .. } = image;
        let names = classes.names();
        let probabilities = names.iter().cloned().zip(probabilities).collect();
        Self { sha256, radiograph_id, truth: names[truth].clone(), predicted: names[predicted].clone(), probabilities }
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
    params(("id" = EvaluationId, Path), OutcomeFilter, ListParams<Sha256>),
    responses((status = 200, description = "A page, by hash", body = List<ImageOutcome>), Malformed, NotFound))]
async fn list_evaluation_outcomes(
    State(stores): State<Stores>,
    PathOf(id): PathOf<EvaluationId>,
    QueryOf(filter): QueryOf<OutcomeFilter>,
    QueryOf(params): QueryOf<ListParams<Sha256>>,
) -> Result<Json<List<ImageOutcome>>, ApiError> {
    let page = params.page()?;
    let evaluation = store::evaluations::get(&stores.db, id).await?.ok_or(ApiError::NotFound("evaluation"))?;
    let outcomes = store::outcomes::page(&stores.db, id, filter.correct, &page).await?;
    let hashes: Vec<Sha256> = outcomes.iter().map(|outcome| outcome.sha256.clone()).collect();
    let mut radiographs = store::radiographs::ids_of(&stores.db, evaluation.dataset_id, &hashes).await?;
    let outcomes = outcomes.into_iter().map(|outcome| {
        let radiograph = radiographs.remove(&outcome.sha256);
        ImageOutcome::of(outcome, radiograph, &evaluation.classes)
    });
    let outcomes = outcomes.collect();
    Ok(Json(List::of(outcomes, &page, |outcome| outcome.sha256.to_string())))
}

/// Returns the scores of an evaluation by groups of its images, such as by source, and the gap between the worst and the best group. Groups
/// of fewer than 20 patients are marked and not ranked. The attributes of the images are the current ones of the data set.
#[utoipa::path(get, path = "/v1/evaluations/{id}/groups", tag = "models",
    params(("id" = EvaluationId, Path), GroupParams),
    responses(
        (status = 200, description = "By attribute", body = List<Grouping>),
        Malformed,
        NotFound,
        Conflict
    ))]
async fn list_evaluation_groups(
    State(stores): State<Stores>,
    PathOf(id): PathOf<EvaluationId>,
    QueryOf(params): QueryOf<GroupParams>,
) -> Result<Json<List<Grouping>>, ApiError> {
    Ok(Json(List::whole(service::group(&stores, id, params.by).await?)))
}

/// Evaluates a model (by identifier or alias) on the labelled radiographs of a split, in the background. The response is a prediction job: it
/// has the progress, its results name the images without a prediction and the reasons, and deleting it cancels the evaluation. When it has
/// succeeded, `evaluation.id` is the evaluation. It fails if the data set changes meanwhile.
#[utoipa::path(post, path = "/v1/models/{id}/evaluations", tag = "models",
    params(("id" = String, Path, description = "Identifier or alias of the model")),
    request_body = NewModelEvaluation,
    responses(
        (status = 202, description = "Queued", body = PredictionJobDetail, headers(("Location" = String, description = "The job"))),
        Malformed,
        NotFound,
        Invalid
    ))]
async fn create_model_evaluation(
    State(jobs): State<PredictionJobs>,
    PathOf(model): PathOf<String>,
    JsonBody(new): JsonBody<NewModelEvaluation>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<PredictionJobDetail>), ApiError> {
    let NewModelEvaluation { dataset_id: dataset, split, group_by } = new;
    let job = jobs.submit_evaluation(NewEvaluation { model, dataset, split, group_by }).await?;
    Ok(responses::accepted(format!("/v1/prediction-jobs/{}", job.id), job.into()))
}

/// Lists the evaluations of a model, oldest first: one for each split that had images when its stage ended, and those requested later.
#[utoipa::path(get, path = "/v1/models/{id}/evaluations", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, description = "Oldest first", body = List<ScoredEvaluation>),
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
