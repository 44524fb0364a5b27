//! `/v1/datasets`: data sets, their distributions, splits and exports.

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
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    responses::{self, Conflict, Invalid, Malformed, NotFound},
};
use crate::{
    dataset::{self, Fractions},
    domain::{ClassList, DatasetId, QualityFlag, Split},
    service::{self, Fields, JsonObject, into_result},
    store::{self, Dataset, Distribution, Stores},
};

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

/// A data set to create.
#[derive(Debug, ToSchema)]
pub struct NewDataset {
    /// Unique name, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// Class names in the order of the network's outputs; `normal`, `pneumonia`, `COVID-19` when absent.
    pub classes: Option<ClassList>,
    /// Free text, 1 to 10,000 characters.
    #[schema(min_length = 1, max_length = 10_000, pattern = r"\S")]
    pub description: Option<String>,
    /// Quality flags for which a radiograph is refused (422) instead of stored; none when absent.
    pub refuse: Option<Vec<QualityFlag>>,
}

/// Fractions and seed of a split.
#[derive(Debug, ToSchema)]
pub struct NewSplit {
    /// Fraction of each class's images in `test`.
    #[schema(value_type = Option<f64>, default = 0.1, minimum = 0.0, exclusive_maximum = 1.0)]
    pub test_fraction: f64,
    /// Fraction of each class's remaining images in `validation`.
    #[schema(value_type = Option<f64>, default = 0.0, minimum = 0.0, exclusive_maximum = 1.0)]
    pub validation_fraction: f64,
    /// Random seed of the assignment.
    #[schema(value_type = Option<u32>, default = 0)]
    pub seed: u32,
}

/// A data set with its distribution and leakage.
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

/// A data set after a split.
#[derive(Debug, Serialize, ToSchema)]
pub struct SplitDataset {
    #[serde(flatten)]
    detail: DatasetDetail,
    /// Patients and classes that make a split impossible or incomplete, such as a class whose images all have the same patient id.
    warnings: Vec<String>,
}

/// Patients with radiographs in more than one split.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leakage {
    patients_in_several_splits: Vec<SharedPatient>,
    /// Effect on the scores.
    note: String,
}

/// A patient in more than one split.
#[derive(Debug, Serialize, ToSchema)]
pub struct SharedPatient {
    patient_id: String,
    splits: Vec<Split>,
}

/// Creates a data set.
#[utoipa::path(
    post, path = "/v1/datasets", tag = "datasets",
    request_body = NewDataset,
    responses((status = 201, description = "Created", body = Dataset), Malformed, Conflict, Invalid)
)]
async fn create_dataset(
    State(stores): State<Stores>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let NewDataset { name, classes, description, refuse } = NewDataset::read(body)?;
    let dataset = Dataset {
        description,
        classes: classes.unwrap_or_default(),
        refuse: refuse.unwrap_or_default(),
        ..Dataset::new(name)
    };
    store::datasets::create(&stores.db, &dataset).await?;
    Ok(responses::created(format!("/v1/datasets/{}", dataset.id), dataset))
}

/// Lists data sets, oldest first.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets",
    params(ListParams<DatasetId>),
    responses((status = 200, description = "A page", body = List<Dataset>), Malformed)
)]
async fn list_datasets(
    State(stores): State<Stores>,
    QueryOf(params): QueryOf<ListParams<DatasetId>>,
) -> Result<Json<List<Dataset>>, ApiError> {
    let page = params.page()?;
    let datasets = store::datasets::list(&stores.db, &page).await?;
    Ok(Json(List::of(datasets, &page, |dataset| dataset.id.to_string())))
}

/// Returns a data set with its distribution and the patients in more than one split.
#[utoipa::path(
    get, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses((status = 200, description = "The data set", body = DatasetDetail), NotFound)
)]
async fn get_dataset(
    State(stores): State<Stores>,
    PathOf(id): PathOf<DatasetId>,
) -> Result<Json<DatasetDetail>, ApiError> {
    let dataset = service::find_dataset(&stores, id).await?;
    Ok(Json(detail(&stores, dataset).await?))
}

/// Deletes a data set with its radiographs, and the images that no other data set uses. The metrics of its training runs are kept.
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", tag = "datasets",
    params(("id" = DatasetId, Path)),
    responses((status = 204, description = "Deleted"), NotFound, Conflict)
)]
async fn delete_dataset(State(stores): State<Stores>, PathOf(id): PathOf<DatasetId>) -> Result<StatusCode, ApiError> {
    service::delete_dataset(&stores, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Assigns every radiograph to a split, grouped by patient and stratified by class; deterministic for a seed. `warnings` names the patient
/// whose images are all images of the data set or of a class, and classes that are missing in a requested split.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/split", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewSplit,
    responses(
        (status = 200, description = "The data set with its new splits", body = SplitDataset),
        Malformed, NotFound, Conflict, Invalid
    )
)]
async fn split_dataset(
    State(stores): State<Stores>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<SplitDataset>, ApiError> {
    let dataset = service::find_dataset(&stores, id).await?;
    let NewSplit { test_fraction, validation_fraction, seed } = NewSplit::read(body)?;
    let fractions = Fractions { test: test_fraction, validation: validation_fraction };
    let warnings = dataset::split(&stores.db, id, fractions, seed.into()).await?;
    Ok(Json(SplitDataset { detail: detail(&stores, dataset).await?, warnings }))
}

async fn detail(stores: &Stores, dataset: Dataset) -> Result<DatasetDetail, ApiError> {
    let distribution = store::datasets::distribution(&stores.db, dataset.id).await?;
    let fingerprint = store::datasets::fingerprint(&stores.db, dataset.id).await?;
    let shared = store::datasets::patients_in_several_splits(&stores.db, dataset.id).await?;
    Ok(DatasetDetail { dataset, distribution, fingerprint, leakage: Leakage::of(shared) })
}

impl Leakage {
    fn of(shared: Vec<(String, Vec<Split>)>) -> Self {
        let found = match shared.len() {
            0 => "No known patient is in two splits.".into(),
            n => format!(
                "Patients in more than one split: {n}. Scores are optimistic; POST /v1/datasets/{{id}}/split assigns splits \
                 by patient."
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
