//! One key for `/v1`, where the operator set one.

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::{ApiError, AppState};

/// Lets a request through when no key is set, the path is public, or the key matches (compared in constant time).
pub(super) async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(key) = &state.admin_key else { return next.run(request).await };
    if !request.uri().path().starts_with("/v1") {
        return next.run(request).await;
    }
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if bool::from(sent.as_bytes().ct_eq(key.as_bytes())) {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}
