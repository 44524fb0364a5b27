//! Errors as problem documents (RFC 9457). Handlers return [`ApiError`]; one table maps it to status, type and title. The middleware
//! `http::render` writes the bodies.

use axum::{
    extract::rejection::PathRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::LeakageFinding,
    imaging::ImageError,
    inference::EngineError,
    service::{self, FieldError, GateComparison},
    store::{NotRecorded, StorageFault, StoreError},
};

/// Problem document (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Problem type, a stable identifier.
    #[serde(rename = "type")]
    pub kind: String,
    /// Summary of the problem type.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// Description of the error in this request, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Path of the request.
    pub instance: String,
    /// Invalid fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Leakage between splits that the request does not acknowledge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<LeakageFinding>,
    /// Scores of a model that failed the gate of a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Box<GateComparison>>,
}

/// Error of a handler.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400.
    #[error("{0}")]
    Malformed(String),
    /// 400, with the invalid query parameters.
    #[error("malformed query: see `errors`")]
    MalformedQuery(Vec<FieldError>),
    /// 401.
    #[error("missing or invalid API key: send it as `Authorization: Bearer KEY`")]
    Unauthorized,
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404; names the missing resource.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// 406.
    #[error("{0}")]
    NotAcceptable(String),
    /// 408.
    #[error("{0}")]
    Timeout(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 409: a training run on leaking splits, without acknowledgement.
    #[error(
        "the splits leak (patients or images occur in more than one): test scores would be inflated. Split again by patient \
         (POST /v1/datasets/{{id}}/split), remove the duplicates, or list the findings in `acknowledge`"
    )]
    Leakage(Vec<LeakageFinding>),
    /// 409: a model that scores worse than the reference model of the gate.
    #[error("{0}")]
    Gate(Box<GateComparison>),
    /// 413.
    #[error("{0}")]
    TooLarge(String),
    /// 431.
    #[error("{0}")]
    HeadTooLarge(String),
    /// 415.
    #[error("{0}")]
    UnsupportedType(String),
    /// 422, not about a single field.
    #[error("{0}")]
    Unusable(String),
    /// 422, with the invalid fields.
    #[error("validation failed: see `errors`")]
    Invalid(Vec<FieldError>),
    /// 429.
    #[error("{0}")]
    Busy(String),
    /// 429, with the expected time until a request will be admitted.
    #[error("too many concurrent predictions: retry in {retry_after_seconds} s")]
    QueueFull {
        /// Estimated from the measured throughput.
        retry_after_seconds: u64,
    },
    /// 429, with the time until the client is within its limit again.
    #[error("{detail}")]
    LimitExceeded {
        /// The limit.
        detail: String,
        /// Value of `Retry-After`.
        retry_after_seconds: u64,
    },
    /// 503.
    #[error("{0}")]
    Unavailable(String),
    /// 507 where the disk is full, else 503: the data folder cannot be used as the request needs. The cause is logged and never sent.
    #[error("{}", storage_detail(*.0))]
    Storage(StorageFault, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// 500; the cause is logged and never sent.
    #[error("internal server error: the server log has the cause, under the id of this request")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// 422 for one field.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(pointer, detail)])
    }

    /// 500 with its cause; 507 or 503 where the storage is the cause.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        match StorageFault::behind(&*cause) {
            Some(fault) => Self::Storage(fault, cause),
            None => Self::Internal(cause),
        }
    }

    /// Logs a cause that the client does not see.
    fn log(&self, message: &str) {
        match self {
            Self::Internal(cause) => tracing::error!(error = cause.to_string(), "{message}"),
            Self::Storage(fault, cause) => tracing::error!(error = cause.to_string(), ?fault, "{message}"),
            _ => {}
        }
    }

    /// The problem document of this error, for a failed part of a response about several items.
    pub fn into_problem(self, instance: &str) -> Problem {
        self.log("part of a request failed");
        document(self.status(), self.details(), instance.into())
    }

    fn details(self) -> ProblemDetails {
        let detail = self.to_string();
        let unacknowledged = |finding: &LeakageFinding| {
            FieldError::new("/acknowledge", format!("does not include {}: {}", finding.name, finding.detail))
        };
        let details = ProblemDetails::new(detail);
        match self {
            Self::Invalid(errors) | Self::MalformedQuery(errors) => ProblemDetails { errors, ..details },
            Self::Leakage(findings) => {
                ProblemDetails { errors: findings.iter().map(unacknowledged).collect(), findings, ..details }
            }
            Self::Gate(comparison) => ProblemDetails { comparison: Some(comparison), ..details },
            _ => details,
        }
    }

    /// Value of `Retry-After`, for errors where waiting helps.
    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Busy(_) | Self::Unavailable(_) => Some(1),
            Self::QueueFull { retry_after_seconds } | Self::LimitExceeded { retry_after_seconds, .. } => {
                Some(*retry_after_seconds)
            }
            Self::Storage(StorageFault::Locked, _) => Some(LOCKED_RETRY_SECONDS),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::MalformedQuery(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) | Self::Leakage(_) | Self::Gate(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unusable(_) | Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy(_) | Self::QueueFull { .. } | Self::LimitExceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Storage(StorageFault::Full, _) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Unavailable(_) | Self::Storage(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Seconds after which a request that met a locked database is to be repeated.
const LOCKED_RETRY_SECONDS: u64 = 5;

/// Description of a condition of the storage for clients, with what to do.
fn storage_detail(fault: StorageFault) -> &'static str {
    match fault {
        StorageFault::Full => {
            "the disk of the server's data folder is full, or its quota is used up: nothing was stored. Free space there, then \
             send the request again"
        }
        fault => fault.description(),
    }
}

/// Response extension: the body is the error format of its own protocol, and `http::render` must not replace it.
#[derive(Clone)]
pub(super) struct SkipProblemRendering;

/// Response extension from which `http::render` writes the body of a failed response.
#[derive(Clone)]
pub(super) struct ProblemDetails {
    detail: String,
    errors: Vec<FieldError>,
    findings: Vec<LeakageFinding>,
    comparison: Option<Box<GateComparison>>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log("request failed");
        let mut response = self.status().into_response();
        if let Self::Storage(fault, _) = &self {
            response.extensions_mut().insert(*fault);
        }
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthorized) {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"thorax\""));
        }
        if let Self::Timeout(_) = &self {
            // The rest of the body may still arrive, and would be taken for the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self.details());
        response
    }
}

impl ProblemDetails {
    pub(super) fn new(detail: String) -> Self {
        Self { detail, errors: Vec::new(), findings: Vec::new(), comparison: None }
    }

    /// The detail (or, without one, the title) and the invalid fields, as one line of text.
    pub(super) fn to_text(&self, status: StatusCode) -> String {
        let detail = if self.detail.is_empty() { kind(status).1 } else { self.detail.as_str() };
        let fields = self.errors.iter().map(|error| format!("; {}: {}", error.pointer, error.detail));
        fields.fold(detail.to_owned(), |text, field| text + &field)
    }
}

pub(super) fn document(status: StatusCode, details: ProblemDetails, instance: String) -> Problem {
    let (slug, title) = kind(status);
    Problem {
        kind: format!("/problems/{slug}"),
        title: title.into(),
        status: status.as_u16(),
        detail: Some(details.detail).filter(|detail| !detail.is_empty()),
        instance,
        errors: details.errors,
        findings: details.findings,
        comparison: details.comparison,
    }
}

fn kind(status: StatusCode) -> (&'static str, &'static str) {
    match status.as_u16() {
        400 => ("malformed", "Malformed request"),
        401 => ("unauthorized", "API key required"),
        403 => ("forbidden", "Forbidden"),
        404 => ("not-found", "Not found"),
        405 => ("method-not-allowed", "Method not allowed"),
        406 => ("not-acceptable", "Not acceptable"),
        408 => ("timeout", "Request timeout"),
        409 => ("conflict", "Conflict"),
        413 => ("too-large", "Content too large"),
        415 => ("unsupported-type", "Unsupported media type"),
        422 => ("unusable", "Unprocessable request"),
        429 => ("busy", "Too many requests"),
        431 => ("head-too-large", "Request header fields too large"),
        503 => ("unavailable", "Service unavailable"),
        507 => ("insufficient-storage", "Insufficient storage"),
        _ if status.is_client_error() => ("refused", "Client error"),
        _ => ("internal", "Internal server error"),
    }
}

pub(super) async fn no_such_path() -> ApiError {
    ApiError::NotFound("path: /docs lists all paths")
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
            Error::NotRecorded(NotRecorded::Storage(Some(fault))) => Self::Storage(fault, error.into()),
            Error::NotRecorded(NotRecorded::QueueFull) => Self::Unavailable(format!("{error}: retry later")),
            Error::NotRecorded(NotRecorded::Storage(None)) => Self::internal(error),
            Error::Internal(cause) => Self::internal(cause),
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
                "no champion model is loaded: train a model (POST /v1/training-runs), or promote one \
                 (PUT /v1/models/aliases/champion)"
                    .into(),
            ),
            EngineError::Closed => Self::Unavailable(error.to_string()),
            EngineError::NotLoaded(_) => Self::Conflict(error.to_string()),
            EngineError::ModelLimitReached => {
                Self::Conflict(format!("{error}: promote the new model instead, or raise THORAX_MAX_LOADED_MODELS"))
            }
            EngineError::Model(cause) => Self::Unusable(cause.to_string()),
            EngineError::NotFinite(_) | EngineError::Failed(_) => Self::internal(error),
        }
    }
}

impl From<PathRejection> for ApiError {
    /// An invalid identifier in the path is 404, as an unknown one is.
    fn from(_: PathRejection) -> Self {
        Self::NotFound("resource: the identifier in the path is not valid")
    }
}
