//! `/v1/datasets/{id}/distribution`: images and patients by split and class, for people.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use crate::{
    dataset::{self, DistributionTable},
    domain::DatasetId,
    http::{
        ApiError, AppState,
        accept::negotiate,
        answer::{NotAcceptable, NotFound},
        extract::PathOf,
    },
};

type Form = (&'static str, fn(&DistributionTable) -> String);

const FORMS: [(&str, Form); 2] = [
    ("text/markdown", ("text/markdown; charset=utf-8", DistributionTable::to_markdown)),
    ("text/plain", ("text/plain; charset=utf-8", DistributionTable::to_text)),
];

/// Counts images and unique patients by split and class, with totals, in two tables. The same numbers without totals are in
/// `GET /v1/datasets/{id}` as JSON.
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
    State(state): State<AppState>,
    headers: HeaderMap,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Response, ApiError> {
    let (media_type, write) = negotiate(&headers, &FORMS)?;
    let dataset = super::find(&state, id).await?;
    let table = dataset::distribution(&state.db, &dataset).await?;
    // A cache that keeps one form must not give it to who asks for another.
    Ok(([(header::VARY, "accept"), (header::CONTENT_TYPE, media_type)], write(&table)).into_response())
}
