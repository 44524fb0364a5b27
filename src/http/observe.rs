//! Metrics, log lines and traces of every request.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, Span};

use super::{
    ClientAddress, Telemetry,
    body::{Guard, observed},
    trace::TraceContext,
};
use crate::store::{Db, StorageFault, StoreError};

const REQUEST_ID: &str = "x-request-id";

/// Response header with the server's span (W3C Trace Context, level 2).
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Route label of unknown paths. Their number has no limit, so they share one series.
const UNMATCHED: &str = "unmatched";

/// Beginnings of paths whose unknown continuations are logged: clients of these mistype names of resources, not of patients.
const OWN_PATHS: [&str; 4] = ["/v1/", "/v2/", "/health/", "/static/"];

/// Measures, logs and traces a request. Every log line during the request carries its id and its trace id; the last one has status
/// and duration.
pub(super) async fn observe(State((telemetry, db)): State<(Telemetry, Db)>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = telemetry.metrics.requests.begin();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let mut trace = TraceContext::from_headers(request.headers());
    let exported = telemetry.traces.begin(trace.parent(), label(&method, StatusCode::OK), &route);
    if let Some(exported) = &exported {
        trace.adopt(exported);
    }
    let span = span(&request, &trace);
    let mut response = next.run(request).instrument(span.clone()).await;
    if response.extensions().get() == Some(&StorageFault::Damaged) {
        db.note_damage(&StoreError::Damaged("a request failed, see the log".into()));
    }
    let (status, took) = (response.status(), started.elapsed());
    let method_label = label(&method, status);
    telemetry.metrics.requests.answered(method_label, &route, status.as_u16(), took);
    if let Some(exported) = exported {
        exported.end(method_label, &route, status.as_u16());
    }
    span.in_scope(|| log(&method, status, took));
    response.headers_mut().insert(TRACE_RESPONSE, trace.to_header());
    response.map(|body| observed(body, Guard::new(in_flight)))
}

/// The path of a request as logs show it. Paths of DICOMweb name studies and instances of patients: they are shown as
/// the template of their route, and not at all where there is none.
fn shown_path(request: &Request) -> String {
    let path = request.uri().path();
    match request.extensions().get::<MatchedPath>() {
        Some(route) if route.as_str().starts_with("/dicomweb/") => route.as_str().to_owned(),
        None if !OWN_PATHS.iter().any(|own| path.starts_with(own)) => "/…".to_owned(),
        _ => path.to_owned(),
    }
}

/// The path of a request as a problem document shows it: as sent, but for those of DICOMweb.
pub(super) fn instance(request: &Request) -> String {
    let path = request.uri().path();
    if path.starts_with("/dicomweb/") { shown_path(request) } else { path.to_owned() }
}

/// The log span of a request, at level error so that no filter removes it from log lines.
fn span(request: &Request, trace: &TraceContext) -> Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, path) = (request.method(), shown_path(request));
    let client = request.extensions().get::<ClientAddress>().map(|client| tracing::field::display(client.0));
    let (trace_id, span_id) = (trace.trace_id(), trace.span_id());
    tracing::error_span!("request", %method, path, request_id = id, trace_id, span_id, client)
}

/// Logs the end of a request: at level info if it could change something or failed, else at level debug.
fn log(method: &Method, status: StatusCode, took: Duration) {
    let (status, milliseconds) = (status.as_u16(), took.as_secs_f64() * 1e3);
    if method.is_safe() && status < 400 {
        tracing::debug!(status, milliseconds, "request completed");
    } else {
        tracing::info!(status, milliseconds, "request completed");
    }
}

/// Metric label of a method. Clients can send any word as method: unknown methods share the label `other`.
fn label(method: &Method, status: StatusCode) -> &'static str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let found = known.iter().position(|known| known == method && status != StatusCode::METHOD_NOT_ALLOWED);
    found.map_or("other", |found| NAMES[found])
}
