//! Responses of several paths: 201 and 202 with `Location`, and problem documents for the OpenAPI document.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderName, StatusCode, header},
};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, Ref, RefOr, Response},
};

use super::Problem;

/// Bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes bodies in the OpenAPI document")]
pub struct Binary(Vec<u8>);

/// Header that turns off response buffering in nginx, for streams.
pub const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

type Located<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

/// 201 with the URL of the new resource.
pub fn created<T>(location: String, body: T) -> Located<T> {
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(body))
}

/// 202 with the URL of the resource to poll.
pub fn accepted<T>(location: String, body: T) -> Located<T> {
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body))
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $description:literal;)*) => { $(
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([($status.into(), described($description).into())])
            }
        }
    )* }
}

problems! {
    /// 400 in the OpenAPI document.
    Malformed = "400", "Malformed request: invalid JSON, or a query parameter of the wrong type";
    /// 403 in the OpenAPI document.
    Forbidden = "403", "Forbidden by the configuration of the server";
    /// 404 in the OpenAPI document.
    NotFound = "404", "Not found, or an invalid identifier in the path";
    /// 406 in the OpenAPI document.
    NotAcceptable = "406", "The path supports none of the media types in `Accept`";
    /// 409 in the OpenAPI document.
    Conflict = "409", "Conflict with the current state of the resource";
    /// 413 in the OpenAPI document.
    TooLarge = "413", "Over the limit of bytes or pixels";
    /// 415 in the OpenAPI document.
    UnsupportedType = "415", "Unsupported media type";
    /// 422 in the OpenAPI document.
    Invalid = "422", "Validation failed; `errors` lists the invalid fields";
    /// 429 in the OpenAPI document.
    Busy = "429", "Too many concurrent requests; retry after `Retry-After` seconds";
    /// 503 in the OpenAPI document.
    Unavailable = "503", "Service unavailable; `detail` says what to do";
}

fn described(description: &str) -> Response {
    let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
    Response::builder().description(description).content("application/problem+json", problem).build()
}
