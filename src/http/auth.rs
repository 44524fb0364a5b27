//! One key for what reads or changes data, where the operator set one.

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;

use super::{ApiError, AppState, v2};

/// Where the paths begin that ask for it.
const KEPT: [&str; 3] = ["/v1", "/v2", "/dicomweb"];

/// Lets a request through when no key is set, the path is public, or the key matches (compared in constant time).
pub(super) async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(key) = &state.admin_key else { return next.run(request).await };
    if !is_guarded(request.uri().path()) {
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

/// All that classifies, shows or changes something; the rest is the dashboard, the interface's description and the probes.
fn is_guarded(path: &str) -> bool {
    KEPT.iter().any(|kept| path.starts_with(kept)) && !v2::PROBES.contains(&path)
}
