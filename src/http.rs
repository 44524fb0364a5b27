//! The HTTP interface: one file a path, short handlers; no SQL, no tensors.

mod accept;
mod admin;
mod aliases;
mod auth;
mod body;
mod buckets;
mod client;
mod client_address;
mod content_encoding;
mod datasets;
mod dicomweb;
mod document;
mod drain;
mod evaluations;
mod expiring;
mod extract;
mod form;
mod header_fields;
mod health;
mod idempotency;
mod imports;
mod json;
mod live;
mod metrics;
mod models;
mod observe;
mod pages;
mod prediction_jobs;
mod predictions;
mod probes;
mod problem;
mod query;
mod quotas;
mod radiographs;
mod recipes;
mod refusal;
mod render;
mod responses;
mod scores;
mod site;
mod stall;
mod state;
mod stream;
mod trace;
mod training_runs;
mod transfers;
mod v2;
mod wrong_keys;

use axum::{Router, middleware};
use tower::util::option_layer;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use utoipa::{OpenApi, openapi};
use utoipa_axum::router::OpenApiRouter;

use crate::domain::BatchEvent;
pub use client_address::{ClientAddress, Forwarding, TrustedProxies};
use document::{ApiKeyScheme, IntegerBounds};
pub use problem::{ApiError, Problem};
pub use quotas::{QuotaConfig, Quotas};
pub use refusal::Refusal;
pub use site::Site;
pub use stall::{Pace, StallTimer};
pub use state::{Access, AppState, EventStreams, MAX_EVENT_STREAMS, Telemetry};
pub use transfers::{TransferLimits, Transfers};
pub use wrong_keys::WrongKeys;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Thorax",
        description = "Train and serve chest-radiograph classifiers. For research only: not a medical device, not for \
                       diagnosis. Errors are problem documents (`application/problem+json`, RFC 9457)."
    ),
    servers((url = "/", description = "This server")),
    modifiers(&ApiKeyScheme, &IntegerBounds),
    components(schemas(Problem, BatchEvent, v2::InferenceError)),
    tags(
        (name = "datasets", description = "Data sets and their radiographs"),
        (name = "training", description = "Recipes, training runs and their metrics"),
        (name = "models", description = "Models, aliases and evaluations"),
        (name = "predictions", description = "Classification of radiographs"),
        (name = "open inference protocol", description = "Open Inference Protocol, version 2, for clients of KServe and Triton"),
        (name = "operating", description = "Health, metrics, devices and pretrained weights")
    )
)]
struct Document;

/// Routes that need the API key, where the server has one.
fn guarded_routes() -> OpenApiRouter<AppState> {
    let mut routes = OpenApiRouter::new()
        .merge(datasets::router())
        .merge(radiographs::router())
        .merge(dicomweb::router())
        .merge(imports::router())
        .merge(recipes::router())
        .merge(training_runs::router())
        .merge(models::router())
        .merge(live::router())
        .merge(aliases::router())
        .merge(evaluations::router())
        .merge(predictions::router())
        .merge(prediction_jobs::router())
        .merge(v2::router())
        .merge(admin::router());
    document::complete_guarded(routes.get_openapi_mut());
    check_query(routes)
}

/// Routes without authentication: health probes and metrics.
fn open_routes() -> OpenApiRouter<AppState> {
    let mut routes = OpenApiRouter::new().merge(health::router()).merge(metrics::router()).merge(v2::open_router());
    document::complete_open(routes.get_openapi_mut());
    check_query(routes)
}

/// Refuses query parameters that the operations do not document.
fn check_query(mut routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    let known = query::KnownParameters::of(routes.get_openapi_mut());
    routes.route_layer(middleware::from_fn_with_state(known, query::check))
}

/// The OpenAPI document, the same that `/openapi.json` serves.
pub fn openapi() -> openapi::OpenApi {
    OpenApiRouter::with_openapi(Document::openapi()).merge(guarded_routes()).merge(open_routes()).into_openapi()
}

/// The whole service. Its routes extract the parts of `state` that they need.
pub fn router(state: AppState) -> Router {
    let limit_client = middleware::from_fn_with_state(state.quotas.clone(), quotas::limit_client);
    let require_key = middleware::from_fn_with_state(state.access.clone(), auth::require_key);
    let decode_bodies = middleware::from_fn(content_encoding::decode);
    let keys = idempotency::IdempotencyState::new(&state.stores, &state.intake, &state.lifecycle);
    let honour_keys = middleware::from_fn_with_state(keys, idempotency::honour);
    let drain = drain::DrainState::new(state.lifecycle.clone(), state.limits, state.transfers.clone());
    let routes = OpenApiRouter::with_openapi(Document::openapi())
        .merge(
            guarded_routes()
                .route_layer(honour_keys)
                .route_layer(decode_bodies)
                .route_layer(limit_client)
                .route_layer(require_key),
        )
        .merge(open_routes());
    let (routes, mut openapi) = routes.split_for_parts();
    if state.access.admin_key.is_none() {
        document::remove_security(&mut openapi);
    }
    routes
        .merge(pages::router(openapi))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(refusal::enforce))
        .layer(middleware::from_fn_with_state(drain, drain::track))
        .layer(middleware::from_fn_with_state(state.quotas.clone(), quotas::limit_address))
        .layer(option_layer(state.site.cors()))
        .layer(middleware::from_fn_with_state(state.site.clone(), site::check))
        .layer(middleware::from_fn(render::render))
        .layer(middleware::from_fn(pages::set_security_headers))
        .layer(middleware::from_fn_with_state((state.telemetry.clone(), state.stores.db.clone()), observe::observe))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(state)
}
