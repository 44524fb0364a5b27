//! `/v2/repository`: which models there are, and which of them are loaded.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Failed, model::Named, request::body_or_default};
use crate::{
    http::{ApiError, AppState, extract::PathOf},
    service::Models,
    store::{self, Model, Page},
};

/// Models that are read from the database at once.
const PAGE: u32 = 200;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_repository)).routes(routes!(load_model)).routes(routes!(unload_model))
}

/// Which models.
#[derive(Default, Deserialize, ToSchema)]
struct IndexRequest {
    /// Only those that are loaded.
    #[serde(default)]
    ready: bool,
}

/// Nothing that this server lets a client say.
#[derive(Default, Deserialize, ToSchema)]
struct LoadRequest {
    /// `config` and `file:…` are refused: a model is loaded as it is.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
}

/// A name under which a model can be asked for.
#[derive(Serialize, ToSchema)]
struct IndexEntry {
    /// Its identifier or one of its aliases.
    name: String,
    /// Its identifier.
    version: String,
    /// `READY` or `UNAVAILABLE`.
    state: &'static str,
    /// Why it is unavailable.
    reason: &'static str,
}

/// Every model, once by its identifier and once by each alias. The body may be empty.
#[utoipa::path(post, path = "/v2/repository/index", tag = "open inference protocol", request_body = IndexRequest,
    responses((status = 200, body = Vec<IndexEntry>), Failed))]
async fn list_repository(
    State(models): State<Models>,
    body: axum::body::Bytes,
) -> Result<Json<Vec<IndexEntry>>, ApiError> {
    let IndexRequest { ready } = body_or_default(&body)?;
    let mut entries = Vec::new();
    let mut page = Page { limit: PAGE, after: None };
    loop {
        let listed = store::models::list(&models.stores.db, None, &page).await?;
        let wanted = listed.iter().filter(|model| !ready || models.serving.engine.is_loaded(model.id));
        entries.extend(wanted.flat_map(|model| named(&models, model)));
        match listed.last() {
            Some(last) if listed.len() == PAGE as usize => page.after = Some(last.id.to_string()),
            _ => return Ok(Json(entries)),
        }
    }
}

fn named(models: &Models, model: &Model) -> Vec<IndexEntry> {
    let (state, reason) =
        if models.serving.engine.is_loaded(model.id) { ("READY", "") } else { ("UNAVAILABLE", "not loaded") };
    let version = model.id.to_string();
    let names = model.aliases.iter().cloned().chain([version.clone()]);
    names.map(|name| IndexEntry { name, version: version.clone(), state, reason }).collect()
}

/// Loads a model and warms it, so that it answers under its names; the champion serves again. The least recently used of the others may
/// have to make room. No alias is moved: that is `PUT /v1/models/aliases/{alias}`.
#[utoipa::path(post, path = "/v2/repository/models/{name}/load", tag = "open inference protocol",
    params(("name" = String, Path)), request_body = LoadRequest,
    responses((status = 200, description = "It is loaded", body = Value), Failed))]
async fn load_model(
    State(models): State<Models>,
    PathOf(wanted): PathOf<Named>,
    body: axum::body::Bytes,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let LoadRequest { parameters } = body_or_default(&body)?;
    if let Some(name) = parameters.keys().next() {
        return Err(ApiError::Malformed(format!(
            "the parameter {name:?} is not supported: a model is loaded as it is"
        )));
    }
    let model = wanted.find(&models).await?;
    models.load_named(&model).await?;
    Ok(Json(Map::new()))
}

/// Lets go of a model. Without the champion nothing serves until it is loaded again or another takes its place; aliases stay, and the next
/// start loads it.
#[utoipa::path(post, path = "/v2/repository/models/{name}/unload", tag = "open inference protocol",
    params(("name" = String, Path)), request_body = LoadRequest,
    responses((status = 200, description = "It is not loaded", body = Value), Failed))]
async fn unload_model(
    State(models): State<Models>,
    PathOf(wanted): PathOf<Named>,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let model = wanted.find(&models).await?;
    models.unload(&model).await?;
    Ok(Json(Map::new()))
}
