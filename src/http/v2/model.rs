//! A model as the protocol sees it: found by name and version, ready or not, and the tensors it takes and gives.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Failed, response, tensor};
use crate::{
    http::{ApiError, AppState, extract::PathOf},
    service::Models,
    store::Model,
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_inference_model))
        .routes(routes!(get_inference_model_version))
        .routes(routes!(get_model_ready))
        .routes(routes!(get_model_version_ready))
}

/// Which model.
#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
    #[serde(default)]
    version: Option<String>,
}

/// A tensor that a model takes or gives.
#[derive(Serialize, ToSchema)]
pub(super) struct TensorMetadata {
    /// By which a request names it.
    pub(super) name: &'static str,
    /// Of its elements.
    pub(super) datatype: &'static str,
    /// -1 where any size is taken.
    pub(super) shape: Vec<i64>,
}

/// What a model takes and gives.
#[derive(Serialize, ToSchema)]
struct ModelMetadata {
    /// As it was asked for.
    name: String,
    /// Its identifier: a model has one version.
    versions: [String; 1],
    /// The program and the format of the file.
    platform: &'static str,
    /// A request has one of them.
    inputs: Vec<TensorMetadata>,
    /// All of them are given, or those that are asked for.
    outputs: Vec<TensorMetadata>,
}

/// The model serves.
#[derive(Serialize, ToSchema)]
struct ModelReady {
    name: String,
    ready: bool,
}

/// The tensors of a model, which is named by its identifier or an alias.
#[utoipa::path(get, path = "/v2/models/{name}", tag = "open inference protocol", params(("name" = String, Path)),
    responses((status = 200, body = ModelMetadata), Failed))]
async fn get_inference_model(
    State(models): State<Models>,
    PathOf(named): PathOf<Named>,
) -> Result<Json<ModelMetadata>, ApiError> {
    metadata(&models, named).await
}

/// The tensors of a version of a model: of the one that it has.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ModelMetadata), Failed))]
async fn get_inference_model_version(
    State(models): State<Models>,
    PathOf(named): PathOf<Named>,
) -> Result<Json<ModelMetadata>, ApiError> {
    metadata(&models, named).await
}

/// Whether a model is loaded; 409 when it is not.
#[utoipa::path(get, path = "/v2/models/{name}/ready", tag = "open inference protocol", params(("name" = String, Path)),
    responses((status = 200, body = ModelReady), Failed))]
async fn get_model_ready(
    State(models): State<Models>,
    PathOf(named): PathOf<Named>,
) -> Result<Json<ModelReady>, ApiError> {
    ready(&models, named).await
}

/// Whether a version of a model is loaded.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}/ready", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ModelReady), Failed))]
async fn get_model_version_ready(
    State(models): State<Models>,
    PathOf(named): PathOf<Named>,
) -> Result<Json<ModelReady>, ApiError> {
    ready(&models, named).await
}

async fn metadata(models: &Models, named: Named) -> Result<Json<ModelMetadata>, ApiError> {
    let model = named.find(models).await?;
    let (versions, classes) = ([model.id.to_string()], model.spec.classes.len());
    let (inputs, outputs) = (tensor::metadata(), response::metadata(classes));
    Ok(Json(ModelMetadata { name: named.name, versions, platform: "thorax_safetensors", inputs, outputs }))
}

async fn ready(models: &Models, named: Named) -> Result<Json<ModelReady>, ApiError> {
    let model = named.find(models).await?;
    named.check_loaded(models, &model)?;
    Ok(Json(ModelReady { name: named.name, ready: true }))
}

impl Named {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// By identifier or alias; 404 also for a version that it has not.
    pub(super) async fn find(&self, models: &Models) -> Result<Model, ApiError> {
        let (model, _) = models.find(&self.name).await?;
        let other = self.version.as_ref().is_some_and(|version| *version != model.id.to_string());
        if other { Err(ApiError::NotFound("version of this model: its identifier is its only one")) } else { Ok(model) }
    }

    /// 409 unless it is loaded: clients of this protocol load models themselves.
    pub(super) fn check_loaded(&self, models: &Models, model: &Model) -> Result<(), ApiError> {
        if models.serving.engine.is_loaded(model.id) {
            return Ok(());
        }
        let name = &self.name;
        Err(ApiError::Conflict(format!("model {name} is not loaded: POST /v2/repository/models/{name}/load first")))
    }
}
