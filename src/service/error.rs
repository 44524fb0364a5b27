//! Errors of use cases, which each front end renders in its own way.

use serde::{Deserialize, Serialize};
use tokio::task::JoinError;
use utoipa::ToSchema;

use super::GateComparison;
use crate::{
    dataset::AddError,
    domain::{LeakageFinding, PlanProblem},
    imaging::ImageError,
    inference::EngineError,
    store::{NotRecorded, StoreError},
};

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer to the field (RFC 6901).
    pub pointer: String,
    /// Description of the error, and the valid values.
    pub detail: String,
    /// Description for the command line, where it differs: it names a command instead of a request.
    #[serde(skip)]
    pub command_detail: Option<String>,
}

impl FieldError {
    /// `pointer` is a JSON pointer into the request.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into(), command_detail: None }
    }

    /// The same error with another description for the command line.
    pub fn on_the_command_line(self, detail: impl Into<String>) -> Self {
        Self { command_detail: Some(detail.into()), ..self }
    }
}

impl From<PlanProblem> for FieldError {
    fn from(problem: PlanProblem) -> Self {
        Self::new(problem.pointer, problem.detail)
    }
}

/// Error of a use case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resource does not exist; names its kind.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// Wrong fields, all of them.
    #[error("validation failed")]
    Invalid(Vec<FieldError>),
    /// The content cannot be used, and no single field is to blame.
    #[error("{0}")]
    Unusable(String),
    /// The operator has not enabled it.
    #[error("{0}")]
    Forbidden(String),
    /// The current state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Too much work of this kind is in progress.
    #[error("{0}")]
    Busy(String),
    /// A model scores worse than its gate requires.
    #[error("{0}")]
    Gate(Box<GateComparison>),
    /// A run on a data set whose splits leak, without acknowledging these findings.
    #[error("the splits leak (patients or images occur in more than one): test scores would be inflated")]
    Leakage(Vec<LeakageFinding>),
    /// The database or the file storage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A prediction that must be recorded before it is returned, and cannot be.
    #[error("the prediction cannot be recorded: {0}")]
    NotRecorded(#[from] NotRecorded),
    /// An image that cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The inference engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The program failed; the cause is for the log.
    #[error("internal error: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// One wrong field.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(pointer, detail)])
    }

    /// True for failures of the program or its storage, whose details are for the log only.
    pub fn is_internal(&self) -> bool {
        match self {
            Self::Internal(_) => true,
            Self::Store(error) => !error.is_conflict(),
            Self::NotRecorded(_) => true,
            Self::Engine(error) => matches!(error, EngineError::NotFinite(_) | EngineError::Failed(_)),
            _ => false,
        }
    }

    /// A failure of the program with its cause.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}

/// A blocking task panicked or was cancelled.
impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::internal(error)
    }
}

/// Refusals of a radiograph name its field or its content.
impl From<AddError> for Error {
    fn from(error: AddError) -> Self {
        match error {
            AddError::Field { field, detail } => Self::invalid(format!("/{field}"), detail),
            AddError::Refused(..) => Self::Unusable(error.to_string()),
            AddError::Image(error) => error.into(),
            AddError::Store(error) => error.into(),
        }
    }
}
