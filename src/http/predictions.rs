//! `/v1/predictions`: classifies radiographs.

mod answer;
mod classify;
mod form;

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{Busy, Conflict, Invalid, Malformed, NotFound, TooLarge, Unavailable, UnsupportedType},
    body,
    extract::{Form, List, ListParams, PathOf, QueryOf},
};
use crate::{domain::PredictionId, store};
use answer::{Predicted, RecordedPrediction};
use classify::Wanted;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_predictions, create_prediction))
        .routes(routes!(get_prediction))
        .routes(routes!(get_prediction_heatmap))
}

/// Who shall answer, and how.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PredictionParams {
    /// Identifier or alias of a model; the one that serves when absent. Another than that one is 409.
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

/// Classifies one radiograph (`PredictionAnswer`) or several (`PredictionBatch`). The images are not kept.
#[utoipa::path(post, path = "/v1/predictions", tag = "predictions", params(PredictionParams),
    request_body(content(
        (PredictionForm = "multipart/form-data"),
        (Vec<u8> = "image/png"),
        (Vec<u8> = "image/jpeg"),
        (Vec<u8> = "application/dicom")
    )),
    responses(
        (status = 200, body = Predicted),
        NotFound,
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
) -> Result<Json<Predicted>, ApiError> {
    // Before the body is read, so that waiting requests hold no images.
    let _place = state.engine.admit()?;
    let wanted = Wanted::find(&state, params.model.as_deref(), params.explain).await?;
    match body::media_type(request.headers()).as_str() {
        "multipart/form-data" => {
            let form = Form::from_request(request, &state).await?;
            form::classify_all(&state, &wanted, form).await.map(Json)
        }
        "image/png" | "image/jpeg" | "application/dicom" => {
            let bytes = body::read(request.into_body(), state.limits.max_upload_bytes).await?;
            let answer = classify::classify(&state, &wanted, bytes).await?;
            Ok(Json(Predicted::One(Box::new(answer))))
        }
        other => Err(ApiError::UnsupportedType(format!(
            "send image/png, image/jpeg, application/dicom or multipart/form-data with `file`, not {other:?}"
        ))),
    }
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
    let recorded = store::predictions::get(&state.db, id).await?;
    recorded.map(|prediction| Json(prediction.into())).ok_or(ApiError::NotFound("prediction"))
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
