//! `/v1/datasets/{id}/radiographs` and `/v1/radiographs`: upload, list, update and delete radiographs; their images.

mod upload;

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::upload::{Upload, UploadForm, UploadParams, UploadResult};
use super::{
    ApiError, AppState,
    body::{self, Receipt},
    extract::{JsonBody, List, ListParams, PathOf, QueryOf},
    form::Form,
    responses::{Binary, Conflict, Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
    stream,
    transfers::Transfers,
};
use crate::{
    dataset::{PatientIds, match_class},
    domain::{DatasetId, MAX_TEXT_LENGTH, RadiographId, Split},
    imaging,
    service::{self, Fields, Intake, JsonObject, Lifecycle, Limits, Uploads, into_result},
    store::{self, Dataset, Radiograph, RadiographFilter, RadiographPatch, Stores},
};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(upload_radiographs, list_radiographs))
        .routes(routes!(get_radiograph, patch_radiograph, delete_radiograph))
        .routes(routes!(get_radiograph_image))
}

/// Filter of radiographs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FilterParams {
    /// Only radiographs of this split.
    split: Option<Split>,
    /// Only radiographs of this class.
    label: Option<String>,
    /// Only radiographs of this source.
    source: Option<String>,
}

/// Size of the image.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SizeParams {
    /// Side of the square PNG in pixels; the stored image when absent.
    #[param(minimum = 16, maximum = 1024)]
    size: Option<u32>,
}

/// Uploads radiographs: a form with one or more files, or one file as the body, whose fields are then query parameters. Each file has its
/// own result; the rejection of a single file is the response itself.
///
/// The first bytes of a file tell its format, so that the media type of a raw body does not matter: no type and curl's default type are
/// accepted, too. File names are not stored unless the server is started with `--keep-file-names`, and those of DICOM files never.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/radiographs", tag = "datasets",
    params(("id" = DatasetId, Path), UploadParams),
    request_body(content(
        (UploadForm = "multipart/form-data"),
        (Binary = "image/png"),
        (Binary = "image/jpeg"),
        (Binary = "application/dicom"),
        (Binary = "application/octet-stream")
    )),
    responses(
        (status = 201, description = "One item per file", body = List<UploadResult>),
        Malformed, NotFound, TooLarge, UnsupportedType, Invalid
    )
)]
async fn upload_radiographs(
    State(uploads): State<Uploads>,
    PathOf(id): PathOf<DatasetId>,
    QueryOf(params): QueryOf<UploadParams>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let dataset = service::find_dataset(&uploads.stores, id).await?;
    let upload = if body::media_type(request.headers()) == "multipart/form-data" {
        let form = Form::from_request(request, &()).await?;
        Upload::read_form(form, params, &dataset).await?
    } else {
        body::check_media_type(request.headers())?;
        let receipt = Receipt::of(&request)?;
        let received = receipt.receive(request, uploads.limits.max_upload_bytes).await?;
        Upload::of_body(received, params, &dataset)?
    };
    let items = upload.store(&uploads, &dataset).await?;
    Ok((StatusCode::CREATED, Json(List::whole(items))))
}

/// Lists a data set's radiographs, oldest first.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/radiographs", tag = "datasets",
    params(("id" = DatasetId, Path), FilterParams, ListParams<RadiographId>),
    responses((status = 200, description = "A page", body = List<Radiograph>), Malformed, NotFound)
)]
async fn list_radiographs(
    State(stores): State<Stores>,
    PathOf(id): PathOf<DatasetId>,
    QueryOf(FilterParams { split, label, source }): QueryOf<FilterParams>,
    QueryOf(params): QueryOf<ListParams<RadiographId>>,
) -> Result<Json<List<Radiograph>>, ApiError> {
    let page = params.page()?;
    service::find_dataset(&stores, id).await?;
    let filter = RadiographFilter { split, label, source };
    let radiographs = store::radiographs::list(&stores.db, id, &filter, &page).await?;
    Ok(Json(List::of(radiographs, &page, |radiograph| radiograph.id.to_string())))
}

/// Returns a radiograph.
#[utoipa::path(
    get, path = "/v1/radiographs/{id}", tag = "datasets",
    params(("id" = RadiographId, Path)),
    responses((status = 200, description = "The radiograph", body = Radiograph), NotFound)
)]
async fn get_radiograph(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RadiographId>,
) -> Result<Json<Radiograph>, ApiError> {
    Ok(Json(service::find_radiograph(&stores, id).await?))
}

/// Updates the given fields of a radiograph.
#[utoipa::path(
    patch, path = "/v1/radiographs/{id}", tag = "datasets",
    params(("id" = RadiographId, Path)),
    request_body = RadiographPatch,
    responses((status = 200, description = "The updated radiograph", body = Radiograph), Malformed, NotFound, Invalid)
)]
async fn patch_radiograph(
    State(stores): State<Stores>,
    State(intake): State<Intake>,
    PathOf(id): PathOf<RadiographId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<Radiograph>, ApiError> {
    let dataset = service::find_dataset(&stores, service::find_radiograph(&stores, id).await?.dataset_id).await?;
    let patch = read_patch(body, &dataset, &intake.patient_ids)?;
    let changed = store::radiographs::patch(&stores.db, id, &patch).await?;
    changed.map(Json).ok_or(ApiError::NotFound("radiograph"))
}

/// Deletes a radiograph, and its image if no other data set uses it.
#[utoipa::path(
    delete, path = "/v1/radiographs/{id}", tag = "datasets",
    params(("id" = RadiographId, Path)),
    responses((status = 204, description = "Deleted"), NotFound, Conflict)
)]
async fn delete_radiograph(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RadiographId>,
) -> Result<StatusCode, ApiError> {
    service::delete_radiograph(&stores, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the stored image (for DICOM, a grey PNG), or a square grey PNG of it, resized as for a network of that size.
#[utoipa::path(
    get, path = "/v1/radiographs/{id}/image", tag = "datasets",
    params(("id" = RadiographId, Path), SizeParams),
    responses(
        (status = 200, description = "The image", content((Binary = "image/png"), (Binary = "image/jpeg"))),
        Malformed, NotFound
    )
)]
async fn get_radiograph_image(
    State(stores): State<Stores>,
    State(limits): State<Limits>,
    State(transfers): State<Transfers>,
    State(lifecycle): State<Lifecycle>,
    PathOf(id): PathOf<RadiographId>,
    QueryOf(SizeParams { size }): QueryOf<SizeParams>,
) -> Result<Response, ApiError> {
    if size.is_some_and(|size| !(16..=1024).contains(&size)) {
        return Err(ApiError::Malformed("size must be 16 to 1024".into()));
    }
    let radiograph = service::find_radiograph(&stores, id).await?;
    let Some(side) = size else {
        let (file, length) = stores.blobs.open_verified(&radiograph.sha256).await?;
        let body = stream::file(&lifecycle.tasks, file, transfers.limits.read_pause);
        return Ok(image_response(&format!("image/{}", radiograph.format), length, body));
    };
    let png = resized(limits.image(), stores.blobs.get(&radiograph.sha256).await?, side).await?;
    Ok(image_response("image/png", png.len() as u64, png.into()))
}

fn read_patch(body: JsonObject, dataset: &Dataset, patients: &PatientIds) -> Result<RadiographPatch, ApiError> {
    let mut errors = Vec::new();
    let mut fields = Fields::new("", body, &mut errors);
    let label: Option<String> = fields.optional("label");
    let class = label.as_deref().and_then(|label| match_class(&dataset.classes, label));
    fields.check(class.is_some() == label.is_some(), "label", &not_a_class(dataset));
    let patch = RadiographPatch {
        label: class.map(str::to_owned),
        patient_id: fields.optional_text("patient_id", MAX_TEXT_LENGTH).map(|id| patients.stored(&id)),
        source: fields.optional_text("source", MAX_TEXT_LENGTH),
        view: fields.optional_text("view", MAX_TEXT_LENGTH),
        split: fields.optional("split"),
    };
    fields.finish();
    Ok(into_result(Some(patch), errors)?)
}

fn not_a_class(dataset: &Dataset) -> String {
    format!("is not a class of this data set: {}", dataset.classes.names().join(", "))
}

async fn resized(limits: imaging::Limits, bytes: Vec<u8>, side: u32) -> Result<Vec<u8>, ApiError> {
    let resize = move || {
        let (_, image) = imaging::decode(&bytes, &limits)?;
        Ok(imaging::encode_png(&imaging::resize_square(&image, side)))
    };
    tokio::task::spawn_blocking(resize).await.map_err(ApiError::internal)?
}

fn image_response(media_type: &str, length: u64, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_LENGTH, &length.to_string()),
        // Immutable: the identifier names the bytes.
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
    ];
    (headers, body).into_response()
}
