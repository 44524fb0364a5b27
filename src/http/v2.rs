//! `/v2`: the Open Inference Protocol, version 2, over HTTP, with its extensions for binary tensors and for the model repository.
//!
//! The name of a model is its identifier or one of its aliases; its only version is its identifier. Several models can be loaded, and
//! every loaded model serves requests; loading and unloading never move an alias. Errors are `{"error": "…"}`, as the protocol
//! defines ([`errors`]).

pub(super) mod errors;
mod infer;
mod metadata;
mod model;
mod repository;
mod request;
mod response;
mod tensor;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use self::errors::InferenceError;
use super::{ApiError, AppState};
use crate::{
    inference::EngineError,
    service::{Lifecycle, Serving},
};

/// Supported extensions of the protocol.
const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The routes of the protocol that need the key.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(get_server_metadata))
        .merge(model::router())
        .merge(infer::router())
        .merge(repository::router())
}

/// The protocol's health probes, which need no key.
pub(super) fn open_router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_server_live)).routes(routes!(get_server_ready))
}

/// Server metadata.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    /// Always `thorax`.
    name: &'static str,
    /// Version of the server.
    version: &'static str,
    /// Supported extensions of the protocol.
    extensions: [&'static str; 2],
}

/// The server is running.
#[derive(Serialize, ToSchema)]
struct ServerLive {
    /// Always true.
    live: bool,
}

/// The server can classify images.
#[derive(Serialize, ToSchema)]
struct ServerReady {
    /// Always true.
    ready: bool,
}

/// Get the server metadata: name, version and supported extensions.
#[utoipa::path(get, path = "/v2", tag = "open inference protocol", responses((status = 200, description = "Server metadata", body = ServerMetadata)))]
async fn get_server_metadata() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "thorax", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

/// Liveness probe. Needs no key.
#[utoipa::path(get, path = "/v2/health/live", tag = "open inference protocol",
    responses((status = 200, description = "The process handles requests", body = ServerLive)))]
async fn get_server_live() -> Json<ServerLive> {
    Json(ServerLive { live: true })
}

/// Readiness probe: 200 if the champion model is loaded. Needs no key.
#[utoipa::path(get, path = "/v2/health/ready", tag = "open inference protocol", responses(
    (status = 200, description = "The champion model is loaded", body = ServerReady),
    (status = 503, description = "No champion model is loaded, or the server is shutting down", body = InferenceError)
))]
async fn get_server_ready(
    State(serving): State<Serving>,
    State(lifecycle): State<Lifecycle>,
) -> Result<Json<ServerReady>, ApiError> {
    if lifecycle.shutdown.is_cancelled() {
        return Err(EngineError::Closed.into());
    }
    serving.engine.current().ok_or(EngineError::NoModel)?;
    Ok(Json(ServerReady { ready: true }))
}
