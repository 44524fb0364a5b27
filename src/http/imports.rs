//! `/v1/datasets/{id}/imports` and `/v1/imports`: background imports of folders on the server.

use axum::{Json, extract::State, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    extract::{JsonBody, PathOf},
    responses::{self, Forbidden, Invalid, Malformed, NotFound},
};
use crate::{
    domain::{DatasetId, ImportId},
    service::{self, Fields, ImportSpec, Imports, JsonObject, NewImport, into_result},
    store::{self, Import, ImportConflict, ImportRejection, Stores},
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(create_import)).routes(routes!(get_import))
}

/// An import with its rejections.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportDetail {
    #[serde(flatten)]
    import: Import,
    /// One for each rejected row or file, in order.
    rejections: Vec<ImportRejection>,
    /// One for each duplicate whose label, split, patient or view differs from that of the stored radiograph, in order.
    conflicts: Vec<ImportConflict>,
}

/// Imports a folder of labelled radiographs in the background. Rejected rows and files are reported and do not stop the import; files that
/// are neither imported nor rejected, such as segmentation masks, are counted in `passed_over` by folder and reason. Importing a folder
/// again adds nothing.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/imports", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewImport,
    responses((status = 202, description = "Started", body = Import), Malformed, Forbidden, NotFound, Invalid)
)]
async fn create_import(
    State(imports): State<Imports>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<impl IntoResponse, ApiError> {
    let dataset = service::find_dataset(&imports.stores, id).await?;
    let new = read(body)?;
    let import = imports.start(dataset, ImportSpec::Folder(new)).await?;
    Ok(responses::accepted(format!("/v1/imports/{}", import.id), import))
}

/// Returns an import with its progress, and one entry for each row or file that was rejected or differs from the stored radiograph.
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "datasets",
    params(("id" = ImportId, Path)),
    responses((status = 200, description = "The import", body = ImportDetail), NotFound)
)]
async fn get_import(
    State(stores): State<Stores>,
    PathOf(id): PathOf<ImportId>,
) -> Result<Json<ImportDetail>, ApiError> {
    let import = store::imports::get(&stores.db, id).await?.ok_or(ApiError::NotFound("import"))?;
    let rejections = store::imports::rejections(&stores.db, id).await?;
    let conflicts = store::imports::conflicts(&stores.db, id).await?;
    Ok(Json(ImportDetail { import, rejections, conflicts }))
}

fn read(body: JsonObject) -> Result<NewImport, ApiError> {
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let path = fields.required("path");
    let train_split = fields.optional("train_split");
    let validation_split = fields.optional("validation_split");
    let test_split = fields.optional("test_split");
    let class_mapping = fields.optional("class_mapping");
    fields.finish();
    let new = path.map(|path| NewImport { path, train_split, validation_split, test_split, class_mapping });
    Ok(into_result(new, errors)?)
}
