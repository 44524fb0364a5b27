//! `/v1/datasets`: data sets, their distribution, their splits and what is exported of them.

mod distribution;
mod exports;
mod generate;
mod report;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{self, Conflict, Invalid, Malformed, NotFound},
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
};
use crate::{
    dataset::{self, Fractions},
    domain::{ClassList, DatasetId, QualityFlag, Split},
    service::{Fields, JsonObject, into_result},
    store::{self, Dataset, Distribution},
};

pub(super) use generate::NewGeneration;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create_dataset, list_datasets))
        .routes(routes!(get_dataset, delete_dataset))
        .routes(routes!(split_dataset))
        .routes(routes!(distribution::get_dataset_distribution))
        .routes(routes!(exports::get_dataset_export))
        .routes(routes!(generate::generate_dataset))
        .routes(routes!(report::get_dataset_report))
}

/// A data set to be made.
#[derive(Debug, ToSchema)]
pub struct NewDataset {
    /// Unique, 1 to 200 characters.
    pub name: String,
    /// Output order of the networks; `normal`, `pneumonia`, `COVID-19` when absent.
    pub classes: Option<ClassList>,
    /// Free text, up to 10000 characters.
    pub description: Option<String>,
    /// Flags with which a radiograph is refused (422) instead of kept; none when absent.
    pub refuse: Option<Vec<QualityFlag>>,
}

/// How to split a data set.
#[derive(Debug, ToSchema)]
pub struct NewSplit {
    /// Share of each class's images in `test`.
    #[schema(default = 0.1, minimum = 0.0, exclusive_maximum = 1.0)]
    pub test_fraction: f64,
    /// Share of each class's other images in `validation`.
    #[schema(default = 0.0, minimum = 0.0, exclusive_maximum = 1.0)]
    pub validation_fraction: f64,
    /// Which patients are drawn.
    #[schema(default = 0)]
    pub seed: u32,
}

/// A data set with what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetDetail {
    #[serde(flatten)]
    dataset: Dataset,
    /// Images and unique patients by split and class.
    distribution: Distribution,
    /// SHA-256 over image hashes, labels and splits.
    fingerprint: String,
    leakage: Leakage,
}

/// Patients whose radiographs stand in more than one split.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leakage {
    patients_in_several_splits: Vec<SharedPatient>,
    /// What that means for the scores.
    note: String,
}

/// A patient in more than one split.
#[derive(Debug, Serialize, ToSchema)]
pub struct SharedPatient {
    patient_id: String,
    splits: Vec<Split>,
}

/// Makes a data set.
#[utoipa::path(
    post, path = "/v1/datasets", tag = "datasets",
    request_body = NewDataset,
    responses((status = 201, description = "Made", body = Dataset), Malformed, Conflict, Invalid)
)]
async fn create_dataset(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let NewDataset { name, classes, description, refuse } = NewDataset::read(body)?;
    let dataset = Dataset {
        description,
        classes: classes.unwrap_or_default(),
        refuse: refuse.unwrap_or_default(),
        ..Dataset::new(name)
    };
    store::datasets::create(&state.db, &dataset).await?;
    Ok(answer::created(format!("/v1/datasets/{}", dataset.id), dataset))
}

/// Lists data sets, oldest first.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets",
    params(ListParams),
    responses((status = 200, description = "A page", body = List<Dataset>), Malformed)
)]
async fn list_datasets(
    State(state): State<AppState>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<Dataset>>, ApiError> {
    let page = params.page()?;
    let datasets = store::datasets::list(&state.db, &page).await?;
    Ok(Json(List::of(datasets, &page, |dataset| dataset.id.to_string())))
}

/// Shows a data set with its distribution and its patients in several splits.
#[utoipa::path(
    get, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses((status = 200, description = "The data set", body = DatasetDetail), NotFound)
)]
async fn get_dataset(
    State(state): State<AppState>,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Json<DatasetDetail>, ApiError> {
    let dataset = find(&state, id).await?;
    Ok(Json(detail(&state, dataset).await?))
}

/// Removes a data set with its radiographs and those images that no other data set holds. The numbers of runs on it stay.
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses((status = 204, description = "Removed"), NotFound, Conflict)
)]
async fn delete_dataset(State(state): State<AppState>, PathOf(id): PathOf<DatasetId>) -> Result<StatusCode, ApiError> {
    refuse_while_trained_on(&state, id).await?;
    if !store::datasets::delete(&state.db, id).await? {
        return Err(ApiError::NotFound("data set"));
    }
    state.caches.remove(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Assigns every radiograph to a split: by patient, stratified by class, the same for the same seed.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/split", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewSplit,
    responses(
        (status = 200, description = "The data set as it is split now", body = DatasetDetail),
        Malformed, NotFound, Conflict, Invalid
    )
)]
async fn split_dataset(
    State(state): State<AppState>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<DatasetDetail>, ApiError> {
    let dataset = find(&state, id).await?;
    let NewSplit { test_fraction, validation_fraction, seed } = NewSplit::read(body)?;
    let fractions = Fractions { test: test_fraction, validation: validation_fraction };
    dataset::split(&state.db, id, fractions, seed.into()).await?;
    Ok(Json(detail(&state, dataset).await?))
}

/// The data set, or 404.
pub(super) async fn find(state: &AppState, id: DatasetId) -> Result<Dataset, ApiError> {
    store::datasets::get(&state.db, id).await?.ok_or(ApiError::NotFound("data set"))
}

/// 409 while a run on the data set is not final: it reads the images as it trains.
pub(super) async fn refuse_while_trained_on(state: &AppState, id: DatasetId) -> Result<(), ApiError> {
    match store::runs::count_active(&state.db, id).await? {
        0 => Ok(()),
        n => Err(ApiError::Conflict(format!("{n} training runs on this data set are not finished: cancel them first"))),
    }
}

async fn detail(state: &AppState, dataset: Dataset) -> Result<DatasetDetail, ApiError> {
    let distribution = store::datasets::distribution(&state.db, dataset.id).await?;
    let fingerprint = store::datasets::fingerprint(&state.db, dataset.id).await?;
    let shared = store::datasets::patients_in_several_splits(&state.db, dataset.id).await?;
    Ok(DatasetDetail { dataset, distribution, fingerprint, leakage: Leakage::of(shared) })
}

impl Leakage {
    fn of(shared: Vec<(String, Vec<Split>)>) -> Self {
        let found = match shared.len() {
            0 => "No known patient is in two splits.".into(),
            n => format!(
                "{n} patients are in more than one split, so scores are optimistic: POST /v1/datasets/{{id}}/split \
                 assigns splits by patient."
            ),
        };
        let note = format!("{found} Radiographs without a patient id cannot be checked.");
        let of = |(patient_id, splits)| SharedPatient { patient_id, splits };
        Self { patients_in_several_splits: shared.into_iter().map(of).collect(), note }
    }
}

impl NewDataset {
    fn read(body: JsonObject) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut fields = Fields::new("", body, &mut errors);
        let name = fields.required_text("name", 200);
        let classes = fields.optional("classes");
        let description = fields.optional_text("description", 10_000);
        let refuse = fields.optional("refuse");
        fields.finish();
        Ok(into_result(name.map(|name| Self { name, classes, description, refuse }), errors)?)
    }
}

impl NewSplit {
    fn read(body: JsonObject) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut fields = Fields::new("", body, &mut errors);
        let mut fraction = |name: &str, default: f64| {
            let fraction = fields.optional(name).unwrap_or(default);
            fields.check((0.0..1.0).contains(&fraction), name, "must be at least 0 and below 1");
            fraction
        };
        let test_fraction = fraction("test_fraction", 0.1);
        let validation_fraction = fraction("validation_fraction", 0.0);
        let seed = fields.optional("seed").unwrap_or(0);
        fields.finish();
        Ok(into_result(Some(Self { test_fraction, validation_fraction, seed }), errors)?)
    }
}
