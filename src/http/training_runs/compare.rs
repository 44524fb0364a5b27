//! `/v1/training-runs/compare`: comparison of training runs, as JSON, Markdown or CSV.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    domain::{RunId, Split},
    evaluation::Comparison,
    http::{
        ApiError,
        accept::negotiate,
        extract::QueryOf,
        responses::{Invalid, NotAcceptable},
    },
    service::{self, FieldError, MAX_COMPARED_RUNS, into_result},
    store::Stores,
};

/// Parsed one by one, so that one response names every wrong parameter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CompareParams {
    /// 2 to 20 runs, separated by commas; the first is the reference of the paired tests.
    #[param(
        required = true,
        pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(,[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}){1,19}$"
    )]
    ids: Option<String>,
    /// Split of the scores.
    #[param(value_type = Option<Split>, default = "test")]
    split: Option<String>,
    /// Stage of the compared models, from 1; the last stage of each run when absent.
    #[param(value_type = Option<u32>, minimum = 1)]
    stage: Option<String>,
}

/// Format of a comparison.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Markdown,
    Csv,
}

const FORMATS: [(&str, Format); 3] =
    [("application/json", Format::Json), ("text/markdown", Format::Markdown), ("text/csv", Format::Csv)];

/// Compares runs: differences between their plans, scores, learning curves and costs, and a paired test of each model against the first
/// run's on the images that both were evaluated on. A run without such a model has nulls.
#[utoipa::path(
    get, path = "/v1/training-runs/compare", tag = "training",
    params(CompareParams),
    responses(
        (status = 200, description = "In the order of `ids`; Markdown and CSV have the table only", content(
            (Comparison = "application/json"), (String = "text/markdown"), (String = "text/csv")
        )),
        NotAcceptable,
        Invalid
    )
)]
pub async fn compare_training_runs(
    State(stores): State<Stores>,
    headers: HeaderMap,
    QueryOf(params): QueryOf<CompareParams>,
) -> Result<Response, ApiError> {
    let format = negotiate(&headers, &FORMATS)?;
    let CompareQuery { ids, split, stage } = params.read()?;
    Ok(respond(format, service::compare(&stores, &ids, split, stage).await?))
}

struct CompareQuery {
    ids: Vec<RunId>,
    split: Split,
    stage: Option<u32>,
}

impl CompareParams {
    fn read(self) -> Result<CompareQuery, ApiError> {
        let mut errors = Vec::new();
        let mut refuse = |pointer: String, detail: String| errors.push(FieldError::new(pointer, detail));
        let ids = read_ids(&self.ids.unwrap_or_default(), &mut refuse);
        let split = self.split.map_or(Ok(Split::Test), |split| split.parse());
        let split = split.map_err(|error| refuse("/split".into(), error.to_string())).ok();
        let stage = self.stage.map(|stage| stage.parse().ok().filter(|stage| *stage > 0));
        if stage == Some(None) {
            refuse("/stage".into(), "must be the number of a stage, from 1".into());
        }
        Ok(into_result(split.map(|split| CompareQuery { ids, split, stage: stage.flatten() }), errors)?)
    }
}

fn read_ids(text: &str, refuse: &mut impl FnMut(String, String)) -> Vec<RunId> {
    let listed: Vec<&str> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if !(2..=MAX_COMPARED_RUNS).contains(&listed.len()) {
        refuse("/ids".into(), format!("must list 2 to {MAX_COMPARED_RUNS} runs, separated by commas"));
    }
    let mut ids = Vec::new();
    for (position, id) in listed.into_iter().enumerate() {
        match id.parse() {
            Ok(id) if ids.contains(&id) => refuse(format!("/ids/{position}"), "is listed twice".into()),
            Ok(id) => ids.push(id),
            Err(error) => refuse(format!("/ids/{position}"), format!("is {error}")),
        }
    }
    ids
}

fn respond(format: Format, comparison: Comparison) -> Response {
    // A cache must not serve one format to a client that accepts another.
    let vary = (header::VARY, "accept");
    let text = |media_type, text: String| ([vary.clone(), (header::CONTENT_TYPE, media_type)], text).into_response();
    match format {
        Format::Json => ([vary], Json(comparison)).into_response(),
        Format::Markdown => text("text/markdown; charset=utf-8", comparison.to_markdown()),
        Format::Csv => text("text/csv; charset=utf-8", comparison.to_csv()),
    }
}
