//! `/v1/models/aliases`: names for models; `champion` is the one that serves.

mod gate;

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState, CHALLENGER,
    answer::{Conflict, Invalid, Malformed, NotFound},
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    predictions,
};
use gate::Gate;
pub use gate::GateComparison;

use crate::{
    domain::ModelId,
    store::{self, AliasChange, Model},
    worker::CHAMPION,
};

/// The routes of this file.
pub(super) fn router(turn: Turn) -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_alias, put_alias, delete_alias))
        .routes(routes!(list_alias_history))
        .layer(Extension(turn))
}

/// One change at a time: the engine and the row must end with the same model.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Until no other change is under way.
    pub(super) async fn wait(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Where an alias points.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AliasTarget {
    /// The model.
    model_id: ModelId,
    /// What the model has to reach first, or else the alias stays where it is and the answer is 409 with both scores.
    require: Option<Gate>,
}

/// The model behind an alias.
#[utoipa::path(get, path = "/v1/models/aliases/{alias}", tag = "models", params(("alias" = String, Path)), responses(
    (status = 200, body = Model),
    NotFound
))]
async fn get_alias(State(state): State<AppState>, PathOf(alias): PathOf<String>) -> Result<Json<Model>, ApiError> {
    let model = store::models::by_alias(&state.db, &alias).await?;
    model.map(Json).ok_or(ApiError::NotFound("alias"))
}

/// Every move of an alias, the newest first; models that were deleted since among them.
#[utoipa::path(get, path = "/v1/models/aliases/{alias}/history", tag = "models",
    params(("alias" = String, Path), ListParams),
    responses((status = 200, body = List<AliasChange>), Malformed))]
async fn list_alias_history(
    State(state): State<AppState>,
    PathOf(alias): PathOf<String>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<AliasChange>>, ApiError> {
    let page = params.page()?;
    let moves = store::models::alias_history(&state.db, &alias, &page).await?;
    Ok(Json(List::of(moves, &page, |moved| moved.sequence.to_string())))
}

/// Takes an alias away. `champion` cannot be taken, only given to another model; without a `challenger` none looks at live images.
#[utoipa::path(delete, path = "/v1/models/aliases/{alias}", tag = "models", params(("alias" = String, Path)), responses(
    (status = 204, description = "Removed"),
    NotFound,
    Conflict
))]
async fn delete_alias(
    State(state): State<AppState>,
    Extension(turn): Extension<Turn>,
    PathOf(alias): PathOf<String>,
) -> Result<StatusCode, ApiError> {
    if alias == CHAMPION {
        let detail = "the champion serves: point the alias at another model, or unload it (/v2/repository)";
        return Err(ApiError::Conflict(detail.into()));
    }
    let _held = turn.wait().await;
    if !store::models::remove_alias(&state.db, &alias).await? {
        return Err(ApiError::NotFound("alias"));
    }
    if alias == CHALLENGER {
        state.challenger.set(None);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Points an alias at a model. `champion` is loaded and warmed first; when that fails, the old one goes on. So is `challenger`, which looks at
/// a share of the images that the champion answers, in idle time: `GET /v1/models/{id}/live` tells where they differ.
#[utoipa::path(put, path = "/v1/models/aliases/{alias}", tag = "models",
    params(("alias" = String, Path, description = "A lower-case letter, then up to 31 of a-z, 0-9 and -")),
    request_body = AliasTarget,
    responses(
        (status = 200, body = Model),
        Conflict, Invalid
    ))]
async fn put_alias(
    State(state): State<AppState>,
    Extension(turn): Extension<Turn>,
    PathOf(alias): PathOf<String>,
    JsonBody(target): JsonBody<AliasTarget>,
) -> Result<Json<Model>, ApiError> {
    if !is_alias(&alias) {
        let rule = "a lower-case letter, then up to 31 lower-case letters, digits and hyphens";
        return Err(ApiError::Unusable(format!("the alias {alias:?} is not {rule}")));
    }
    let no_model = || ApiError::invalid("/model_id", "there is no such model; GET /v1/models lists them");
    let model = store::models::get(&state.db, target.model_id).await?.ok_or_else(no_model)?;
    let held = turn.wait().await;
    if let Some(gate) = target.require {
        gate.check(&state, &model).await?;
    }
    match alias.as_str() {
        CHAMPION => crown(&state, &held, &model).await?,
        CHALLENGER => {
            predictions::load_beside(&state, &model).await?;
            store::models::set_alias(&state.db, &alias, model.id).await?;
            state.challenger.set(Some(model.clone()));
        }
        _ => store::models::set_alias(&state.db, &alias, model.id).await?,
    }
    let model = store::models::get(&state.db, model.id).await?;
    model.map(Json).ok_or(ApiError::NotFound("model"))
}

/// Loads a model, warms it up and makes it champion; when that fails, the old one goes on. Whoever asks has the turn.
pub(super) async fn crown(state: &AppState, _held: &MutexGuard<'_, ()>, model: &Model) -> Result<(), ApiError> {
    let bytes = state.blobs.get(&model.sha256).await?;
    state.engine.load(model.id, bytes).await?;
    Ok(store::models::set_alias(&state.db, CHAMPION, model.id).await?)
}

/// `^[a-z][a-z0-9-]{0,31}$`
fn is_alias(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use super::is_alias;

    #[test]
    fn an_alias_is_a_short_lower_case_word() {
        for good in ["champion", "a", "canary-2", &"a".repeat(32)] {
            assert!(is_alias(good), "{good}");
        }
        for bad in ["", "2nd", "-a", "Champion", "a b", "é", &"a".repeat(33)] {
            assert!(!is_alias(bad), "{bad}");
        }
    }
}
