//! `/v1/admin`: devices and ImageNet weights.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tempfile::NamedTempFile;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{Binary, Invalid, TooLarge},
    body,
    extract::List,
};
use crate::{
    domain::DeviceInfo,
    service,
    store::{self, Stores, Weights},
};

/// Maximum size of a weight file. The TensorFlow.js package has 95 MB, a `.pth` with its classifier 98 MB.
const MAX_WEIGHTS_BYTES: usize = 512 << 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_devices)).routes(routes!(list_weights, import_weights))
}

/// List compute devices.
///
/// Returns the devices that this build can use; `in_use` marks the current one.
#[utoipa::path(get, path = "/v1/admin/devices", tag = "operating", responses((status = 200, description = "All devices", body = List<DeviceInfo>)))]
async fn list_devices(State(state): State<AppState>) -> Json<List<DeviceInfo>> {
    Json(List::whole(state.training.devices.to_vec()))
}

/// List imported ImageNet weights, newest first.
///
/// Training runs start from the newest ones.
#[utoipa::path(get, path = "/v1/admin/weights", tag = "operating", responses((status = 200, description = "All weights, newest first", body = List<Weights>)))]
async fn list_weights(State(stores): State<Stores>) -> Result<Json<List<Weights>>, ApiError> {
    Ok(Json(List::whole(store::weights::list(&stores.db).await?)))
}

/// Import ImageNet weights of ResNet-50.
///
/// Accepts the TensorFlow.js package, and torchvision weights as `.pth` or `.safetensors`.
#[utoipa::path(post, path = "/v1/admin/weights", tag = "operating",
    request_body(content = Binary, content_type = "application/octet-stream", description = "At most 512 MiB"),
    responses(
        (status = 201, description = "Imported", body = Weights, headers(("Location" = String, description = "URL of the list of weights"))),
        TooLarge,
        Invalid
    ))]
async fn import_weights(State(state): State<AppState>, content: Body) -> Result<Response, ApiError> {
    let file = NamedTempFile::new_in(&state.intake.incoming).map_err(ApiError::internal)?;
    let mut sink = tokio::fs::File::from_std(file.reopen().map_err(ApiError::internal)?);
    body::write(content, MAX_WEIGHTS_BYTES, &mut sink).await?;
    let weights = service::import_weights(&state.stores, file.path().to_owned()).await?;
    let location = [(header::LOCATION, "/v1/admin/weights")];
    Ok((StatusCode::CREATED, location, Json(weights)).into_response())
}
