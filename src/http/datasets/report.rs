//! `/v1/datasets/{id}/report`: the truth about a data set.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use crate::{
    domain::DatasetId,
    evaluation::DatasetReport,
    http::{
        ApiError, AppState,
        accept::negotiate,
        answer::{NotAcceptable, NotFound},
        extract::PathOf,
    },
    imaging,
    service::report,
};

/// How a report is answered.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Markdown,
}

const FORMS: [(&str, Form); 2] = [("application/json", Form::Json), ("text/markdown", Form::Markdown)];

/// Reports on a data set: patients and pictures in several splits, what besides disease tells its classes apart and how well it predicts
/// them, what is wrong with its labels, and what a score on it can mean. Made when it is first asked for after a change, which takes
/// about a minute for 16,000 images, and kept.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/report", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses(
        (status = 200, description = "The report; as Markdown for people", content(
            (DatasetReport = "application/json"), (String = "text/markdown")
        )),
        NotFound,
        NotAcceptable
    )
)]
pub async fn get_dataset_report(
    State(state): State<AppState>,
    headers: HeaderMap,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Response, ApiError> {
    let form = negotiate(&headers, &FORMS)?;
    let dataset = super::find(&state, id).await?;
    let AppState { db, blobs, caches, limits, .. } = state;
    let limits = imaging::Limits { max_pixels: limits.max_pixels };
    // A task of its own: it goes on and is kept when the client does not wait.
    let made = tokio::spawn(async move { report(&db, &blobs, &caches, &dataset, limits).await });
    let report = made.await.map_err(ApiError::internal)??;
    // A cache that keeps one form must not give it to who asks for another.
    let vary = (header::VARY, "accept");
    Ok(match form {
        Form::Json => ([vary], Json(report)).into_response(),
        Form::Markdown => {
            ([vary, (header::CONTENT_TYPE, "text/markdown; charset=utf-8")], report.to_markdown()).into_response()
        }
    })
}
