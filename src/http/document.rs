//! The OpenAPI document: what concerns many operations and is therefore not declared by each handler.

use utoipa::{
    Modify, ToSchema,
    openapi::{
        Content, Object, OpenApi, Ref, Required, Response, Type,
        path::{Operation, Parameter, ParameterIn, PathItem},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{
    Problem,
    idempotency::MAX_KEY_LENGTH,
    v2::{self, InferenceError},
};

/// Name of the security scheme.
const API_KEY: &str = "api_key";

/// Declares the API key as a security scheme. The document names it as the default of every operation.
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

/// Completes operations that need the API key: each can return 401, and POST takes an idempotency key.
pub(super) fn complete_guarded(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let schema = if v2::errors::is_below(path) { InferenceError::name() } else { Problem::name() };
        let media_type = if v2::errors::is_below(path) { "application/json" } else { "application/problem+json" };
        let content = Content::new(Some(Ref::from_schema_name(schema)));
        let unauthorized = Response::builder()
            .description("No API key, or an unknown one")
            .content(media_type, content.clone())
            .build();
        if let Some(operation) = &mut item.post {
            operation.parameters.get_or_insert_default().push(idempotency_key().into());
            for (status, description) in [
                ("400", "Malformed request"),
                ("409", "A request with this `Idempotency-Key` is in progress, or was interrupted"),
                ("422", "The `Idempotency-Key` was used for another request"),
            ] {
                let response =
                    || Response::builder().description(description).content(media_type, content.clone()).build();
                operation.responses.responses.entry(status.into()).or_insert_with(|| response().into());
            }
        }
        for operation in operations(item) {
            operation.responses.responses.insert("401".into(), unauthorized.clone().into());
        }
    }
}

/// Completes operations that need no API key.
pub(super) fn complete_open(document: &mut OpenApi) {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        operation.security = Some(Vec::new());
    }
}

fn idempotency_key() -> Parameter {
    let schema =
        Object::builder().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_KEY_LENGTH)).build();
    let description = "Key of your choice for this request, such as a UUID. A retry with the same key and the same request within 24 hours \
                       returns the response to the first one, and does nothing again.";
    let parameter =
        Parameter::builder().name("Idempotency-Key").parameter_in(ParameterIn::Header).required(Required::False);
    parameter.description(Some(description)).schema(Some(schema)).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}
