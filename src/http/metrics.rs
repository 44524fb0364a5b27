//! `/metrics`: what a Prometheus server, or anything that reads its format, collects.
//!
//! Open without the key, as `/health` is: the key may do everything, so that a scraper had better not have it. The answer holds counts,
//! durations and sizes, and no identifier, name or path that a client sent.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiError, AppState};

/// The text format's version is part of its type.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_metrics))
}

/// Counts and durations in the Prometheus text exposition format; docs/metrics.md lists them, and
/// `/static/grafana.json` is a Grafana dashboard of them. Needs no key.
#[utoipa::path(get, path = "/metrics", tag = "operating", responses(
    (status = 200, body = String, content_type = "text/plain; version=0.0.4")
))]
async fn get_metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let resources = &state.telemetry.metrics.resources;
    resources.update_process();
    state.stores.db.pools().into_iter().for_each(|usage| resources.pool(usage));
    let engine = state.serving.engine.clone();
    let memory = tokio::task::spawn_blocking(move || engine.device_memory()).await.map_err(ApiError::internal)?;
    if let Some(memory) = memory {
        resources.device(memory.in_use, memory.reserved);
    }
    let text = state.telemetry.metrics.text().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}
