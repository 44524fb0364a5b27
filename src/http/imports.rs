//! `/v1/datasets/{id}/imports` and `/v1/imports`: folders of labelled radiographs on the server, read in the background.

use std::path::PathBuf;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{self, Forbidden, Invalid, Malformed, NotFound},
    datasets::{self, NewGeneration},
    extract::{JsonBody, PathOf},
};
use crate::{
    dataset::{self, ImportFrom, ImportRequest, LabelledFolder},
    domain::{DatasetId, ImportId, ImportStatus},
    imaging,
    service::{Fields, JsonObject, into_result},
    store::{self, Dataset, Import, ImportRejection, StoreError},
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(create_import)).routes(routes!(get_import))
}

/// An import to be started.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewImport {
    /// A folder below the server's import root, relative to it: in the COVIDx layout, with arrays of NumPy (`x_train_128.npy`,
    /// `y_train.npy`), or with one folder a class.
    pub path: String,
    /// Split file of the images in `train/`, relative to the folder; `train_split.txt` when absent.
    pub train_split: Option<String>,
    /// Split file of the images in `test/`, relative to the folder; `test_split.txt` when absent.
    pub test_split: Option<String>,
}

/// An import with what it refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportDetail {
    #[serde(flatten)]
    import: Import,
    /// One for each bad row or file, in order.
    rejections: Vec<ImportRejection>,
}

/// Starts an import. Bad rows and files are reported and do not stop the rest; importing twice adds nothing.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/imports", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewImport,
    responses((status = 202, description = "Started", body = Import), Malformed, Forbidden, NotFound, Invalid)
)]
async fn create_import(
    State(state): State<AppState>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Started, ApiError> {
    let dataset = datasets::find(&state, id).await?;
    let new = NewImport::read(body)?;
    let path = new.path.clone();
    begin(&state, dataset, path, Asked::Folder(new)).await
}

/// Shows an import: how far it is, and one line for each row or file it refused.
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "datasets",
    params(("id" = ImportId, Path)),
    responses((status = 200, description = "The import", body = ImportDetail), NotFound)
)]
async fn get_import(
    State(state): State<AppState>,
    PathOf(id): PathOf<ImportId>,
) -> Result<Json<ImportDetail>, ApiError> {
    let import = store::imports::get(&state.db, id).await?.ok_or(ApiError::NotFound("import"))?;
    let rejections = store::imports::rejections(&state.db, id).await?;
    Ok(Json(ImportDetail { import, rejections }))
}

/// Begins those imports again that an earlier process did not bring to their end. What is there already is passed over.
pub async fn resume(state: &AppState) -> Result<(), StoreError> {
    for (import, asked) in store::imports::interrupted(&state.db).await? {
        let id = import.id;
        match prepared(state, &import, asked).await {
            Ok(request) => {
                tracing::info!(%id, import.path, "import goes on");
                start(state, import, request);
            }
            Err(error) => {
                tracing::warn!(%id, import.path, %error, "import cannot go on");
                let failed = Import {
                    status: ImportStatus::Failed,
                    error: Some(format!("interrupted, and it cannot go on: {error}")),
                    finished_at: Some(Timestamp::now()),
                    ..import
                };
                store::imports::update(&state.db, &failed, &[]).await?;
            }
        }
    }
    Ok(())
}

async fn prepared(state: &AppState, import: &Import, asked: serde_json::Value) -> Result<ImportRequest, ApiError> {
    let asked: Asked = serde_json::from_value(asked).map_err(ApiError::internal)?;
    let dataset = datasets::find(state, import.dataset_id).await?;
    asked.request(state, dataset).await
}

/// The real place of `path` below the import root; `pointer` is where the request names it.
pub(super) async fn below_import_root(state: &AppState, pointer: &str, path: String) -> Result<PathBuf, ApiError> {
    let refused = || ApiError::Forbidden("imports are off: the operator has set no THORAX_IMPORT_ROOT".into());
    let root = state.import_root.clone().ok_or_else(refused)?;
    let resolve = move || dataset::resolve_below(&root, &path);
    let resolved = tokio::task::spawn_blocking(resolve).await.map_err(ApiError::internal)?;
    resolved.map_err(|error| ApiError::invalid(pointer, error.to_string()))
}

/// 202 with the import that was started.
pub(super) type Started = (StatusCode, [(HeaderName, String); 1], Json<Import>);

/// Starts an import, called `path`, of what was asked for.
pub(super) async fn begin(state: &AppState, dataset: Dataset, path: String, asked: Asked) -> Result<Started, ApiError> {
    let import = Import::started(dataset.id, path);
    let kept = serde_json::to_value(&asked).map_err(ApiError::internal)?;
    let request = asked.request(state, dataset).await?;
    store::imports::create(&state.db, &import, Some(&kept)).await?;
    start(state, import.clone(), request);
    Ok(answer::accepted(format!("/v1/imports/{}", import.id), import))
}

/// Goes on after the answer. At the server's end it stops between two images, and goes on at its next start.
fn start(state: &AppState, import: Import, request: ImportRequest) {
    let AppState { db, blobs, shutdown, .. } = state.clone();
    state.tasks.spawn(async move {
        let id = import.id;
        match dataset::import(&db, &blobs, &request, import, &shutdown, &mut |_| {}).await {
            Ok(import) => tracing::info!(%id, import.created, import.rejected, status = %import.status, "import ended"),
            Err(error) => tracing::error!(%id, %error, "import failed"),
        }
    });
}

/// What an import comes from, as it is kept until its end.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Asked {
    /// A folder; the only one with a `path`.
    Folder(NewImport),
    /// The sources of COVIDx.
    Sources(Box<NewGeneration>),
}

impl Asked {
    async fn request(self, state: &AppState, dataset: Dataset) -> Result<ImportRequest, ApiError> {
        let from = match self {
            Self::Folder(NewImport { path, train_split, test_split }) => {
                let root = below_import_root(state, "/path", path).await?;
                ImportFrom::Folder(LabelledFolder { root, train_split, test_split })
            }
            Self::Sources(new) => ImportFrom::Sources(new.resolved(state).await?),
        };
        Ok(ImportRequest {
            dataset,
            from,
            limits: imaging::Limits { max_pixels: state.limits.max_pixels },
            max_bytes: state.limits.max_upload_bytes as u64,
            patient_ids: state.patient_ids.clone(),
            goes_on: true,
        })
    }
}

impl NewImport {
    fn read(body: JsonObject) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut fields = Fields::new("", body, &mut errors);
        let path = fields.required("path");
        let train_split = fields.optional("train_split");
        let test_split = fields.optional("test_split");
        fields.finish();
        Ok(into_result(path.map(|path| Self { path, train_split, test_split }), errors)?)
    }
}
