//! Errors of the Open Inference Protocol: `{"error": "…"}`.

use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// True for the paths of the protocol.
pub(in crate::http) fn is_below(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Error of the Open Inference Protocol.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct InferenceError {
    /// Message.
    pub(in crate::http) error: String,
}

/// Error responses below `/v2`, for the OpenAPI document.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documents what http::render writes")]
pub(super) enum ErrorResponses {
    /// Malformed request, or a tensor that the model does not accept
    #[response(status = 400)]
    Malformed(InferenceError),
    /// No such model or version
    #[response(status = 404)]
    NotFound(InferenceError),
    /// The model is not loaded
    #[response(status = 409)]
    Conflict(InferenceError),
    /// Over the limit of bytes or pixels
    #[response(status = 413)]
    TooLarge(InferenceError),
    /// Unsupported image format or content encoding
    #[response(status = 415)]
    UnsupportedType(InferenceError),
    /// Invalid image or value
    #[response(status = 422)]
    Unusable(InferenceError),
    /// Too many concurrent requests; retry after `Retry-After` seconds
    #[response(status = 429)]
    Busy(InferenceError),
    /// No champion model is loaded, or the server is shutting down
    #[response(status = 503)]
    Unavailable(InferenceError),
}
