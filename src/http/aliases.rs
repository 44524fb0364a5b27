//! `/v1/models/aliases`: names of models; `champion` is the model that serves.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    extract::{JsonBody, List, ListParams, PathOf, QueryOf, Sequence},
    responses::{Conflict, Invalid, Malformed, NotFound},
};
use crate::{
    domain::ModelId,
    service::{Gate, Models},
    store::{self, AliasChange, Model, Stores},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_alias, put_alias, delete_alias)).routes(routes!(list_alias_history))
}

/// Target of an alias.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AliasTarget {
    /// Model to point at.
    model_id: ModelId,
    /// Score that the model must reach; otherwise the alias does not move, and the response is 409 with both scores.
    require: Option<Gate>,
}

/// Returns the model of an alias.
#[utoipa::path(get, path = "/v1/models/aliases/{alias}", tag = "models", params(("alias" = String, Path)), responses(
    (status = 200, description = "The model", body = Model),
    NotFound
))]
async fn get_alias(State(stores): State<Stores>, PathOf(alias): PathOf<String>) -> Result<Json<Model>, ApiError> {
    let model = store::models::by_alias(&stores.db, &alias).await?;
    model.map(Json).ok_or(ApiError::NotFound("alias"))
}

/// Lists the moves of an alias, newest first, including those to models that were deleted since.
#[utoipa::path(get, path = "/v1/models/aliases/{alias}/history", tag = "models",
    params(("alias" = String, Path), ListParams<Sequence>),
    responses((status = 200, description = "A page, newest first", body = List<AliasChange>), Malformed))]
async fn list_alias_history(
    State(stores): State<Stores>,
    PathOf(alias): PathOf<String>,
    QueryOf(params): QueryOf<ListParams<Sequence>>,
) -> Result<Json<List<AliasChange>>, ApiError> {
    let page = params.page()?;
    let moves = store::models::alias_history(&stores.db, &alias, &page).await?;
    Ok(Json(List::of(moves, &page, |moved| moved.sequence.to_string())))
}

/// Removes an alias. `champion` cannot be removed, only moved to another model; without a `challenger` there are no shadow predictions.
#[utoipa::path(delete, path = "/v1/models/aliases/{alias}", tag = "models", params(("alias" = String, Path)), responses(
    (status = 204, description = "Removed"),
    NotFound,
    Conflict
))]
async fn delete_alias(State(models): State<Models>, PathOf(alias): PathOf<String>) -> Result<StatusCode, ApiError> {
    models.remove_alias(&alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Points an alias at a model. `champion` is loaded and warmed up first; if that fails, the old champion keeps serving. `challenger` is
/// loaded too: while the engine is idle, it classifies a share of the champion's images, and `GET /v1/models/{id}/live` compares the two.
#[utoipa::path(put, path = "/v1/models/aliases/{alias}", tag = "models",
    params(("alias" = String, Path, pattern = "^[a-z][a-z0-9-]{0,31}$", description = "A lower-case letter, then up to 31 of a-z, 0-9 and -")),
    request_body = AliasTarget,
    responses(
        (status = 200, description = "The model that the alias points at now", body = Model),
        Conflict, Invalid
    ))]
async fn put_alias(
    State(models): State<Models>,
    PathOf(alias): PathOf<String>,
    JsonBody(target): JsonBody<AliasTarget>,
) -> Result<Json<Model>, ApiError> {
    Ok(Json(models.set_alias(&alias, target.model_id, target.require).await?))
}
