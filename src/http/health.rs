//! `/health`: liveness and readiness probes.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiError, AppState, responses::Unavailable};
use crate::{
    domain::ModelId,
    inference::EngineError,
    service::{Lifecycle, Serving},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_liveness)).routes(routes!(get_readiness))
}

/// The server is running.
#[derive(Serialize, ToSchema)]
struct Liveness {
    /// Always `live`.
    status: &'static str,
}

/// The server can classify images.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// Always `ready`.
    status: &'static str,
    /// Champion model.
    model: ModelId,
}

/// Liveness probe.
///
/// Returns 200 as long as the process handles requests. Needs no key.
#[utoipa::path(get, path = "/health/live", tag = "operating", responses((status = 200, description = "The process handles requests", body = Liveness)))]
async fn get_liveness() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// Readiness probe.
///
/// Returns 200 if the champion model is loaded. Returns 503 without a model and during shutdown; `detail` says what to do. Needs no
/// key.
#[utoipa::path(get, path = "/health/ready", tag = "operating", responses(
    (status = 200, description = "The champion model is loaded", body = Readiness),
    Unavailable
))]
async fn get_readiness(
    State(serving): State<Serving>,
    State(lifecycle): State<Lifecycle>,
) -> Result<Json<Readiness>, ApiError> {
    if lifecycle.shutdown.is_cancelled() {
        return Err(EngineError::Closed.into());
    }
    let (model, _) = serving.engine.current().ok_or(EngineError::NoModel)?;
    Ok(Json(Readiness { status: "ready", model }))
}
