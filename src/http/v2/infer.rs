//! `/v2/models/{name}/infer`: classifies radiographs, each as `POST /v1/predictions` would.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};
use futures_util::{StreamExt, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Failed,
    model::Named,
    request::InferRequest,
    response::{self, InferResponse},
    tensor,
};
use crate::{
    http::{
        ApiError, AppState, body,
        extract::PathOf,
        predictions::{File, PredictionStream},
    },
    metrics::Stage,
    service::{ModelSelection, NewPrediction, Predictor},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(infer)).routes(routes!(infer_version))
}

/// Classifies a batch of radiographs, sent as one tensor.
///
/// `image` (`BYTES`, `[images]`) has whole PNG, JPEG or DICOM files, in JSON in base64. `uint8` (`UINT8`) and `fp32` (`FP32`) have grey levels or
/// RGB from 0, black, to 255, white, not normalised, of any size: `[images, channels, height, width]` or `[images, height, width,
/// channels]` with 1 or 3 channels (where both are possible, the first). They are resized and normalised as decoded files are. Tensors may
/// be raw behind the JSON (`Inference-Header-Content-Length`, `binary_data_size`), and are answered so where `binary_data_output` or
/// `binary_data` wants it. One image that cannot be classified fails the request. Each answer is recorded as a prediction.
#[utoipa::path(post, path = "/v2/models/{name}/infer", tag = "open inference protocol", params(("name" = String, Path)),
    request_body(content((InferRequest = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, content((InferResponse = "application/json"), (Vec<u8> = "application/octet-stream"))), Failed))]
async fn infer(
    State(predictor): State<Predictor>,
    PathOf(named): PathOf<Named>,
    request: Request,
) -> Result<Response, ApiError> {
    classify(predictor, named, request).await
}

/// The same, by a version of a model: by the one that it has.
#[utoipa::path(post, path = "/v2/models/{name}/versions/{version}/infer", tag = "open inference protocol",
    params(("name" = String, Path), ("version" = String, Path)),
    request_body(content((InferRequest = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, content((InferResponse = "application/json"), (Vec<u8> = "application/octet-stream"))), Failed))]
async fn infer_version(
    State(predictor): State<Predictor>,
    PathOf(named): PathOf<Named>,
    request: Request,
) -> Result<Response, ApiError> {
    classify(predictor, named, request).await
}

async fn classify(predictor: Predictor, named: Named, request: Request) -> Result<Response, ApiError> {
    // Before the body is read, so that waiting requests hold no images.
    let place = predictor.engine().admit()?;
    let model = named.find(&predictor.models).await?;
    named.check_loaded(&predictor.models, &model)?;
    check_encoding(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = body::read(body, predictor.limits.max_upload_bytes).await?;
    let limits = predictor.limits.image();
    let read = move || {
        let (mut request, raw) = InferRequest::read(&parts.headers, &body)?;
        let wanted = response::wanted(&request)?;
        let images = tensor::images(&mut request, raw, &limits)?;
        Ok::<_, ApiError>((request, wanted, images))
    };
    let (request, wanted, images) = predictor.engine().prepare(Stage::Decode, read).await??;
    let images = images.into_iter().map(|content| Ok(File { name: None, content }));
    let files =
        PredictionStream::new(predictor, ModelSelection::of(model.clone()), place, stream::iter(images).boxed());
    let answers = all(files).await?;
    Ok(response::respond(request, named.name(), &model, &wanted, &answers))
}

fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(ApiError::UnsupportedType("compressed requests are not read: send it as it is".into()))
        }
        _ => Ok(()),
    }
}

/// All answers in the order of the images, or what is wrong with the first to fail.
async fn all(mut files: PredictionStream) -> Result<Vec<NewPrediction>, ApiError> {
    let mut answers = Vec::new();
    while let Some(answered) = files.next().await {
        let answered = answered?;
        answers.push((answered.index, answered.outcome?));
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
