//! `/v2/models`: look-up by name and version, readiness, and metadata of the input and output tensors.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{errors::ErrorResponses, metadata::TensorMetadata, response, tensor};
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

/// Model name and optional version from the path.
#[derive(Deserialize)]
pub(super) struct ModelPath {
    name: String,
    #[serde(default)]
    version: Option<String>,
}

/// Metadata of a model.
#[derive(Serialize, ToSchema)]
struct ModelMetadata {
    /// Name of the model in the request.
    name: String,
    /// Versions of the model: its identifier.
    versions: [String; 1],
    /// Framework and file format.
    platform: &'static str,
    /// Input tensors, of which a request sends one.
    inputs: Vec<TensorMetadata>,
    /// Output tensors. A response has all of them, or those that the request selects.
    outputs: Vec<TensorMetadata>,
}

/// The model is loaded.
#[derive(Serialize, ToSchema)]
struct ModelReady {
    /// Name of the model in the request.
    name: String,
    /// Always true.
    ready: bool,
}

/// Get the metadata of a model, by identifier or alias.
#[utoipa::path(get, path = "/v2/models/{name}", tag = "open inference protocol", params(("name" = String, Path)),
    responses((status = 200, description = "Model metadata", body = ModelMetadata), ErrorResponses))]
async fn get_inference_model(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
) -> Result<Json<ModelMetadata>, ApiError> {
    metadata(&models, path).await
}

/// Get the metadata of a version of a model. A model has one version, its identifier.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "Model metadata", body = ModelMetadata), ErrorResponses))]
async fn get_inference_model_version(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
) -> Result<Json<ModelMetadata>, ApiError> {
    metadata(&models, path).await
}

/// Readiness probe of a model: 200 if it is loaded, otherwise 409.
#[utoipa::path(get, path = "/v2/models/{name}/ready", tag = "open inference protocol", params(("name" = String, Path)),
    responses((status = 200, description = "The model is loaded", body = ModelReady), ErrorResponses))]
async fn get_model_ready(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
) -> Result<Json<ModelReady>, ApiError> {
    ready(&models, path).await
}

/// Readiness probe of a version of a model: 200 if it is loaded, otherwise 409.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}/ready", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "The model is loaded", body = ModelReady), ErrorResponses))]
async fn get_model_version_ready(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
) -> Result<Json<ModelReady>, ApiError> {
    ready(&models, path).await
}

async fn metadata(models: &Models, path: ModelPath) -> Result<Json<ModelMetadata>, ApiError> {
    let model = path.find(models).await?;
    let (versions, classes) = ([model.id.to_string()], model.spec.classes.len());
    let (inputs, outputs) = (tensor::metadata(), response::metadata(classes));
    Ok(Json(ModelMetadata { name: path.name, versions, platform: "thorax_safetensors", inputs, outputs }))
}

async fn ready(models: &Models, path: ModelPath) -> Result<Json<ModelReady>, ApiError> {
    let model = path.find(models).await?;
    path.check_loaded(models, &model)?;
    Ok(Json(ModelReady { name: path.name, ready: true }))
}

impl ModelPath {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Finds the model by identifier or alias. An unknown version is 404.
    pub(super) async fn find(&self, models: &Models) -> Result<Model, ApiError> {
        let (model, _) = models.find(&self.name).await?;
        let other = self.version.as_ref().is_some_and(|version| *version != model.id.to_string());
        if other {
            Err(ApiError::NotFound("version of this model: its only version is its identifier"))
        } else {
            Ok(model)
        }
    }

    /// 409 unless the model is loaded: clients of this protocol load models explicitly.
    pub(super) fn check_loaded(&self, models: &Models, model: &Model) -> Result<(), ApiError> {
        if models.serving.engine.is_loaded(model.id) {
            return Ok(());
        }
        let name = &self.name;
        Err(ApiError::Conflict(format!(
            "model {name} is not loaded: load it with POST /v2/repository/models/{name}/load"
        )))
    }
}
