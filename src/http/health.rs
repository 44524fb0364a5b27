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
    store::{Damage, StorageFault, Stores},
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
    /// Conditions that will make requests fail, such as a disk that is almost full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
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
/// Returns 200 if the champion model is loaded; `warnings` names conditions that will make requests fail, such as a disk that is almost full.
/// Returns 503 without a model, with a database that is damaged or was replaced, and during shutdown; `detail` says what to do. Needs no key.
#[utoipa::path(get, path = "/health/ready", tag = "operating", responses(
    (status = 200, description = "The champion model is loaded", body = Readiness),
    Unavailable
))]
async fn get_readiness(
    State(stores): State<Stores>,
    State(serving): State<Serving>,
    State(lifecycle): State<Lifecycle>,
) -> Result<Json<Readiness>, ApiError> {
    if lifecycle.shutdown.is_cancelled() {
        return Err(EngineError::Closed.into());
    }
    let current = serving.engine.current();
    if let Some(damage) = stores.db.damage() {
        // The description of the damage is for the log: the probe needs no key.
        let (problem, hint) = match damage {
            Damage::Structure(_) => (StorageFault::Damaged, " (`thorax doctor` says what is damaged)"),
            Damage::Replaced => (StorageFault::Replaced, ""),
        };
        let problem = problem.description();
        let served = if current.is_some() { ". Predictions are served" } else { "" };
        return Err(ApiError::Unavailable(format!("{problem}{hint}{served}")));
    }
    let (model, _) = current.ok_or(EngineError::NoModel)?;
    let warnings = [stores.disk.warning(), stores.coverage.warning()].into_iter().flatten().collect();
    Ok(Json(Readiness { status: "ready", model, warnings }))
}
