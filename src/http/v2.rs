//! `/v2`: the Open Inference Protocol, version 2, over HTTP, with its extensions for binary tensors and for the repository.
//!
//! A model's name is its identifier or one of its aliases, its version its identifier. One model serves at a time: loading one is making
//! it champion. Errors are `{"error": "…"}`, as the protocol has them ([`super::problem::render`] writes them so).

mod infer;
mod model;
mod repository;
mod request;
mod response;
mod tensor;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiError, AppState};
use crate::inference::EngineError;

/// What the protocol leaves to the server and this one does.
const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The routes of this module.
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

/// Whether a path is one of the protocol's.
pub(super) fn is_below(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Its probes, which need no key.
pub(super) const PROBES: [&str; 2] = ["/v2/health/live", "/v2/health/ready"];

/// What went wrong, as the protocol has it.
#[derive(Serialize, ToSchema)]
pub(super) struct InferenceError {
    /// In words.
    pub(super) error: String,
}

/// Whatever goes wrong below `/v2`, in the description.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes what problem::render writes")]
enum Failed {
    /// Malformed, or a tensor that the model does not take
    #[response(status = 400)]
    Malformed(InferenceError),
    /// No such model or version
    #[response(status = 404)]
    NotFound(InferenceError),
    /// The model is not loaded
    #[response(status = 409)]
    Conflict(InferenceError),
    /// Over the limit on bytes or pixels
    #[response(status = 413)]
    TooLarge(InferenceError),
    /// An image, or an encoding of the body, that is not read
    #[response(status = 415)]
    UnsupportedType(InferenceError),
    /// Read but unusable
    #[response(status = 422)]
    Unusable(InferenceError),
    /// The queue is full: come back after `Retry-After`
    #[response(status = 429)]
    Busy(InferenceError),
    /// No model serves, or the server ends
    #[response(status = 503)]
    Unavailable(InferenceError),
}

/// What this server is.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    /// `thorax`.
    name: &'static str,
    /// Of the program.
    version: &'static str,
    /// Beyond the protocol.
    extensions: [&'static str; 2],
}

/// The process answers.
#[derive(Serialize, ToSchema)]
struct ServerLive {
    live: bool,
}

/// The server can classify.
#[derive(Serialize, ToSchema)]
struct ServerReady {
    ready: bool,
}

/// Name, version and extensions.
#[utoipa::path(get, path = "/v2", tag = "open inference protocol", responses((status = 200, body = ServerMetadata)))]
async fn get_server_metadata() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "thorax", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

/// Whether the process answers; needs no key.
#[utoipa::path(get, path = "/v2/health/live", tag = "open inference protocol",
    responses((status = 200, body = ServerLive)))]
async fn get_server_live() -> Json<ServerLive> {
    Json(ServerLive { live: true })
}

/// Whether a model serves; needs no key.
#[utoipa::path(get, path = "/v2/health/ready", tag = "open inference protocol", responses(
    (status = 200, body = ServerReady),
    (status = 503, description = "No model serves, or the server ends", body = InferenceError)
))]
async fn get_server_ready(State(state): State<AppState>) -> Result<Json<ServerReady>, ApiError> {
    if state.lifecycle.shutdown.is_cancelled() {
        return Err(EngineError::Closed.into());
    }
    state.serving.engine.current().ok_or(EngineError::NoModel)?;
    Ok(Json(ServerReady { ready: true }))
}
