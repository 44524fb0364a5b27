//! Draining on shutdown: in-flight requests complete, new requests get 503.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use super::{
    ApiError,
    body::{BodyGuard, DiscardOnDrop},
    probes,
};
use crate::service::{Lifecycle, Limits};

/// Maximum number of request bodies that are discarded concurrently. Each takes time and the buffer of a connection; the others wait
/// unread, which costs almost nothing.
const MAX_CONCURRENT_DISCARDS: usize = 16;

/// State of the draining middleware.
#[derive(Clone)]
pub(super) struct DrainState {
    lifecycle: Lifecycle,
    limits: Limits,
    discard_permits: Arc<Semaphore>,
}

impl DrainState {
    pub(super) fn new(lifecycle: Lifecycle, limits: Limits) -> Self {
        Self { lifecycle, limits, discard_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_DISCARDS)) }
    }
}

/// Tracks requests, so that shutdown waits for their responses. Once shutdown has begun it returns 503 and closes the connection, so
/// that clients with keep-alive connections turn to another server.
pub(super) async fn track(State(drain): State<DrainState>, request: Request, next: Next) -> Response {
    let DrainState { lifecycle, limits, discard_permits } = drain;
    let is_monitoring = probes::is_monitoring(&request);
    // Created before the check for shutdown, which then waits for every request that passed it.
    let in_flight = (!is_monitoring).then(|| lifecycle.tasks.token());
    // With `Expect: 100-continue` the client has not sent the body yet, so there is nothing to discard.
    let sends_body = !request.headers().contains_key(header::EXPECT);
    let max_bytes = limits.max_upload_bytes;
    let request = if sends_body {
        request.map(|body| Body::new(DiscardOnDrop::new(body, max_bytes, discard_permits)))
    } else {
        request
    };
    let mut response = if lifecycle.shutdown.is_cancelled() && !is_monitoring {
        drop(request);
        ApiError::Unavailable("the server is shutting down: retry".into()).into_response()
    } else {
        next.run(request).await
    };
    if lifecycle.shutdown.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(BodyGuard::new(body, in_flight)))
}
