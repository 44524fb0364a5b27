//! Extractors whose rejections are problem documents, and pagination.

use std::{
    fmt::{self, Display, Formatter},
    num::TryFromIntError,
};

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, Object, RefOr, Required, Schema, SchemaFormat, Type,
        path::{Parameter, ParameterIn},
    },
};

use super::{
    ApiError,
    body::{self, Receipt},
    json,
};
use crate::{
    service::{FieldError, value_error},
    store::Page,
};

/// Maximum number of items on a page.
const MAX_LIMIT: u32 = 200;

/// Number of items on a page without `limit`.
const DEFAULT_LIMIT: u32 = 50;

/// Maximum size of JSON that is parsed on an async thread, in bytes: it takes less than a millisecond.
const MAX_INLINE_JSON_BYTES: usize = 64 << 10;

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let media_type = body::media_type(request.headers());
        let is_json = media_type == "application/json"
            || (media_type.starts_with("application/") && media_type.ends_with("+json"));
        if !is_json {
            return Err(ApiError::UnsupportedType("send the body as JSON, with Content-Type: application/json".into()));
        }
        let receipt = Receipt::of(&request)?;
        let bytes = receipt.receive_small(request).await?;
        if bytes.len() <= MAX_INLINE_JSON_BYTES {
            return json::parse(&bytes).map(Self);
        }
        receipt.transfers.parse(move || json::parse(&bytes)).await?.map(Self)
    }
}

/// A small body of any media type, with the limit of JSON.
pub struct SmallBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for SmallBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        Receipt::of(&request)?.receive_small(request).await.map(Self)
    }
}

/// Path parameters. An invalid identifier is 404.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct PathOf<T>(pub T);

/// Query parameters. [`query`](super::query) refuses those that an operation does not have.
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let read = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs));
        read.map(Self).map_err(|error| ApiError::MalformedQuery(vec![value_error("", &error)]))
    }
}

/// Error about a part of a form that is none of its fields. Clients send images under other names than `file`.
pub(super) fn unknown_part(name: &str) -> FieldError {
    FieldError::new(format!("/{name}"), format!("{name:?} is not a part of this form: send images as `file`"))
}

/// `?limit=&after=` of a list whose cursors are values of `Cursor`.
#[derive(Debug, Deserialize)]
pub struct ListParams<Cursor> {
    /// Items per page.
    pub limit: Option<u32>,
    /// `next` of the previous page.
    pub after: Option<Cursor>,
}

impl<Cursor: PartialSchema> IntoParams for ListParams<Cursor> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, description: &str, schema: RefOr<Schema>| {
            let parameter = Parameter::builder().name(name).parameter_in(ParameterIn::Query).required(Required::False);
            parameter.description(Some(description)).schema(Some(schema)).build()
        };
        let limit = Object::builder().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MAX_LIMIT));
        vec![
            parameter("limit", "Items per page.", limit.default(Some(DEFAULT_LIMIT.into())).into()),
            parameter("after", "Cursor: `next` of the previous page.", Cursor::schema()),
        ]
    }
}

impl<Cursor: Display> ListParams<Cursor> {
    /// Validates the parameters.
    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let detail = format!("must be between 1 and {MAX_LIMIT} (got {limit})");
            return Err(ApiError::MalformedQuery(vec![FieldError::new("/limit", detail)]));
        }
        Ok(Page { limit, after: self.after.as_ref().map(Cursor::to_string) })
    }
}

/// Cursor of a list whose items the database numbers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub struct Sequence(i64);

impl TryFrom<u64> for Sequence {
    type Error = TryFromIntError;

    fn try_from(number: u64) -> Result<Self, TryFromIntError> {
        i64::try_from(number).map(Self)
    }
}

impl Display for Sequence {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialSchema for Sequence {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
        Object::builder().schema_type(Type::Integer).format(Some(format)).minimum(Some(0)).build().into()
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
