//! `/v2/repository`: lists, loads and unloads models.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{Object, Type},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{errors::ErrorResponses, model::ModelPath, request::body_or_default};
use crate::{
    http::{
        ApiError, AppState,
        extract::{PathOf, SmallBody},
    },
    service::Models,
    store::{self, Model, Page},
};

/// Page size when reading models from the database.
const PAGE: u32 = 200;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_repository)).routes(routes!(load_model)).routes(routes!(unload_model))
}

/// Filter of the repository index.
#[derive(Default, Deserialize, ToSchema)]
struct IndexRequest {
    /// True to list only loaded models.
    #[serde(default)]
    ready: bool,
}

/// Parameters of loading a model. None is supported.
#[derive(Default, Deserialize, ToSchema)]
struct LoadRequest {
    /// Must be empty: `config` and `file:…` are not supported.
    #[serde(default)]
    #[schema(schema_with = no_parameters)]
    parameters: Map<String, Value>,
}

fn no_parameters() -> Object {
    Object::builder().schema_type(Type::Object).max_properties(Some(0)).build()
}

/// Parameters of unloading a model.
#[derive(Default, Deserialize, ToSchema)]
struct UnloadRequest {
    /// Ignored, such as `unload_dependents`: no model depends on another.
    #[serde(default)]
    #[schema(value_type = Object)]
    #[allow(dead_code, reason = "checked to be an object")]
    parameters: Map<String, Value>,
}

/// A model in the repository index.
#[derive(Serialize, ToSchema)]
struct IndexEntry {
    /// Name: the identifier or an alias of the model.
    name: String,
    /// Version: the identifier of the model.
    version: String,
    /// `READY` or `UNAVAILABLE`.
    state: &'static str,
    /// Reason for being unavailable.
    reason: &'static str,
}

/// List all models: one entry for the identifier of each model and one for each alias. The body may be empty.
#[utoipa::path(post, path = "/v2/repository/index", tag = "open inference protocol", request_body = IndexRequest,
    responses((status = 200, description = "Names of models", body = Vec<IndexEntry>), ErrorResponses))]
async fn list_repository(
    State(models): State<Models>,
    SmallBody(body): SmallBody,
) -> Result<Json<Vec<IndexEntry>>, ApiError> {
    let IndexRequest { ready } = body_or_default(&body)?;
    let mut entries = Vec::new();
    let mut page = Page { limit: PAGE, after: None };
    loop {
        let listed = store::models::list(&models.stores.db, None, &page).await?;
        let selected = listed.iter().filter(|model| !ready || models.serving.engine.is_loaded(model.id));
        entries.extend(selected.flat_map(|model| entries_of(&models, model)));
        match listed.last() {
            Some(last) if listed.len() == PAGE as usize => page.after = Some(last.id.to_string()),
            _ => return Ok(Json(entries)),
        }
    }
}

fn entries_of(models: &Models, model: &Model) -> Vec<IndexEntry> {
    let (state, reason) =
        if models.serving.engine.is_loaded(model.id) { ("READY", "") } else { ("UNAVAILABLE", "not loaded") };
    let version = model.id.to_string();
    let names = model.aliases.iter().cloned().chain([version.clone()]);
    names.map(|name| IndexEntry { name, version: version.clone(), state, reason }).collect()
}

/// Load a model.
///
/// Loads and warms up the model, which then serves requests under its names. If the limit of loaded models is reached, the least recently
/// used model other than the champion is unloaded. Aliases do not change; to move one, use `PUT /v1/models/aliases/{alias}`.
#[utoipa::path(post, path = "/v2/repository/models/{name}/load", tag = "open inference protocol",
    params(("name" = String, Path)), request_body = LoadRequest,
    responses((status = 200, description = "The model is loaded", body = Value), ErrorResponses))]
async fn load_model(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
    SmallBody(body): SmallBody,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let LoadRequest { parameters } = body_or_default(&body)?;
    if let Some(name) = parameters.keys().next() {
        return Err(ApiError::Malformed(format!("the parameter {name:?} is not supported: leave `parameters` empty")));
    }
    let model = path.find(&models).await?;
    models.load_named(model.id).await?;
    Ok(Json(Map::new()))
}

/// Unload a model.
///
/// Without the champion the server is not ready until the champion is loaded again or another model is promoted. Aliases do not change, and
/// the next start of the server loads the champion.
#[utoipa::path(post, path = "/v2/repository/models/{name}/unload", tag = "open inference protocol",
    params(("name" = String, Path)), request_body = UnloadRequest,
    responses((status = 200, description = "The model is not loaded", body = Value), ErrorResponses))]
async fn unload_model(
    State(models): State<Models>,
    PathOf(path): PathOf<ModelPath>,
    SmallBody(body): SmallBody,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let _: UnloadRequest = body_or_default(&body)?;
    let model = path.find(&models).await?;
    models.unload(&model).await?;
    Ok(Json(Map::new()))
}
