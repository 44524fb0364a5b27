//! `/v1/admin`: devices and ImageNet weights.

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    body::{self, Receipt, Received, Receiver},
    extract::List,
    form::{Form, FormLimits},
    responses::{Binary, Invalid, TooLarge},
};
use crate::{
    domain::DeviceInfo,
    service::{self, TrainingControl},
    store::{self, Stores, Weights},
};

/// Maximum size of a weight file. The TensorFlow.js package has 95 MB, a `.pth` with its classifier 98 MB.
const MAX_WEIGHTS_BYTES: u64 = 512 << 20;

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
async fn import_weights(State(stores): State<Stores>, request: Request) -> Result<Response, ApiError> {
    let received = if body::media_type(request.headers()) == "multipart/form-data" {
        receive_part(request).await?
    } else {
        let receiver = Receiver::in_file(&Receipt::of(&request)?.transfers, MAX_WEIGHTS_BYTES).await?;
        receiver.receive(request.into_body()).await?
    };
    let file = received.path().ok_or_else(|| ApiError::internal("weights are received into a file"))?;
    let weights = service::import_weights(&stores, file.to_owned()).await?;
    let location = [(header::LOCATION, "/v1/admin/weights")];
    Ok((StatusCode::CREATED, location, Json(weights)).into_response())
}

/// Receives the part `file` of a form.
async fn receive_part(request: Request) -> Result<Received, ApiError> {
    let mut form = Form::of(request, FormLimits { form: MAX_WEIGHTS_BYTES, part: MAX_WEIGHTS_BYTES })?;
    let Some(part) = form.next_part().await? else {
        return Err(ApiError::invalid("/file", "is missing: send the weights as the part file"));
    };
    let name = part.name();
    if name != "file" {
        return Err(ApiError::invalid(&format!("/{name}"), "unknown part: send the weights as the part file"));
    }
    part.receive_file().await
}
