//! `/health`: is the process alive, can it answer predictions.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiError, AppState, answer::Unavailable};
use crate::{domain::ModelId, inference::EngineError};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_liveness)).routes(routes!(get_readiness))
}

/// The process answers.
#[derive(Serialize, ToSchema)]
struct Liveness {
    /// `live`.
    status: &'static str,
}

/// The server can classify.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready`.
    status: &'static str,
    /// The model that serves.
    model: ModelId,
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", tag = "operating", responses((status = 200, body = Liveness)))]
async fn get_liveness() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// Whether a model serves; 503 says what to do about it.
#[utoipa::path(get, path = "/health/ready", tag = "operating", responses(
    (status = 200, body = Readiness),
    Unavailable
))]
async fn get_readiness(State(state): State<AppState>) -> Result<Json<Readiness>, ApiError> {
    if state.lifecycle.shutdown.is_cancelled() {
        return Err(EngineError::Closed.into());
    }
    let (model, _) = state.serving.engine.current().ok_or(EngineError::NoModel)?;
    Ok(Json(Readiness { status: "ready", model }))
}
