//! `/v2/models/{name}/infer`: classifies radiographs, each as `POST /v1/predictions` does.

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    errors::ErrorResponses,
    model::ModelPath,
    request::InferRequest,
    response::{self, InferResponse},
    tensor,
};
use crate::{
    http::{
        ApiError, AppState,
        body::Receipt,
        extract::PathOf,
        predictions::{File, FileContent, PredictionStream},
        responses::Binary,
    },
    metrics::Stage,
    service::{ModelSelection, NewPrediction, Predictor},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(infer)).routes(routes!(infer_version))
}

/// Classify a batch of radiographs, sent as one tensor.
///
/// The input is one of three tensors. `image` (`BYTES`, `[images]`) contains PNG, JPEG or DICOM files, base64-encoded in JSON. `uint8`
/// (`UINT8`) and `fp32` (`FP32`) contain grey levels or RGB values from 0 (black) to 255 (white), not normalised, of any size, with
/// the shape `[images, channels, height, width]` or `[images, height, width, channels]` and 1 or 3 channels (if both are possible, the
/// first). They are resized and normalised as decoded files are.
///
/// Tensors can be sent as raw bytes after the JSON (`Inference-Header-Content-Length`, `binary_data_size`), and are returned so if
/// `binary_data_output` or `binary_data` is set. If one image cannot be classified, the request fails. Each result is recorded as a
/// prediction.
#[utoipa::path(post, path = "/v2/models/{name}/infer", tag = "open inference protocol", params(("name" = String, Path)),
    request_body(content((InferRequest = "application/json"), (Binary = "application/octet-stream"))),
    responses((status = 200, description = "Output tensors", content((InferResponse = "application/json"), (Binary = "application/octet-stream"))), ErrorResponses))]
async fn infer(
    State(predictor): State<Predictor>,
    PathOf(path): PathOf<ModelPath>,
    request: Request,
) -> Result<Response, ApiError> {
    classify(predictor, path, request).await
}

/// Classify a batch of radiographs with a version of a model. A model has one version, its identifier.
#[utoipa::path(post, path = "/v2/models/{name}/versions/{version}/infer", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    request_body(content((InferRequest = "application/json"), (Binary = "application/octet-stream"))),
    responses((status = 200, description = "Output tensors", content((InferResponse = "application/json"), (Binary = "application/octet-stream"))), ErrorResponses))]
async fn infer_version(
    State(predictor): State<Predictor>,
    PathOf(path): PathOf<ModelPath>,
    request: Request,
) -> Result<Response, ApiError> {
    classify(predictor, path, request).await
}

async fn classify(predictor: Predictor, path: ModelPath, request: Request) -> Result<Response, ApiError> {
    // Before anything of the body is read, so that refused requests use no memory for images.
    predictor.engine().check_capacity()?;
    let model = path.find(&predictor.models).await?;
    path.check_loaded(&predictor.models, &model)?;
    let (receipt, headers) = (Receipt::of(&request)?, request.headers().clone());
    let (received, permit) =
        receipt.receive_admitted(request, predictor.limits.max_upload_bytes, predictor.engine()).await?;
    let body = received.load().await?;
    let limits = predictor.limits.image();
    let read = move || {
        let (mut request, raw) = InferRequest::read(&headers, &body)?;
        let outputs = response::requested_outputs(&request)?;
        let images = tensor::images(&mut request, raw, &limits)?;
        Ok::<_, ApiError>((request, outputs, images))
    };
    let (request, outputs, images) = predictor.engine().prepare(Stage::Decode, read).await??;
    let images = images.into_iter().map(|content| Ok(File { name: None, content: FileContent::Read(content) }));
    let (selection, images) = (ModelSelection::of(model.clone()), stream::iter(images).boxed());
    let files = PredictionStream::new(predictor, selection, permit, CancellationToken::new(), images);
    let answers = all(files).await?;
    Ok(response::respond(request, path.name(), &model, &outputs, &answers))
}

/// All results in the order of the images, or the error of the first image that fails.
async fn all(mut files: PredictionStream) -> Result<Vec<NewPrediction>, ApiError> {
    let mut answers = Vec::new();
    while let Some(answered) = files.next().await {
        let answered = answered?;
        answers.push((answered.index, answered.outcome?));
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
