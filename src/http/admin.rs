//! `/v1/admin`: devices and ImageNet weights.

use axum::{
    Json,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tempfile::NamedTempFile;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState, body,
    extract::{Form, List},
    responses::{Binary, Invalid, TooLarge},
};
use crate::{
    domain::DeviceInfo,
    service::{self, Intake, TrainingControl},
    store::{self, Stores, Weights},
};

/// Maximum size of a weight file. The TensorFlow.js package has 95 MB, a `.pth` with its classifier 98 MB.
const MAX_WEIGHTS_BYTES: usize = 512 << 20;

/// A form with weights.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form")]
struct WeightsForm {
    /// The weight file.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_devices)).routes(routes!(list_weights, import_weights))
}

/// List compute devices.
///
/// Returns the devices that this build can use; `in_use` marks the current one.
#[utoipa::path(get, path = "/v1/admin/devices", tag = "operating", responses((status = 200, description = "All devices", body = List<DeviceInfo>)))]
async fn list_devices(State(training): State<TrainingControl>) -> Json<List<DeviceInfo>> {
    Json(List::whole(training.devices.to_vec()))
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
/// Accepts the TensorFlow.js package, and weights of torchvision or timm as `.pth` or `.safetensors`, also in a checkpoint with a `state_dict`,
/// with prefixes such as `module.`, in half precision, and with any classifier. Send the file as the body, or as the part `file` of a
/// form. Weights of another network are refused with the missing, unexpected and differently shaped tensors, ten of each.
#[utoipa::path(post, path = "/v1/admin/weights", tag = "operating",
    request_body(
        content((Binary = "application/octet-stream"), (WeightsForm = "multipart/form-data")),
        description = "At most 512 MiB"
    ),
    responses(
        (status = 201, description = "Imported", body = Weights, headers(("Location" = String, description = "URL of the list of weights"))),
        TooLarge,
        Invalid
    ))]
async fn import_weights(
    State(stores): State<Stores>,
    State(intake): State<Intake>,
    request: Request,
) -> Result<Response, ApiError> {
    let file = NamedTempFile::new_in(&intake.incoming).map_err(ApiError::internal)?;
    let mut sink = tokio::fs::File::from_std(file.reopen().map_err(ApiError::internal)?);
    if body::media_type(request.headers()) == "multipart/form-data" {
        write_part(request, &mut sink).await?;
    } else {
        body::write(request.into_body(), MAX_WEIGHTS_BYTES, &mut sink).await?;
    }
    let weights = service::import_weights(&stores, file.path().to_owned()).await?;
    let location = [(header::LOCATION, "/v1/admin/weights")];
    Ok((StatusCode::CREATED, location, Json(weights)).into_response())
}

/// Writes the part `file` of a form to `sink`. Its size is limited by that of the form.
async fn write_part(mut request: Request, sink: &mut (impl AsyncWrite + Unpin)) -> Result<(), ApiError> {
    // The limit of other forms is that of a radiograph.
    DefaultBodyLimit::max(MAX_WEIGHTS_BYTES).apply(&mut request);
    let Form(mut form) = Form::from_request(request, &()).await?;
    let Some(mut part) = form.next_field().await? else {
        return Err(ApiError::invalid("/file", "is missing: send the weights as the part file"));
    };
    let name = part.name().unwrap_or_default().to_owned();
    if name != "file" {
        return Err(ApiError::invalid(&format!("/{name}"), "unknown part: send the weights as the part file"));
    }
    while let Some(chunk) = part.chunk().await? {
        sink.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    sink.flush().await.map_err(ApiError::internal)
}
