//! `/v1/predictions`: classifies radiographs.

mod answer;
mod classify;
mod feedback;
mod files;
mod lines;

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
    answer::{Busy, Conflict, Invalid, Malformed, NotAcceptable, NotFound, TooLarge, Unavailable, UnsupportedType},
    body,
    extract::{Form, List, ListParams, PathOf, QueryOf},
};
use crate::{
    domain::PredictionId,
    store::{self, Prediction},
};
use answer::{BatchItem, Predicted, PredictionBatch, RecordedPrediction};
use lines::NDJSON;
pub(super) use {
    answer::{PredictionAnswer, named},
    classify::{Content, Wanted, find_model, load_beside, look},
    files::{File, Files},
};

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_predictions, create_prediction))
        .routes(routes!(get_prediction))
        .routes(routes!(get_prediction_heatmap))
        .routes(routes!(feedback::put_feedback))
}

/// Who shall answer, and how.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PredictionParams {
    /// Identifier or alias of a model; the one that serves when absent. One that is not loaded is loaded first, which takes a second or two.
    #[param(example = "champion")]
    model: Option<String>,
    /// Whether each answer also says what in the image moved the score (`heatmap`).
    #[serde(default)]
    #[param(default = false)]
    explain: bool,
}

/// One or more radiographs.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; read field by field")]
struct PredictionForm {
    /// PNG, JPEG or DICOM; may be repeated.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
}

/// In which form answers come.
#[derive(Clone, Copy)]
enum Wire {
    Json,
    Lines,
}

const WIRES: [(&str, Wire); 2] = [("application/json", Wire::Json), (NDJSON, Wire::Lines)];

/// Answers about more files take more memory than one answer may; lines do not.
const MOST_IN_ONE_ANSWER: usize = 1000;

/// Classifies one radiograph (`PredictionAnswer`) or several (`PredictionBatch`). The images are not kept.
///
/// Of several files each has its answer or its problem, in their order; the status is 200 as soon as the form could be read. With
/// `Accept: application/x-ndjson` each answer is a line of its own (`BatchItem`), as soon as it is there, in whatever order, with the
/// file's index; a form that goes wrong on the way ends with a line that has a problem and no index. JSON has room for 1,000 files.
/// Files are read as they can be classified; a client that hangs up stops both.
#[utoipa::path(post, path = "/v1/predictions", tag = "predictions", params(PredictionParams),
    request_body(content(
        (PredictionForm = "multipart/form-data"),
        (Vec<u8> = "image/png"),
        (Vec<u8> = "image/jpeg"),
        (Vec<u8> = "application/dicom")
    )),
    responses(
        (status = 200, content((Predicted = "application/json"), (BatchItem = "application/x-ndjson"))),
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
    State(state): State<AppState>,
    QueryOf(params): QueryOf<PredictionParams>,
    request: Request,
) -> Result<Response, ApiError> {
    let wire = negotiate(request.headers(), &WIRES)?;
    // Before the body is read, so that waiting requests hold no images.
    let place = state.engine.admit()?;
    let wanted = Wanted::find(&state, params.model.as_deref(), params.explain).await?;
    let incoming = incoming(&state, request).await?;
    let files = Files::new(state.clone(), wanted, place, incoming);
    match wire {
        Wire::Json => all(files).await.map(|answer| Json(answer).into_response()),
        Wire::Lines => lines::answer(&state, files).await,
    }
}

/// The images of a form, or of a body that is one.
async fn incoming(state: &AppState, request: Request) -> Result<BoxStream<'static, Result<File, ApiError>>, ApiError> {
    match body::media_type(request.headers()).as_str() {
        "multipart/form-data" => Ok(files::of_form(Form::from_request(request, state).await?)),
        "image/png" | "image/jpeg" | "application/dicom" => {
            let limit = state.limits.max_upload_bytes;
            let read = async move { body::read(request.into_body(), limit).await };
            Ok(stream::once(read.map_ok(|bytes| File { name: None, content: Content::Encoded(bytes) })).boxed())
        }
        other => Err(ApiError::UnsupportedType(format!(
            "send image/png, image/jpeg, application/dicom or multipart/form-data with `file`, not {other:?}"
        ))),
    }
}

/// All answers at once. A request with one image answers (or fails) as that does.
async fn all(mut files: Files) -> Result<Predicted, ApiError> {
    let mut answered = Vec::new();
    while let Some(next) = files.next().await {
        answered.push(next?);
        if answered.len() > MOST_IN_ONE_ANSWER {
            let how = format!("one answer has room for {MOST_IN_ONE_ANSWER}: send fewer, or Accept: {NDJSON}");
            return Err(ApiError::invalid("/file", how));
        }
    }
    answered.sort_by_key(|answered| answered.index);
    match answered.len() {
        0 => Err(no_file()),
        1 => answered.remove(0).outcome.map(|answer| Predicted::One(Box::new(answer))),
        _ => Ok(Predicted::Many(PredictionBatch { items: answered.into_iter().map(BatchItem::from).collect() })),
    }
}

fn no_file() -> ApiError {
    ApiError::invalid("/file", "send at least one file")
}

/// Recorded predictions in order of creation.
#[utoipa::path(get, path = "/v1/predictions", tag = "predictions", params(ListParams), responses(
    (status = 200, body = List<RecordedPrediction>),
    Malformed
))]
async fn list_predictions(
    State(state): State<AppState>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<RecordedPrediction>>, ApiError> {
    let page = params.page()?;
    state.predictions.flush().await;
    let recorded = store::predictions::list(&state.db, &page).await?;
    let recorded = recorded.into_iter().map(RecordedPrediction::from).collect();
    Ok(Json(List::of(recorded, &page, RecordedPrediction::cursor)))
}

/// One recorded prediction.
#[utoipa::path(get, path = "/v1/predictions/{id}", tag = "predictions", params(("id" = PredictionId, Path)), responses(
    (status = 200, body = RecordedPrediction),
    NotFound
))]
async fn get_prediction(
    State(state): State<AppState>,
    PathOf(id): PathOf<PredictionId>,
) -> Result<Json<RecordedPrediction>, ApiError> {
    find(&state, id).await.map(|prediction| Json(prediction.into()))
}

async fn find(state: &AppState, id: PredictionId) -> Result<Prediction, ApiError> {
    state.predictions.flush().await;
    store::predictions::get(&state.db, id).await?.ok_or(ApiError::NotFound("prediction"))
}

/// The radiograph with what moved the score laid over it, at most 512 pixels long.
///
/// Images are not kept, but for this: the last 128 predictions that were asked for with `explain=true` keep a small copy in memory until
/// newer ones push them out or the server ends; after that, and for all others, this is 404. What is tinted moved the score of the class
/// that was predicted; it is not where the disease is.
#[utoipa::path(get, path = "/v1/predictions/{id}/heatmap", tag = "predictions", params(("id" = PredictionId, Path)), responses(
    (status = 200, description = "The overlay", content((Vec<u8> = "image/png"))),
    NotFound
))]
async fn get_prediction_heatmap(
    State(state): State<AppState>,
    PathOf(id): PathOf<PredictionId>,
) -> Result<Response, ApiError> {
    let gone = ApiError::NotFound(
        "heat map (any more): the last 128 predictions with explain=true have one, while the server runs",
    );
    let explained = state.heatmaps.get(id).ok_or(gone)?;
    let png = tokio::task::spawn_blocking(move || explained.png()).await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "private, no-store")], png).into_response())
}
