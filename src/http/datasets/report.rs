//! `/v1/datasets/{id}/report`: the audit of a data set.

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
        ApiError,
        accept::negotiate,
        extract::PathOf,
        responses::{NotAcceptable, NotFound},
    },
    service::{self, Limits},
    store::Stores,
};

/// Format of the report.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Markdown,
}

const FORMATS: [(&str, Format); 2] = [("application/json", Format::Json), ("text/markdown", Format::Markdown)];

/// Audits a data set: patients and duplicate images in more than one split, confounders and how well they predict the classes, label
/// problems, and what a score on the data set can mean. The report is computed on the first request after a change, which takes about a
/// minute for 16,000 images, and cached.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/report", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses(
        (status = 200, description = "The report, as JSON or Markdown", content(
            (DatasetReport = "application/json"), (String = "text/markdown")
        )),
        NotFound,
        NotAcceptable
    )
)]
pub async fn get_dataset_report(
    State(stores): State<Stores>,
    State(limits): State<Limits>,
    headers: HeaderMap,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Response, ApiError> {
    let format = negotiate(&headers, &FORMATS)?;
    let dataset = service::find_dataset(&stores, id).await?;
    // A task of its own, so that the report is completed and cached even if the client disconnects.
    let made = tokio::spawn(async move { service::report(&stores, &dataset, limits.image()).await });
    let report = made.await.map_err(ApiError::internal)??;
    // A cache must not serve one format to a client that accepts another.
    let vary = (header::VARY, "accept");
    Ok(match format {
        Format::Json => ([vary], Json(report)).into_response(),
        Format::Markdown => {
            ([vary, (header::CONTENT_TYPE, "text/markdown; charset=utf-8")], report.to_markdown()).into_response()
        }
    })
}
