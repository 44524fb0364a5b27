//! What is measured and logged of every request, and the names under which its lines in the log are found.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, Span};

use super::{AppState, body::Held, trace::TraceContext};

const REQUEST_ID: &str = "x-request-id";

/// The W3C's name for what a server answers to `traceparent` (Trace Context, level 2).
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The route of paths that there are none of: their number has no bound, so that they have no series of their own.
const UNMATCHED: &str = "unmatched";

/// Every line that is logged during a request carries its id and its trace; the request's own line says how it ended.
pub(super) async fn observe(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = state.telemetry.metrics.requests.begin();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let mut trace = TraceContext::of(request.headers());
    let exported = state.telemetry.traces.begin(trace.parent(), label(&method, StatusCode::OK), &route);
    if let Some(exported) = &exported {
        trace.adopt(exported);
    }
    let span = span(&request, &trace);
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status(), started.elapsed());
    let method_label = label(&method, status);
    state.telemetry.metrics.requests.answered(method_label, &route, status.as_u16(), took);
    if let Some(exported) = exported {
        exported.end(method_label, &route, status.as_u16());
    }
    span.in_scope(|| log(&method, status, took));
    response.headers_mut().insert(TRACE_RESPONSE, trace.answer());
    response.map(|body| Body::new(Held::new(body, in_flight)))
}

/// An error's level, so that lines keep their request whatever is filtered.
fn span(request: &Request, trace: &TraceContext) -> Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    tracing::error_span!("request", %method, path, request_id = id, trace_id = trace.id(), span_id = trace.span_id())
}

/// What changed something or failed is told; that something was read, only to those who ask for it.
fn log(method: &Method, status: StatusCode, took: Duration) {
    let (status, milliseconds) = (status.as_u16(), took.as_secs_f64() * 1e3);
    if method.is_safe() && status < 400 {
        tracing::debug!(status, milliseconds, "answered");
    } else {
        tracing::info!(status, milliseconds, "answered");
    }
}

/// A client may send any word as its method: those that mean nothing here share a name.
fn label(method: &Method, status: StatusCode) -> &'static str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let found = known.iter().position(|known| known == method && status != StatusCode::METHOD_NOT_ALLOWED);
    found.map_or("other", |found| NAMES[found])
}
