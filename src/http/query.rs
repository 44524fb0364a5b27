//! Query parameters that an operation does not have are refused: a misspelt filter must not return everything. What an operation has is
//! read from the OpenAPI document, so that document and behaviour agree.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{OpenApi, RefOr, path::ParameterIn};

use super::{ApiError, document};
use crate::service::FieldError;

/// The query parameters of each operation, by path and method; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownParameters(Arc<HashMap<(String, Method), BTreeSet<String>>>);

impl KnownParameters {
    pub(super) fn of(document: &mut OpenApi) -> Self {
        let mut known = HashMap::new();
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in document::methods(item) {
                let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
                    RefOr::T(parameter) => Some(parameter),
                    RefOr::Ref(_) => None,
                });
                let query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
                known.insert((path.clone(), method), query.map(|parameter| parameter.name.clone()).collect());
            }
        }
        Self(Arc::new(known))
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(()) };
        let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
        let Some(known) = self.0.get(&(path.as_str().to_owned(), method)) else { return Ok(()) };
        let sent = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let names = sent.map(|(name, _)| name.into_owned());
        let unknown: BTreeSet<String> = names.filter(|name| !known.contains(name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let detail = match known.len() {
            0 => "unknown query parameter: this operation has none".to_owned(),
            _ => format!("unknown query parameter: use {}", known.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        Err(ApiError::MalformedQuery(
            unknown.into_iter().map(|name| FieldError::new(pointer(&name), detail.clone())).collect(),
        ))
    }
}

/// Refuses unknown query parameters.
pub(super) async fn check(State(known): State<KnownParameters>, request: Request, next: Next) -> Response {
    match known.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// JSON pointer to a parameter.
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}
