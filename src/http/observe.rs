//! Metrics, log lines and traces of every request.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, Span};
use uuid::Uuid;

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

/// A path without a route, as logs show it.
const UNMATCHED_PATH: &str = "/…";

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

/// The path of a request as logs show it. A client can put anything into a path, such as the name of a patient's file, so the path is the
/// template of its route, in which only ids and hashes replace the names of the parameters. Nothing is shown of a path without a route.
fn shown_path(request: &Request) -> String {
    let Some(route) = request.extensions().get::<MatchedPath>() else { return UNMATCHED_PATH.to_owned() };
    let sent = request.uri().path().split('/').map(Some).chain(std::iter::repeat(None));
    let segments = route.as_str().split('/').zip(sent);
    let shown = segments.map(|(template, sent)| sent.filter(|sent| is_id(sent)).unwrap_or(template));
    shown.collect::<Vec<_>>().join("/")
}

/// True for a UUID and for a SHA-256, which name resources. Numbers do not, and may be those of patients.
fn is_id(segment: &str) -> bool {
    let is_uuid = segment.len() == 36 && Uuid::try_parse(segment).is_ok();
    is_uuid || (segment.len() == 64 && segment.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The path of a request as a problem document shows it: as sent, but for those of DICOMweb.
pub(super) fn instance(request: &Request) -> String {
    let path = request.uri().path();
    if path.starts_with("/dicomweb/") { shown_path(request) } else { path.to_owned() }
}

/// The log span of a request, at level error so that no filter removes it from log lines.
fn span(request: &Request, trace: &TraceContext) -> Span {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, path) = (label(request.method(), StatusCode::OK), shown_path(request));
    let client = request.extensions().get::<ClientAddress>().map(|client| tracing::field::display(client.0));
    let (trace_id, span_id) = (trace.trace_id(), trace.span_id());
    tracing::error_span!("request", method, path, request_id = id, trace_id, span_id, client)
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

/// Name of a method in metrics and logs. Clients can send any word as method: unknown methods share the label `other`.
fn label(method: &Method, status: StatusCode) -> &'static str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let found = known.iter().position(|known| known == method && status != StatusCode::METHOD_NOT_ALLOWED);
    found.map_or("other", |found| NAMES[found])
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_shown_path_has_ids_and_hashes_but_no_other_text_of_the_client() {
        let show = async |request: Request| shown_path(&request);
        let routes = ["/v1/sets/{id}/exports/{name}", "/static/{*path}", "/v1/sets"];
        let router = routes.into_iter().fold(Router::new(), |router, route| router.route(route, get(show)));
        let router = router.fallback(show);
        let (id, hash) = ("01890a5d-ac96-774b-bcce-b302099a8057", "0123456789abcdef".repeat(4));
        for (path, shown) in [
            (format!("/v1/sets/{id}/exports/DOE_JOHN.npy"), format!("/v1/sets/{id}/exports/{{name}}")),
            (format!("/v1/sets/DOE.dcm/exports/{hash}"), format!("/v1/sets/{{id}}/exports/{hash}")),
            ("/v1/sets/774411/exports/%44OE".into(), "/v1/sets/{id}/exports/{name}".into()),
            (format!("/static/{id}x/DOE/1"), "/static/{*path}".into()),
            ("/v1/sets?name=DOE".into(), "/v1/sets".into()),
            ("/v1/sets/DOE".into(), "/…".into()),
        ] {
            let request = Request::get(&path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&body), shown, "{path}");
        }
    }
}
