//! Extractors whose rejections are problem documents, and the list parameters.

use axum::extract::{FromRequest, FromRequestParts, Multipart, Request};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;
use crate::store::Page;

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub struct JsonBody<T>(pub T);

/// Path parameters; an identifier that cannot exist is 404.
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

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Multipart::from_request(request, state).await.map(Self).map_err(|e| ApiError::UnsupportedType(e.body_text()))
    }
}

/// `?limit=&after=`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Items a page, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
    /// `next` of the page before.
    pub after: Option<String>,
}

impl ListParams {
    /// Checks the limit.
    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = self.limit.unwrap_or(50);
        if !(1..=200).contains(&limit) {
            return Err(ApiError::Malformed("limit must be 1 to 200".into()));
        }
        Ok(Page { limit, after: self.after.clone() })
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// `after` of the next page; null at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page; the cursor of the last item goes out when the page is full.
    pub fn of(items: Vec<T>, page: &Page, cursor: impl Fn(&T) -> String) -> Self {
        let full = items.len() as u32 >= page.limit;
        let next = if full { items.last().map(cursor) } else { None };
        Self { items, next }
    }

    /// A list that has one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}
