//! Authentication with the operator's API key, on the routers that require it (see `router` in the parent module).

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::{Access, ApiError};

/// Admits a request if the server has no key, or if the request sends it (compared in constant time).
pub(super) async fn require_key(State(access): State<Access>, request: Request, next: Next) -> Response {
    let Some(key) = &access.admin_key else { return next.run(request).await };
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if bool::from(sent.as_bytes().ct_eq(key.as_bytes())) {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}
