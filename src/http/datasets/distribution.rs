//! `/v1/datasets/{id}/distribution`: tables of images and patients by split and class.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use crate::{
    dataset::{self, DistributionTable},
    domain::DatasetId,
    http::{
        ApiError,
        accept::negotiate,
        extract::PathOf,
        responses::{NotAcceptable, NotFound},
    },
    service,
    store::Stores,
};

type Format = (&'static str, fn(&DistributionTable) -> String);

const FORMATS: [(&str, Format); 2] = [
    ("text/markdown", ("text/markdown; charset=utf-8", DistributionTable::to_markdown)),
    ("text/plain", ("text/plain; charset=utf-8", DistributionTable::to_text)),
];

/// Returns two tables with totals: images and unique patients by split and class. `GET /v1/datasets/{id}` has the numbers as JSON,
/// without totals.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/distribution", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses(
        (status = 200, description = "The tables", content((String = "text/markdown"), (String = "text/plain"))),
        NotFound,
        NotAcceptable
    )
)]
pub async fn get_dataset_distribution(
    State(stores): State<Stores>,
    headers: HeaderMap,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Response, ApiError> {
    let (media_type, write) = negotiate(&headers, &FORMATS)?;
    let dataset = service::find_dataset(&stores, id).await?;
    let table = dataset::distribution(&stores.db, &dataset).await?;
    // A cache must not serve one format to a client that accepts another.
    Ok(([(header::VARY, "accept"), (header::CONTENT_TYPE, media_type)], write(&table)).into_response())
}
