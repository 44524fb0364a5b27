//! `/v1/models`: trained and uploaded models.

use std::convert::Infallible;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    body::{self, Receipt},
    extract::{List, ListParams, PathOf, QueryOf},
    responses::{Binary, Conflict, Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
    scores::{ScoredEvaluation, scored},
    stream,
    transfers::Transfers,
};
use crate::{
    domain::{ModelId, RunId, TrainingPlan},
    service::{Lifecycle, Models},
    store::{self, Model, Stores},
};

/// Maximum size of a model file; a ResNet-50 with its head has 97 MiB.
const MAX_MODEL_BYTES: usize = 256 << 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_models, upload_model))
        .routes(routes!(get_model, delete_model))
        .routes(routes!(get_model_weights))
}

/// Filter of models.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ModelFilter {
    /// Only models of this training run.
    run_id: Option<RunId>,
}

/// A model with its plan and scores.
#[derive(Serialize, ToSchema)]
struct ModelDetail {
    #[serde(flatten)]
    model: Model,
    /// Plan of its training run; null for an uploaded model and after its run was deleted.
    plan: Option<TrainingPlan>,
    /// Evaluations by split.
    evaluations: Vec<ScoredEvaluation>,
}

/// Description of an uploaded model.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UploadParams {
    /// Name, 1 to 100 characters.
    #[param(default = "uploaded", min_length = 1, max_length = 100)]
    name: Option<String>,
    /// True if it was trained on synthetic phantoms. A file that Thorax wrote is marked so, and needs no parameter.
    #[serde(default)]
    #[param(default = false)]
    synthetic: bool,
}

/// Lists models, oldest first.
#[utoipa::path(get, path = "/v1/models", tag = "models", params(ModelFilter, ListParams<ModelId>), responses(
    (status = 200, description = "A page", body = List<Model>),
    Malformed
))]
async fn list_models(
    State(stores): State<Stores>,
    QueryOf(filter): QueryOf<ModelFilter>,
    QueryOf(params): QueryOf<ListParams<ModelId>>,
) -> Result<Json<List<Model>>, ApiError> {
    let page = params.page()?;
    let models = store::models::list(&stores.db, filter.run_id, &page).await?;
    Ok(Json(List::of(models, &page, |model| model.id.to_string())))
}

/// Returns a model with its plan and scores.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, description = "The model", body = ModelDetail),
    NotFound
))]
async fn get_model(State(stores): State<Stores>, PathOf(id): PathOf<ModelId>) -> Result<Json<ModelDetail>, ApiError> {
    let model = find(&stores, id).await?;
    let plan = match model.run_id {
        Some(run) => store::runs::get(&stores.db, run).await?.map(|run| run.plan),
        None => None,
    };
    let evaluations = scored(store::evaluations::of_model(&stores.db, id).await?).await?;
    Ok(Json(ModelDetail { model, plan, evaluations }))
}

/// Deletes a model that no alias points at.
#[utoipa::path(delete, path = "/v1/models/{id}", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 204, description = "Deleted"),
    NotFound,
    Conflict
))]
async fn delete_model(State(models): State<Models>, PathOf(id): PathOf<ModelId>) -> Result<StatusCode, ApiError> {
    models.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Downloads the model file: safetensors with the model's spec in its metadata.
#[utoipa::path(get, path = "/v1/models/{id}/weights", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, description = "safetensors", body = Binary, content_type = "application/octet-stream"),
    NotFound
))]
async fn get_model_weights(
    State(models): State<Models>,
    State(transfers): State<Transfers>,
    State(lifecycle): State<Lifecycle>,
    PathOf(id): PathOf<ModelId>,
) -> Result<Response, ApiError> {
    let model = models.get(id).await?;
    let max_pause = transfers.limits.read_pause;
    let (body, length) = if model.synthetic {
        // The file may lack the mark that the download adds.
        let permit = transfers.export_permit()?;
        let bytes = bytes::Bytes::from(models.file(&model).await?);
        let length = bytes.len() as u64;
        let chunks = futures_util::stream::iter([Ok::<_, Infallible>(bytes)]);
        (stream::body(&lifecycle.tasks, chunks, max_pause, permit), length)
    } else {
        let (file, length) = models.stores.blobs.open_verified(&model.sha256).await?;
        (stream::file(&lifecycle.tasks, file, max_pause), length)
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"thorax-{id}.safetensors\"")),
        (header::ETAG, format!("\"{}\"", model.sha256)),
    ];
    Ok((headers, body).into_response())
}

/// Uploads a model file, as `GET /v1/models/{id}/weights` returns it. It is refused if the network computes a number that is not finite
/// for generated images.
#[utoipa::path(post, path = "/v1/models", tag = "models", params(UploadParams),
    request_body(content = Binary, content_type = "application/octet-stream", description = "At most 256 MiB"),
    responses(
        (status = 201, description = "Stored", body = Model, headers(("Location" = String, description = "The model"))),
        TooLarge,
        UnsupportedType,
        Invalid
    ))]
async fn upload_model(
    State(models): State<Models>,
    QueryOf(params): QueryOf<UploadParams>,
    request: Request,
) -> Result<Response, ApiError> {
    let name = params.name.unwrap_or_else(|| "uploaded".into());
    if !(1..=100).contains(&name.chars().count()) {
        return Err(ApiError::invalid("/name", "must have 1 to 100 characters"));
    }
    if body::media_type(request.headers()) != "application/octet-stream" {
        return Err(ApiError::UnsupportedType("send the model file as application/octet-stream".into()));
    }
    let receipt = Receipt::of(&request)?;
    let bytes = receipt.receive(request, MAX_MODEL_BYTES).await?.load().await?;
    let model = models.upload(bytes, name, params.synthetic).await?;
    let location = [(header::LOCATION, format!("/v1/models/{}", model.id))];
    Ok((StatusCode::CREATED, location, Json(model)).into_response())
}

pub(super) async fn find(stores: &Stores, id: ModelId) -> Result<Model, ApiError> {
    store::models::get(&stores.db, id).await?.ok_or(ApiError::NotFound("model"))
}
