//! `/v1/predictions`: classification of radiographs.

mod feedback;
mod files;
mod lines;
mod response;

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{
    StreamExt, TryFutureExt,
    stream::{self, BoxStream},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    accept::negotiate,
    body::{self, Receipt},
    extract::{List, ListParams, PathOf, QueryOf},
    form::Form,
    responses::{
        Binary, Busy, Conflict, Invalid, Malformed, NotAcceptable, NotFound, TooLarge, Unavailable, UnsupportedType,
    },
};
use crate::{
    domain::PredictionId,
    service::{Lifecycle, Limits, Models, Predictor},
    store::{self, Prediction},
};
pub(super) use files::{File, FileContent, PredictionStream};
use lines::NDJSON;
use response::{BatchItem, Predicted, PredictionBatch, PredictionResponse, RecordedPrediction};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_predictions, create_prediction))
        .routes(routes!(get_prediction))
        .routes(routes!(get_prediction_heatmap))
        .routes(routes!(feedback::put_feedback))
}

/// Model and content of a prediction.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PredictionParams {
    /// Identifier or alias of a model; the champion when absent. A model that is not loaded is loaded first, which takes a second or two.
    #[param(example = "champion")]
    model: Option<String>,
    /// True to explain each prediction by a `heatmap` of the image regions that influenced its score.
    #[serde(default)]
    #[param(default = false)]
    explain: bool,
}

/// One or more radiographs.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; read field by field")]
struct PredictionForm {
    /// PNG, JPEG or DICOM; repeatable.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
}

/// Media type of the response.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Ndjson,
}

const FORMATS: [(&str, Format); 2] = [("application/json", Format::Json), (NDJSON, Format::Ndjson)];

/// Maximum number of files in one JSON response, which is built in memory; NDJSON has no such limit.
const MAX_FILES: usize = 1000;

/// Classifies one radiograph (`PredictionResponse`) or several (`PredictionBatch`). The images are not stored.
///
/// With several files, each has its prediction or its problem, in order; the status is 200 if the form could be read. With
/// `Accept: application/x-ndjson` each result is one line (`BatchItem`), sent as soon as it is finished, in any order, with the index of
/// its file; a form that cannot be read to its end adds a last line with a problem and no index. A JSON response holds at most 1,000
/// files. Files are read while others are classified; a client that disconnects stops both.
///
/// The first bytes of an image tell its format, so that its media type does not matter: `application/octet-stream`, other image types, no
/// type and curl's default type are accepted, too.
#[utoipa::path(post, path = "/v1/predictions", tag = "predictions", params(PredictionParams),
    request_body(content(
        (PredictionForm = "multipart/form-data"),
        (Binary = "image/png"),
        (Binary = "image/jpeg"),
        (Binary = "application/dicom"),
        (Binary = "application/octet-stream")
    )),
    responses(
        (status = 200, description = "One prediction, or one item per file", content((Predicted = "application/json"), (BatchItem = "application/x-ndjson"))),
        Malformed,
        NotFound,
        NotAcceptable,
        Conflict,
        TooLarge,
        UnsupportedType,
        Invalid,
        Busy,
        Unavailable
    ))]
async fn create_prediction(
    State(predictor): State<Predictor>,
    State(lifecycle): State<Lifecycle>,
    QueryOf(params): QueryOf<PredictionParams>,
    request: Request,
) -> Result<Response, ApiError> {
    let format = negotiate(request.headers(), &FORMATS)?;
    // Before anything of the body is read, so that refused requests hold no images; and no permit before the client sends, so that clients
    // that send nothing hold none.
    predictor.engine().check_capacity()?;
    let selection = predictor.select(params.model.as_deref(), params.explain).await?;
    let receipt = Receipt::of(&request)?;
    let request = Receipt::begin(request).await?;
    let permit = predictor.engine().admit()?;
    let files = files_of(request, &receipt, predictor.limits).await?;
    let predictions = PredictionStream::new(predictor, selection, permit, receipt.slow, files);
    match format {
        Format::Json => all(predictions).await.map(|response| Json(response).into_response()),
        Format::Ndjson => lines::respond(&lifecycle.tasks, receipt.transfers.limits.read_pause, predictions).await,
    }
}

/// The images of a form, or the body as one image.
async fn files_of(
    request: Request,
    receipt: &Receipt,
    limits: Limits,
) -> Result<BoxStream<'static, Result<File, ApiError>>, ApiError> {
    if body::media_type(request.headers()) == "multipart/form-data" {
        return Ok(files::of_form(Form::from_request(request, &()).await?));
    }
    body::check_media_type(request.headers())?;
    let receipt = receipt.clone();
    let received = async move { receipt.receive(request, limits.max_upload_bytes).await };
    let file = |received| File { name: None, content: FileContent::Body(received) };
    Ok(stream::once(received.map_ok(file)).boxed())
}

/// All predictions in one response. A request with one image succeeds or fails as its image does.
async fn all(mut predictions: PredictionStream) -> Result<Predicted, ApiError> {
    let mut results = Vec::new();
    while let Some(next) = predictions.next().await {
        results.push(next?);
        if results.len() > MAX_FILES {
            let detail = format!("a JSON response holds at most {MAX_FILES} files: send fewer, or Accept: {NDJSON}");
            return Err(ApiError::invalid("/file", detail));
        }
    }
    results.sort_by_key(|result| result.index);
    match results.len() {
        0 => Err(no_file()),
        1 => results.remove(0).outcome.map(|prediction| Predicted::One(Box::new(PredictionResponse::from(prediction)))),
        _ => Ok(Predicted::Many(PredictionBatch { items: results.into_iter().map(BatchItem::from).collect() })),
    }
}

fn no_file() -> ApiError {
    ApiError::invalid("/file", "send at least one file")
}

/// Lists recorded predictions, oldest first.
#[utoipa::path(get, path = "/v1/predictions", tag = "predictions", params(ListParams<PredictionId>), responses(
    (status = 200, description = "A page", body = List<RecordedPrediction>),
    Malformed
))]
async fn list_predictions(
    State(models): State<Models>,
    QueryOf(params): QueryOf<ListParams<PredictionId>>,
) -> Result<Json<List<RecordedPrediction>>, ApiError> {
    let page = params.page()?;
    models.serving.log.flush().await;
    let recorded = store::predictions::list(&models.stores.db, &page).await?;
    let recorded = recorded.into_iter().map(RecordedPrediction::from).collect();
    Ok(Json(List::of(recorded, &page, RecordedPrediction::cursor)))
}

/// Returns a recorded prediction.
#[utoipa::path(get, path = "/v1/predictions/{id}", tag = "predictions", params(("id" = PredictionId, Path)), responses(
    (status = 200, description = "The prediction", body = RecordedPrediction),
    NotFound
))]
async fn get_prediction(
    State(models): State<Models>,
    PathOf(id): PathOf<PredictionId>,
) -> Result<Json<RecordedPrediction>, ApiError> {
    find(&models, id).await.map(|prediction| Json(prediction.into()))
}

async fn find(models: &Models, id: PredictionId) -> Result<Prediction, ApiError> {
    models.serving.log.flush().await;
    store::predictions::get(&models.stores.db, id).await?.ok_or(ApiError::NotFound("prediction"))
}

/// Returns the heat map over the radiograph, as PNG of at most 512 pixels a side.
///
/// Only the latest 128 predictions with `explain=true` have an overlay, while the server runs: a small copy of the image is held in memory.
/// For all others this is 404. Tinted regions influenced the score of the predicted class; they do not locate disease.
#[utoipa::path(get, path = "/v1/predictions/{id}/heatmap", tag = "predictions", params(("id" = PredictionId, Path)), responses(
    (status = 200, description = "The overlay", content((Binary = "image/png"))),
    NotFound
))]
async fn get_prediction_heatmap(
    State(models): State<Models>,
    PathOf(id): PathOf<PredictionId>,
) -> Result<Response, ApiError> {
    let gone = ApiError::NotFound(
        "heat map: only the latest 128 predictions with explain=true have one, while the server runs",
    );
    let explained = models.serving.heatmaps.get(id).ok_or(gone)?;
    let png = tokio::task::spawn_blocking(move || explained.png()).await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "private, no-store")], png).into_response())
}
