//! Draining on shutdown: in-flight requests complete, new requests get 503.

use std::sync::Arc;

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use super::{
    ApiError,
    body::{Deadline, Discard, Guard, Receipt, observed},
    probes,
    refusal::Refusal,
    transfers::Transfers,
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
    transfers: Transfers,
    discard_permits: Arc<Semaphore>,
}

impl DrainState {
    pub(super) fn new(lifecycle: Lifecycle, limits: Limits, transfers: Transfers) -> Self {
        Self { lifecycle, limits, transfers, discard_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_DISCARDS)) }
    }

    /// The request with its receipt, with a deadline for its body, and with a body whose unread rest is discarded.
    fn watch(self, mut request: Request) -> Request {
        let Self { lifecycle, limits: Limits { max_upload_bytes, .. }, transfers, discard_permits } = self;
        let pace = transfers.limits.body_pace;
        let receipt = Receipt::new(transfers, max_upload_bytes);
        let deadline = Deadline::new(pace, lifecycle.shutdown, receipt.slow.clone());
        request.extensions_mut().insert(receipt);
        if request.body().is_end_stream() {
            return request;
        }
        // With `Expect: 100-continue` the client has not sent the body yet, so there is nothing to discard. A connection beyond
        // the caps does not wait for the rest of a body.
        let is_excess = matches!(request.extensions().get(), Some(Refusal::TooManyConnections));
        let sends_body = !is_excess && !request.headers().contains_key(header::EXPECT);
        request.map(|body| {
            let body = observed(body, deadline);
            if sends_body { observed(body, Discard::new(max_upload_bytes, discard_permits)) } else { body }
        })
    }
}

/// Tracks requests, so that shutdown waits for their responses. Once shutdown has begun it returns 503 and closes the connection, so
/// that clients with keep-alive connections turn to another server.
pub(super) async fn track(State(drain): State<DrainState>, request: Request, next: Next) -> Response {
    let is_monitoring = probes::is_monitoring(&request);
    // Created before the check for shutdown, which then waits for every request that passed it.
    let in_flight = (!is_monitoring).then(|| drain.lifecycle.tasks.token());
    let lifecycle = drain.lifecycle.clone();
    let request = drain.watch(request);
    let mut response = if lifecycle.shutdown.is_cancelled() && !is_monitoring {
        drop(request);
        ApiError::Unavailable("the server is shutting down: retry".into()).into_response()
    } else {
        next.run(request).await
    };
    if lifecycle.shutdown.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| observed(body, Guard::new(in_flight)))
}
