//! `/v1/recipes`: plans by name.

use axum::Json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::NotFound,
    extract::{List, PathOf},
};
use crate::domain::{self, Recipe};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_recipes)).routes(routes!(get_recipe))
}

/// Lists the named plans.
#[utoipa::path(
    get, path = "/v1/recipes", tag = "training",
    responses((status = 200, description = "All of them", body = List<Recipe>))
)]
async fn list_recipes() -> Json<List<Recipe>> {
    Json(List::whole(domain::recipes()))
}

/// Shows a named plan.
#[utoipa::path(
    get, path = "/v1/recipes/{name}", tag = "training",
    params(("name" = String, Path)),
    responses((status = 200, description = "The recipe", body = Recipe), NotFound)
)]
async fn get_recipe(PathOf(name): PathOf<String>) -> Result<Json<Recipe>, ApiError> {
    domain::recipe(&name).map(Json).ok_or(ApiError::NotFound("recipe"))
}
