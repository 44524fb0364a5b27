//! What several paths answer with: a new thing and its place, and the problem documents as the description names them.

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

/// nginx holds answers back until it has a good deal of them, unless it is told not to.
pub const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

type Located<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

/// 201 with the place of the new thing.
pub fn created<T>(location: String, body: T) -> Located<T> {
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(body))
}

/// 202 with the place to watch.
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
    /// 400 in the description.
    Malformed = "400", "Malformed: the body is not JSON, or a query parameter is not of its type";
    /// 403 in the description.
    Forbidden = "403", "The operator has not allowed it";
    /// 404 in the description.
    NotFound = "404", "No such thing, or an identifier that cannot exist";
    /// 406 in the description.
    NotAcceptable = "406", "None of the types in `Accept` is one that this path answers with";
    /// 409 in the description.
    Conflict = "409", "The state does not allow it";
    /// 413 in the description.
    TooLarge = "413", "Over the limit on bytes or pixels";
    /// 415 in the description.
    UnsupportedType = "415", "Not a type this path reads";
    /// 422 in the description.
    Invalid = "422", "Read but unusable; `errors` names each wrong field";
    /// 429 in the description.
    Busy = "429", "The queue is full: come back after `Retry-After`";
    /// 503 in the description.
    Unavailable = "503", "Not ready; `detail` says what to do";
}

fn described(description: &str) -> Response {
    let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
    Response::builder().description(description).content("application/problem+json", problem).build()
}
