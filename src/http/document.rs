//! The OpenAPI document: what concerns many operations and is therefore not declared by each handler.

mod schemas;

use axum::http::Method;
use utoipa::{
    Modify, ToSchema,
    openapi::{
        Content, Header, Object, OpenApi, Ref, RefOr, Required, Response, Type,
        path::{Operation, Parameter, ParameterIn, PathItem},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    Problem,
    idempotency::{KEY_PATTERN, MAX_KEY_LENGTH},
    v2::{self, InferenceError},
};

/// Name of the security scheme.
const API_KEY: &str = "api_key";

/// Declares the API key as a security scheme.
pub(super) struct ApiKeyScheme;

impl Modify for ApiKeyScheme {
    fn modify(&self, document: &mut OpenApi) {
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.description = Some(
            "The key that the server was started with (`THORAX_ADMIN_KEY`); without one, no key is needed.".into(),
        );
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(API_KEY, SecurityScheme::Http(bearer));
    }
}

/// True if an operation can return the response.
type Applies = fn(&Method, &Operation) -> bool;

/// Bounds the integers of the schemas that no operation refers to.
pub(super) struct IntegerBounds;

impl Modify for IntegerBounds {
    fn modify(&self, document: &mut OpenApi) {
        schemas::bound_unsigned_integers(document);
    }
}

/// Responses of the server itself, which each operation has: status, description, and the operations that have it.
const COMMON_RESPONSES: [(&str, &str, Applies); 11] = [
    (
        "400",
        "Malformed request: invalid syntax, an unknown query parameter, or a query parameter of the wrong type",
        |_, _| true,
    ),
    ("401", "No API key, or a wrong one", needs_key),
    ("403", "The host is not a name of this server, or a web page of another origin sent the request", |_, _| true),
    ("408", "The request body did not arrive in time; the connection is closed", has_body),
    ("409", "A request with this `Idempotency-Key` is in progress, or was interrupted", takes_idempotency_key),
    ("413", "Over the limit of bytes or pixels", has_body),
    ("415", "Unsupported media type or content encoding", has_body),
    ("422", "The `Idempotency-Key` was used for another request", takes_idempotency_key),
    (
        "429",
        "Over the limit of requests, bytes or archives of this client; retry after `Retry-After` seconds",
        needs_key,
    ),
    (
        "503",
        "The server is shutting down, or has no room for the request body; retry after `Retry-After` seconds",
        needs_key,
    ),
    ("507", "The disk of the data folder is full, or its quota is used up: nothing was stored", writes),
];

/// Operations whose body may be left out; an empty body stands for an empty object.
const OPTIONAL_BODIES: [&str; 4] = ["list_repository", "load_model", "resume_training_run", "unload_model"];

/// Completes operations that need the API key: security, the idempotency key of POST, and the responses of the server itself.
pub(super) fn complete_guarded(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in methods(item) {
            operation.security = Some(vec![SecurityRequirement::new(API_KEY, Vec::<String>::new())]);
            if method == Method::POST {
                operation.parameters.get_or_insert_default().push(idempotency_key().into());
            }
            add_common_responses(path, &method, operation);
            if let (Some(id), Some(RefOr::T(body))) = (&operation.operation_id, &mut operation.request_body)
                && OPTIONAL_BODIES.contains(&id.as_str())
            {
                body.required = Some(Required::False);
            }
        }
    }
    schemas::refuse_unknown_fields(document);
    schemas::bound_unsigned_integers(document);
}

/// Completes operations that need no API key.
pub(super) fn complete_open(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in methods(item) {
            operation.security = Some(Vec::new());
            add_common_responses(path, &method, operation);
        }
    }
    schemas::bound_unsigned_integers(document);
}

/// Describes a server without an API key.
pub(super) fn remove_security(document: &mut OpenApi) {
    document.security = None;
    if let Some(components) = &mut document.components {
        components.security_schemes.clear();
    }
    for (_, operation) in document.paths.paths.values_mut().flat_map(methods) {
        operation.security = None;
        operation.responses.responses.remove("401");
    }
}

/// The operations of a path by method.
pub(super) fn methods(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let operations = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::PATCH, patch),
    ];
    operations.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn needs_key(_: &Method, operation: &Operation) -> bool {
    operation.security.as_ref().is_some_and(|security| !security.is_empty())
}

fn has_body(_: &Method, operation: &Operation) -> bool {
    operation.request_body.is_some()
}

fn takes_idempotency_key(method: &Method, operation: &Operation) -> bool {
    *method == Method::POST && needs_key(method, operation)
}

fn writes(method: &Method, operation: &Operation) -> bool {
    *method != Method::GET && needs_key(method, operation)
}

/// Adds the responses that the handler does not describe, and headers to all.
fn add_common_responses(path: &str, method: &Method, operation: &mut Operation) {
    let protocol = v2::errors::is_below(path);
    let schema = if protocol { InferenceError::name() } else { Problem::name() };
    let media_type = if protocol { "application/json" } else { "application/problem+json" };
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    for (status, description, _) in
        COMMON_RESPONSES.iter().filter(|(_, _, applies)| applies(method, operation)).collect::<Vec<_>>()
    {
        let response = Response::builder().description(*description).content(media_type, content.clone()).build();
        operation.responses.responses.entry((*status).into()).or_insert_with(|| response.into());
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        for (name, description, kind) in headers(status) {
            let schema = Object::builder().schema_type(kind).build();
            let mut header = Header::new(schema);
            header.description = Some(description.into());
            response.headers.entry(name.into()).or_insert_with(|| header.into());
        }
    }
}

/// Headers of responses with this status.
fn headers(status: &str) -> Vec<(&'static str, &'static str, Type)> {
    match status {
        "401" => vec![("WWW-Authenticate", "`Bearer`", Type::String)],
        "429" | "503" => vec![("Retry-After", "Seconds to wait", Type::Integer)],
        _ => Vec::new(),
    }
}

fn idempotency_key() -> Parameter {
    let schema = Object::builder()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_KEY_LENGTH))
        .pattern(Some(KEY_PATTERN))
        .build();
    let description = "Key of your choice for this request, such as a UUID. A retry with the same key and the same request within 24 hours \
                       returns the response to the first one, and does nothing again.";
    let parameter =
        Parameter::builder().name("Idempotency-Key").parameter_in(ParameterIn::Header).required(Required::False);
    parameter.description(Some(description)).schema(Some(schema)).build()
}
