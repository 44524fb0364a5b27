//! `/v1/models`: what training produced or somebody uploaded.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{Conflict, Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
    body,
    extract::{List, ListParams, PathOf, QueryOf},
    scores::{ScoredEvaluation, scored},
};
use crate::{
    domain::{ModelId, ModelSpec, RunId, TrainingPlan},
    nn::{DeviceChoice, Network, NnError},
    store::{self, Model},
};

/// Largest model file; a ResNet-50 with its head takes 97 MiB.
const MAX_MODEL_BYTES: usize = 256 << 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_models, upload_model))
        .routes(routes!(get_model, delete_model))
        .routes(routes!(get_model_weights))
}

/// Which models.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ModelFilter {
    /// Those of this run.
    run_id: Option<RunId>,
}

/// A model with the plan that made it and its scores.
#[derive(Serialize, ToSchema)]
struct ModelAnswer {
    #[serde(flatten)]
    model: Model,
    /// Plan of its run; absent for an uploaded model and after its run was deleted.
    plan: Option<TrainingPlan>,
    /// Its evaluations, by split.
    evaluations: Vec<ScoredEvaluation>,
}

/// What an uploaded model is called and was trained on.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UploadParams {
    /// Its name, 1 to 100 characters.
    #[param(default = "uploaded")]
    name: Option<String>,
    /// Whether it was trained on drawn phantoms.
    #[serde(default)]
    #[param(default = false)]
    synthetic: bool,
}

/// Models in order of creation.
#[utoipa::path(get, path = "/v1/models", tag = "models", params(ModelFilter, ListParams), responses(
    (status = 200, body = List<Model>),
    Malformed
))]
async fn list_models(
    State(state): State<AppState>,
    QueryOf(filter): QueryOf<ModelFilter>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<Model>>, ApiError> {
    let page = params.page()?;
    let models = store::models::list(&state.db, filter.run_id, &page).await?;
    Ok(Json(List::of(models, &page, |model| model.id.to_string())))
}

/// A model with its plan and scores.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, body = ModelAnswer),
    NotFound
))]
async fn get_model(State(state): State<AppState>, PathOf(id): PathOf<ModelId>) -> Result<Json<ModelAnswer>, ApiError> {
    let model = find(&state, id).await?;
    let plan = match model.run_id {
        Some(run) => store::runs::get(&state.db, run).await?.map(|run| run.plan),
        None => None,
    };
    let evaluations = scored(store::evaluations::of_model(&state.db, id).await?).await?;
    Ok(Json(ModelAnswer { model, plan, evaluations }))
}

/// Removes a model that no alias points at.
#[utoipa::path(delete, path = "/v1/models/{id}", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 204, description = "Removed"),
    NotFound,
    Conflict
))]
async fn delete_model(State(state): State<AppState>, PathOf(id): PathOf<ModelId>) -> Result<StatusCode, ApiError> {
    if !store::models::delete(&state.db, id).await? {
        return Err(ApiError::NotFound("model"));
    }
    state.engine.unload(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The model file: safetensors with the model's spec in its metadata.
#[utoipa::path(get, path = "/v1/models/{id}/weights", tag = "models", params(("id" = ModelId, Path)), responses(
    (status = 200, description = "safetensors", body = Vec<u8>, content_type = "application/octet-stream"),
    NotFound
))]
async fn get_model_weights(State(state): State<AppState>, PathOf(id): PathOf<ModelId>) -> Result<Response, ApiError> {
    let model = find(&state, id).await?;
    let bytes = state.blobs.get(&model.sha256).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"thorax-{id}.safetensors\"")),
        (header::ETAG, format!("\"{}\"", model.sha256)),
    ];
    Ok((headers, bytes).into_response())
}

/// Takes a file as `GET /v1/models/{id}/weights` gives it.
#[utoipa::path(post, path = "/v1/models", tag = "models", params(UploadParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "At most 256 MiB"),
    responses(
        (status = 201, body = Model, headers(("Location" = String, description = "The model"))),
        TooLarge,
        UnsupportedType,
        Invalid
    ))]
async fn upload_model(
    State(state): State<AppState>,
    QueryOf(params): QueryOf<UploadParams>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, ApiError> {
    let name = params.name.unwrap_or_else(|| "uploaded".into());
    if !(1..=100).contains(&name.chars().count()) {
        return Err(ApiError::invalid("/name", "must have 1 to 100 characters"));
    }
    if body::media_type(&headers) != "application/octet-stream" {
        return Err(ApiError::UnsupportedType("send the model file as application/octet-stream".into()));
    }
    let bytes = body::read(content, MAX_MODEL_BYTES).await?;
    let spec = check(bytes.clone()).await?;
    let model = keep(&state, bytes, spec, name, params.synthetic).await?;
    let location = [(header::LOCATION, format!("/v1/models/{}", model.id))];
    Ok((StatusCode::CREATED, location, Json(model)).into_response())
}

/// Builds the network once, so that a file that cannot serve is refused now.
async fn check(bytes: Bytes) -> Result<ModelSpec, ApiError> {
    let build = move || -> Result<ModelSpec, NnError> {
        let (device, _) = DeviceChoice::Cpu.open(None)?;
        Ok(Network::from_bytes(&bytes, &device)?.1)
    };
    let built = tokio::task::spawn_blocking(build).await.map_err(ApiError::internal)?;
    built.map_err(|error| ApiError::Unusable(error.to_string()))
}

async fn keep(
    state: &AppState,
    bytes: Bytes,
    spec: ModelSpec,
    name: String,
    synthetic: bool,
) -> Result<Model, ApiError> {
    let byte_length = bytes.len() as u64;
    // Held until the row is committed.
    let stored = state.blobs.put(bytes.into()).await?;
    let model = Model {
        id: ModelId::new(),
        run_id: None,
        stage: None,
        name,
        sha256: stored.sha256().clone(),
        byte_length,
        spec,
        synthetic,
        aliases: Vec::new(),
        created_at: Timestamp::now(),
    };
    store::models::create(&state.db, &model, &[]).await?;
    Ok(model)
}

pub(super) async fn find(state: &AppState, id: ModelId) -> Result<Model, ApiError> {
    store::models::get(&state.db, id).await?.ok_or(ApiError::NotFound("model"))
}
