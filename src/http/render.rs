//! Bodies of failed responses, in the error format of the path: problem documents, and errors of the Open Inference Protocol below `/v2`.
//! Errors of the framework get the same formats.

use axum::{
    Json,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    observe,
    problem::{ProblemDetails, SkipProblemRendering, document},
    v2::errors::{self, InferenceError},
};

/// Gives every 4xx and 5xx response a problem document or, below `/v2`, an error of the Open Inference Protocol. Responses with
/// [`SkipProblemRendering`] stay as they are.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let instance = observe::instance(&request);
    let response = next.run(request).await;
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    if !failed || response.extensions().get::<SkipProblemRendering>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let details = match parts.extensions.remove::<ProblemDetails>() {
        Some(details) => details,
        None => ProblemDetails::new(framework_detail(status, body).await),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    if errors::is_below(&instance) {
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let error = Json(InferenceError { error: details.to_text(status) });
        return Response::from_parts(parts, error.into_response().into_body());
    }
    let problem = document(status, details, instance);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let body = Json(problem).into_response().into_body();
    Response::from_parts(parts, body)
}

/// The text of an error of the framework; empty for a 5xx, which must not reveal internals.
async fn framework_detail(status: StatusCode, body: Body) -> String {
    if status.is_server_error() {
        return String::new();
    }
    let bytes = axum::body::to_bytes(body, 4096).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
