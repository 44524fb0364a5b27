//! Errors as problem documents (RFC 9457). A handler returns [`ApiError`]; one table gives status, slug and title;
//! [`render`] writes the body, so that errors made by the framework look the same.

use axum::{
    Json,
    body::Body,
    extract::{Request, multipart::MultipartError, rejection::*},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::v2;
use crate::{
    domain::LeakageFinding,
    imaging::ImageError,
    inference::EngineError,
    service::{self, FieldError, GateComparison},
    store::StoreError,
};

/// A problem document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong here and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The path asked for.
    pub instance: String,
    /// Each wrong field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Leakage that the request did not acknowledge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<LeakageFinding>,
    /// The scores with which a model did not pass its gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Box<GateComparison>>,
}

/// What a handler can fail with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400.
    #[error("{0}")]
    Malformed(String),
    /// 401.
    #[error("send the key as `Authorization: Bearer <key>`")]
    Unauthorized,
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404; says what there is none of.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// 406.
    #[error("{0}")]
    NotAcceptable(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 409: a run on data that leaks, without saying that this is known.
    #[error(
        "the data set leaks between its splits, so that scores would be better than they are: assign the splits anew by patient \
         (POST /v1/datasets/{{id}}/split), remove the duplicates, or name the findings in `acknowledge`"
    )]
    Leakage(Vec<LeakageFinding>),
    /// 409: a model that scores worse than it has to.
    #[error("{0}")]
    Gate(Box<GateComparison>),
    /// 413.
    #[error("{0}")]
    TooLarge(String),
    /// 415.
    #[error("{0}")]
    UnsupportedType(String),
    /// 422, without a field.
    #[error("{0}")]
    Unusable(String),
    /// 422, naming fields.
    #[error("the request names unusable values")]
    Invalid(Vec<FieldError>),
    /// 429.
    #[error("{0}")]
    Busy(String),
    /// 429, with the time after which there will be room.
    #[error("as many predictions are under way as this server takes at once: come back in {retry_after_seconds} s")]
    QueueFull {
        /// From the measured rate.
        retry_after_seconds: u64,
    },
    /// 503.
    #[error("{0}")]
    Unavailable(String),
    /// 500; the cause is logged, never sent.
    #[error("the server failed; its log has the cause under this request's id")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// A 422 about one field.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// A 500 with its cause.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }

    /// The same as a document: for the failed part of an answer about several things.
    pub fn into_problem(self, instance: &str) -> Problem {
        if let Self::Internal(cause) = &self {
            tracing::error!(error = cause.to_string(), "part of a request failed");
        }
        document(self.status(), self.failure(), instance.into())
    }

    fn failure(self) -> Failure {
        let detail = self.to_string();
        let named = |finding: &LeakageFinding| FieldError {
            pointer: "/acknowledge".into(),
            detail: format!("does not name {}: {}", finding.name, finding.detail),
        };
        match self {
            Self::Invalid(errors) => Failure { errors, ..Failure::saying(detail) },
            Self::Leakage(findings) => {
                Failure { errors: findings.iter().map(named).collect(), findings, ..Failure::saying(detail) }
            }
            Self::Gate(comparison) => Failure { comparison: Some(comparison), ..Failure::saying(detail) },
            _ => Failure::saying(detail),
        }
    }

    /// When to ask again, where waiting helps.
    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Busy(_) | Self::Unavailable(_) => Some(1),
            Self::QueueFull { retry_after_seconds } => Some(*retry_after_seconds),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict(_) | Self::Leakage(_) | Self::Gate(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unusable(_) | Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy(_) | Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// On a failed response whose body is the answer that its protocol has for that: [`render`] leaves it.
#[derive(Clone)]
pub(super) struct OwnAnswer;

/// What [`render`] finds on a response that failed.
#[derive(Clone)]
struct Failure {
    detail: String,
    errors: Vec<FieldError>,
    findings: Vec<LeakageFinding>,
    comparison: Option<Box<GateComparison>>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Internal(cause) = &self {
            tracing::error!(error = cause.to_string(), "request failed");
        }
        let mut response = self.status().into_response();
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self.failure());
        response
    }
}

/// Gives every 4xx and 5xx a problem document, but for [`OwnAnswer`], and below `/v2` what the Open Inference Protocol has in its place.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let instance = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    if !failed || response.extensions().get::<OwnAnswer>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let failure = match parts.extensions.remove::<Failure>() {
        Some(failure) => failure,
        None => Failure::saying(framework_detail(status, body).await),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    if v2::is_below(&instance) {
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let error = Json(v2::InferenceError { error: failure.in_words(status) });
        return Response::from_parts(parts, error.into_response().into_body());
    }
    let problem = document(status, failure, instance);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let body = Json(problem).into_response().into_body();
    Response::from_parts(parts, body)
}

impl Failure {
    fn saying(detail: String) -> Self {
        Self { detail, errors: Vec::new(), findings: Vec::new(), comparison: None }
    }

    /// The detail with each wrong field, or the kind of failure where there is no detail.
    fn in_words(&self, status: StatusCode) -> String {
        let detail = if self.detail.is_empty() { kind(status).1 } else { self.detail.as_str() };
        let fields = self.errors.iter().map(|error| format!("; {}: {}", error.pointer, error.detail));
        fields.fold(detail.to_owned(), |words, field| words + &field)
    }
}

fn document(status: StatusCode, failure: Failure, instance: String) -> Problem {
    let (slug, title) = kind(status);
    Problem {
        kind: format!("/problems/{slug}"),
        title: title.into(),
        status: status.as_u16(),
        detail: Some(failure.detail).filter(|detail| !detail.is_empty()),
        instance,
        errors: failure.errors,
        findings: failure.findings,
        comparison: failure.comparison,
    }
}

/// The text of an error made by the framework; nothing of a 5xx is passed on.
async fn framework_detail(status: StatusCode, body: Body) -> String {
    if status.is_server_error() {
        return String::new();
    }
    let bytes = axum::body::to_bytes(body, 4096).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn kind(status: StatusCode) -> (&'static str, &'static str) {
    match status.as_u16() {
        400 => ("malformed", "The request is malformed"),
        401 => ("unauthorized", "A key is needed"),
        403 => ("forbidden", "Not allowed"),
        404 => ("not-found", "Not found"),
        405 => ("method-not-allowed", "Method not allowed"),
        406 => ("not-acceptable", "Nothing acceptable"),
        409 => ("conflict", "The state does not allow it"),
        413 => ("too-large", "Over a limit"),
        415 => ("unsupported-type", "Unsupported media type"),
        422 => ("unusable", "Read but unusable"),
        429 => ("busy", "Too many requests"),
        503 => ("unavailable", "Not ready"),
        _ if status.is_client_error() => ("refused", "The request was refused"),
        _ => ("internal", "The server failed"),
    }
}

pub(super) async fn no_such_path() -> ApiError {
    ApiError::NotFound("path; /docs lists them")
}

pub(super) async fn wrong_method() -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}

pub(super) fn panicked(payload: Box<dyn std::any::Any + Send>) -> Response {
    let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| payload.downcast_ref::<String>().cloned());
    ApiError::internal(message.unwrap_or_else(|| "a handler panicked".into())).into_response()
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_conflict() { Self::Conflict(error.to_string()) } else { Self::internal(error) }
    }
}

impl From<service::Error> for ApiError {
    fn from(error: service::Error) -> Self {
        use service::Error;
        match error {
            Error::NotFound(what) => Self::NotFound(what),
            Error::Invalid(errors) => Self::Invalid(errors),
            Error::Unusable(detail) => Self::Unusable(detail),
            Error::Forbidden(detail) => Self::Forbidden(detail),
            Error::Conflict(detail) => Self::Conflict(detail),
            Error::Busy(detail) => Self::Busy(detail),
            Error::Gate(comparison) => Self::Gate(comparison),
            Error::Leakage(findings) => Self::Leakage(findings),
            Error::Image(error) => error.into(),
            Error::Engine(error) => error.into(),
            Error::Store(error) => error.into(),
            Error::Internal(cause) => Self::Internal(cause),
        }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        let detail = error.to_string();
        match error {
            ImageError::UnsupportedType => Self::UnsupportedType(detail),
            ImageError::TooManyPixels { .. } => Self::TooLarge(detail),
            ImageError::Undecodable(_) => Self::Unusable(detail),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull { retry_after_seconds } => Self::QueueFull { retry_after_seconds },
            EngineError::NoModel => Self::Unavailable(
                "no model serves yet: train one (POST /v1/training-runs) or point the alias `champion` at one".into(),
            ),
            EngineError::Closed => Self::Unavailable(error.to_string()),
            EngineError::NotLoaded(_) => Self::Conflict(error.to_string()),
            EngineError::ModelLimitReached => {
                Self::Conflict(format!("{error}: let it serve in its place, or raise THORAX_MAX_LOADED_MODELS"))
            }
            EngineError::Model(cause) => Self::Unusable(cause.to_string()),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonDataError(_) => Self::Unusable(rejection.body_text()),
            JsonRejection::MissingJsonContentType(_) => Self::UnsupportedType(rejection.body_text()),
            other if other.status() == StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge(other.body_text()),
            other => Self::Malformed(other.body_text()),
        }
    }
}

impl From<PathRejection> for ApiError {
    /// An identifier that cannot exist names nothing.
    fn from(_: PathRejection) -> Self {
        Self::NotFound("thing: the identifier in the path cannot exist")
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::Malformed(rejection.body_text())
    }
}

impl From<MultipartError> for ApiError {
    fn from(error: MultipartError) -> Self {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge(error.body_text()),
            _ => Self::Malformed(error.body_text()),
        }
    }
}
