//! `/v1/training-runs/compare`: runs side by side, as JSON or as the table of a report.

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
        ApiError, AppState,
        accept::negotiate,
        answer::{Invalid, NotAcceptable},
        extract::QueryOf,
    },
    service::{self, FieldError, MAX_COMPARED_RUNS, into_result},
};

/// Read one by one, so that one answer names all that is wrong.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CompareParams {
    /// 2 to 20 runs, separated by commas; the first is what the others are tested against.
    #[param(required = true)]
    ids: Option<String>,
    /// Where the scores come from.
    #[param(value_type = Option<Split>, default = "test")]
    split: Option<String>,
    /// Compares the models of this stage, from 1; without it each run's last one.
    #[param(value_type = Option<u32>, minimum = 1)]
    stage: Option<String>,
}

/// How a comparison is answered.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Markdown,
    Csv,
}

const FORMS: [(&str, Form); 3] =
    [("application/json", Form::Json), ("text/markdown", Form::Markdown), ("text/csv", Form::Csv)];

/// Compares runs: their plans' differences, scores, curves and costs, and a paired test of each model against the first run's on
/// the images that both were evaluated on. A run that has no such model yet is shown with nulls.
#[utoipa::path(
    get, path = "/v1/training-runs/compare", tag = "training",
    params(CompareParams),
    responses(
        (status = 200, description = "In the order of `ids`; as Markdown and CSV the table of a report", content(
            (Comparison = "application/json"), (String = "text/markdown"), (String = "text/csv")
        )),
        NotAcceptable,
        Invalid
    )
)]
pub async fn compare_training_runs(
    State(state): State<AppState>,
    headers: HeaderMap,
    QueryOf(params): QueryOf<CompareParams>,
) -> Result<Response, ApiError> {
    let form = negotiate(&headers, &FORMS)?;
    let CompareQuery { ids, split, stage } = params.read()?;
    Ok(answer(form, service::compare(&state.db, &state.blobs, &ids, split, stage).await?))
}

struct CompareQuery {
    ids: Vec<RunId>,
    split: Split,
    stage: Option<u32>,
}

impl CompareParams {
    fn read(self) -> Result<CompareQuery, ApiError> {
        let mut errors = Vec::new();
        let mut refuse = |pointer: String, detail: String| errors.push(FieldError { pointer, detail });
        let ids = read_ids(&self.ids.unwrap_or_default(), &mut refuse);
        let split = self.split.map_or(Ok(Split::Test), |split| split.parse());
        let split = split.map_err(|error| refuse("/split".into(), error.to_string())).ok();
        let stage = self.stage.map(|stage| stage.parse().ok().filter(|stage| *stage > 0));
        if stage == Some(None) {
            refuse("/stage".into(), "must be a stage's number, from 1".into());
        }
        Ok(into_result(split.map(|split| CompareQuery { ids, split, stage: stage.flatten() }), errors)?)
    }
}

fn read_ids(text: &str, refuse: &mut impl FnMut(String, String)) -> Vec<RunId> {
    let named: Vec<&str> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    if !(2..=MAX_COMPARED_RUNS).contains(&named.len()) {
        refuse("/ids".into(), format!("must name 2 to {MAX_COMPARED_RUNS} runs, separated by commas"));
    }
    let mut ids = Vec::new();
    for (place, id) in named.into_iter().enumerate() {
        match id.parse() {
            Ok(id) if ids.contains(&id) => refuse(format!("/ids/{place}"), "is named twice".into()),
            Ok(id) => ids.push(id),
            Err(error) => refuse(format!("/ids/{place}"), format!("is {error}")),
        }
    }
    ids
}

fn answer(form: Form, comparison: Comparison) -> Response {
    // A cache that keeps one form must not give it to who asks for another.
    let vary = (header::VARY, "accept");
    let text = |media_type, text: String| ([vary.clone(), (header::CONTENT_TYPE, media_type)], text).into_response();
    match form {
        Form::Json => ([vary], Json(comparison)).into_response(),
        Form::Markdown => text("text/markdown; charset=utf-8", comparison.to_markdown()),
        Form::Csv => text("text/csv; charset=utf-8", comparison.to_csv()),
    }
}
