//! `/metrics`: metrics for Prometheus and compatible scrapers.
//!
//! Needs no key, as `/health`: the key allows everything, so a scraper should not have it. The response contains counts, durations
//! and sizes, and no identifier, name or path that a client sent.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiError, AppState, Telemetry};
use crate::{
    service::Serving,
    store::{DiskSpace, Stores},
};

/// The media type includes the version of the text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_metrics))
}

/// Metrics in the Prometheus text exposition format.
///
/// `docs/metrics.md` lists them; `/static/grafana.json` is a Grafana dashboard for them. Needs no key.
#[utoipa::path(get, path = "/metrics", tag = "operating", responses(
    (status = 200, description = "Metrics in the text exposition format", body = String, content_type = "text/plain; version=0.0.4")
))]
async fn get_metrics(
    State(stores): State<Stores>,
    State(serving): State<Serving>,
    State(telemetry): State<Telemetry>,
) -> Result<Response, ApiError> {
    let resources = &telemetry.metrics.resources;
    resources.update_process();
    stores.db.pools().into_iter().for_each(|usage| resources.pool(usage));
    if let Ok(DiskSpace { free, total }) = stores.disk.space() {
        resources.disk(free, total, stores.disk.low_bytes);
    }
    resources.database_damaged(stores.db.damage().is_some());
    let engine = serving.engine.clone();
    let memory = tokio::task::spawn_blocking(move || engine.device_memory()).await.map_err(ApiError::internal)?;
    if let Some(memory) = memory {
        resources.device(memory.in_use, memory.reserved);
    }
    let text = telemetry.metrics.text().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}
