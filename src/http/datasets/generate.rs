//! `/v1/datasets/{id}/generate`: generation of a COVIDx-like data set from its original sources.

use axum::{extract::State, response::IntoResponse};

use crate::{
    dataset::Rules,
    domain::DatasetId,
    http::{
        ApiError,
        extract::{JsonBody, PathOf},
        responses::{self, Forbidden, Invalid, Malformed, NotFound},
    },
    service::{self, Fields, ImportSpec, Imports, JsonObject, NewGeneration, into_result},
    store::Import,
};

/// Generates a COVIDx-like data set from its original sources, in the background, as an import: `Location` names it. Its `passed_over`
/// counts the images that the rules exclude; rows without an image are among its rejections.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/generate", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewGeneration,
    responses((status = 202, description = "Started", body = Import), Malformed, Forbidden, NotFound, Invalid)
)]
pub async fn generate_dataset(
    State(imports): State<Imports>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let dataset = service::find_dataset(&imports.stores, id).await?;
    let new = read(body)?;
    let import = imports.start(dataset, ImportSpec::Sources(Box::new(new))).await?;
    Ok(responses::accepted(format!("/v1/imports/{}", import.id), import))
}

fn read(body: JsonObject) -> Result<NewGeneration, ApiError> {
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let new = NewGeneration {
        cohen: fields.optional("cohen"),
        fig1: fields.optional("fig1"),
        actmed: fields.optional("actmed"),
        radiography: fields.optional("radiography"),
        rsna: fields.optional("rsna"),
        rules: fields.optional::<JsonObject>("rules").and_then(|sections| {
            let rules = Rules::with(sections);
            let detail = rules.as_ref().err().map(ToString::to_string).unwrap_or_default();
            fields.check(rules.is_ok(), "rules", &detail);
            rules.ok()
        }),
        train_labels: fields.optional("train_labels"),
        test_labels: fields.optional("test_labels"),
    };
    fields.finish();
    Ok(into_result(Some(new), errors)?)
}
