//! Extractors whose rejections are problem documents, and pagination.

use axum::{
    extract::{FromRequest, FromRequestParts, Multipart, Request},
    http::{HeaderMap, HeaderValue, header},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, body, header_fields};
use crate::{service::FieldError, store::Page};

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub struct JsonBody<T>(pub T);

/// Path parameters. An invalid identifier is 404.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct PathOf<T>(pub T);

/// Query parameters.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct QueryOf<T>(pub T);

/// A multipart form.
pub struct Form(pub Multipart);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, ApiError> {
        quote_boundary(request.headers_mut());
        Multipart::from_request(request, state).await.map(Self).map_err(|e| ApiError::UnsupportedType(e.body_text()))
    }
}

/// Quotes the boundary: some clients send one without quotes that needs them, and the parser of axum would refuse it.
fn quote_boundary(headers: &mut HeaderMap) {
    let boundary = header_fields::parameter(headers, header::CONTENT_TYPE, "boundary");
    let boundary = boundary.filter(|boundary| !boundary.contains(['"', '\\']));
    let quoted = boundary.map(|boundary| format!("multipart/form-data; boundary=\"{boundary}\""));
    if let (true, Some(Ok(quoted))) =
        (body::media_type(headers) == "multipart/form-data", quoted.map(HeaderValue::try_from))
    {
        headers.insert(header::CONTENT_TYPE, quoted);
    }
}

/// Error about a part of a form that is none of its fields. Clients send images under other names than `file`.
pub(super) fn unknown_part(name: &str) -> FieldError {
    FieldError::new(format!("/{name}"), format!("{name:?} is not a part of this form: send images as `file`"))
}

/// `?limit=&after=`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Items per page, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
    /// Cursor: `next` of the previous page.
    pub after: Option<String>,
}

impl ListParams {
    /// Validates the parameters.
    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = self.limit.unwrap_or(50);
        if !(1..=200).contains(&limit) {
            return Err(ApiError::Malformed(format!("limit must be between 1 and 200 (got {limit})")));
        }
        Ok(Page { limit, after: self.after.clone() })
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// Items of the page.
    pub items: Vec<T>,
    /// Cursor of the next page, for `after`; null on the last page.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page. It has a cursor, that of the last item, if it is full.
    pub fn of(items: Vec<T>, page: &Page, cursor: impl Fn(&T) -> String) -> Self {
        let full = items.len() as u32 >= page.limit;
        let next = if full { items.last().map(cursor) } else { None };
        Self { items, next }
    }

    /// A list of a single page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}
