//! `/v1/recipes`: named training plans.

mod preview;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::preview::Sheet;
use super::{
    ApiError, AppState,
    extract::{List, PathOf, QueryOf},
    responses::{Binary, Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
};
use crate::{
    domain::{self, RadiographId, Recipe},
    service::{self, Limits},
    store::Stores,
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_recipes)).routes(routes!(get_recipe)).routes(routes!(preview_recipe))
}

/// Content of a preview.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PreviewParams {
    /// Radiograph to augment.
    radiograph: RadiographId,
    /// Random seed of the augmentation; 0 when absent.
    #[param(default = 0)]
    seed: Option<u32>,
    /// Number of augmented images, 1 to 47.
    #[param(minimum = 1, maximum = 47, default = 11)]
    count: Option<u32>,
}

/// Lists the recipes.
#[utoipa::path(
    get, path = "/v1/recipes", tag = "training",
    responses((status = 200, description = "All recipes", body = List<Recipe>))
)]
async fn list_recipes() -> Json<List<Recipe>> {
    Json(List::whole(domain::recipes()))
}

/// Returns a recipe.
#[utoipa::path(
    get, path = "/v1/recipes/{name}", tag = "training",
    params(("name" = String, Path)),
    responses((status = 200, description = "The recipe", body = Recipe), NotFound)
)]
async fn get_recipe(PathOf(name): PathOf<String>) -> Result<Json<Recipe>, ApiError> {
    find(&name).map(Json)
}

/// Previews the augmentation of a recipe: a contact sheet with a radiograph at the size of the last stage, then random augmentations.
#[utoipa::path(
    get, path = "/v1/recipes/{name}/preview", tag = "training",
    params(("name" = String, Path), PreviewParams),
    responses(
        (status = 200, description = "Contact sheet, four images per row", content((Binary = "image/png"))),
        Malformed, NotFound, TooLarge, UnsupportedType, Invalid
    )
)]
async fn preview_recipe(
    State(stores): State<Stores>,
    State(limits): State<Limits>,
    PathOf(name): PathOf<String>,
    QueryOf(PreviewParams { radiograph, seed, count }): QueryOf<PreviewParams>,
) -> Result<Response, ApiError> {
    let count = count.unwrap_or(11);
    if !(1..=47).contains(&count) {
        return Err(ApiError::Malformed("count must be 1 to 47".into()));
    }
    let sheet = Sheet::new(&find(&name)?.plan, seed.unwrap_or(0), count)?;
    let radiograph = service::find_radiograph(&stores, radiograph).await?;
    let bytes = stores.blobs.get(&radiograph.sha256).await?;
    let limits = limits.image();
    let png = tokio::task::spawn_blocking(move || sheet.png(&bytes, &limits)).await.map_err(ApiError::internal)??;
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}

fn find(name: &str) -> Result<Recipe, ApiError> {
    domain::recipe(name).ok_or(ApiError::NotFound("recipe"))
}
