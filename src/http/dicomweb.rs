//! `/dicomweb/studies`: upload of radiographs by DICOMweb (STOW-RS; PS3.18, 10.5), for example from a PACS.
//!
//! Radiographs are stored without label and, as with every upload, without data that identifies the patient. Instances cannot be
//! retrieved, so the response has no retrieve URLs.

mod report;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use utoipa::IntoResponses;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::report::{Reason, Report};
use super::{
    ApiError, AppState,
    accept::negotiate,
    body,
    extract::PathOf,
    form::{Form, FormLimits},
    header_fields,
    problem::SkipProblemRendering,
    responses::{Malformed, NotAcceptable, UnsupportedType},
};
use crate::{
    dataset::{AddError, NewRadiograph},
    imaging::{self, ImageError, SopInstance},
    service::Uploads,
    store::{self, Dataset},
};

/// Media type of the response.
const DICOM_JSON: &str = "application/dicom+json";

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(store_instances)).routes(routes!(store_instances_of_study))
}

/// Store Instances Response Module, for the OpenAPI document.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documents what `respond` writes")]
enum StoreInstances {
    /// All instances were stored
    #[response(status = 200, content_type = "application/dicom+json")]
    All(serde_json::Value),
    /// Some instances were stored
    #[response(status = 202, content_type = "application/dicom+json")]
    Some(serde_json::Value),
    /// No instance was stored
    #[response(status = 409, content_type = "application/dicom+json")]
    None(serde_json::Value),
}

/// Store DICOM radiographs (STOW-RS, PS3.18 10.5).
///
/// Stores the instances without label in the data set that the server is configured to use. The response is a Store Instances Response
/// Module. Each stored instance has the warning B006H (Elements Discarded): only grey pixels and an allow-list of attributes are
/// kept.
#[utoipa::path(
    post, path = "/dicomweb/studies", tag = "datasets",
    request_body(content = String, description = "One instance (PS3.10) per part", content_type = "multipart/related; type=\"application/dicom\""),
    responses(StoreInstances, Malformed, NotAcceptable, UnsupportedType)
)]
async fn store_instances(State(uploads): State<Uploads>, request: Request) -> Result<Response, ApiError> {
    receive(&uploads, None, request).await
}

/// Store DICOM radiographs of one study (STOW-RS).
///
/// Instances of other studies are not stored.
#[utoipa::path(
    post, path = "/dicomweb/studies/{study}", tag = "datasets",
    params(("study" = String, Path, description = "Study Instance UID")),
    request_body(content = String, description = "One instance (PS3.10) per part", content_type = "multipart/related; type=\"application/dicom\""),
    responses(StoreInstances, Malformed, NotAcceptable, UnsupportedType)
)]
async fn store_instances_of_study(
    State(uploads): State<Uploads>,
    PathOf(study): PathOf<String>,
    request: Request,
) -> Result<Response, ApiError> {
    receive(&uploads, Some(&study), request).await
}

async fn receive(uploads: &Uploads, study: Option<&str>, request: Request) -> Result<Response, ApiError> {
    let headers = request.headers();
    let media_type = negotiate(headers, &[(DICOM_JSON, DICOM_JSON), ("application/json", "application/json")])?;
    let boundary = boundary(headers)?;
    let new =
        Dataset { description: Some("Received by DICOMweb".into()), ..Dataset::new(&*uploads.intake.dicomweb_dataset) };
    let dataset = store::datasets::find_or_create(&uploads.stores.db, new).await?;
    // The limit is per instance: only one is in memory at a time, and their bytes in all are not limited.
    let limits = FormLimits { form: u64::MAX, part: uploads.limits.max_upload_bytes as u64 };
    let mut parts = Form::with_boundary(request, boundary, limits)?;
    let mut report = Report::default();
    loop {
        let bytes = match next_part(&mut parts).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(ApiError::TooLarge(_)) => {
                report.failed(None, Reason::TooLarge);
                break;
            }
            Err(error) if report.is_empty() => return Err(error),
            // The instances before the error are stored, which the client must learn.
            // The message of the parser is not logged: it quotes names of parts.
            Err(_) => {
                tracing::warn!("a DICOMweb request ended early, or is not valid multipart");
                report.failed(None, Reason::NotUnderstood);
                break;
            }
        };
        receive_one(uploads, &dataset, study, bytes, &mut report).await?;
    }
    if report.is_empty() {
        return Err(ApiError::Malformed("the multipart body has no part".into()));
    }
    Ok(respond(&report, media_type))
}

async fn next_part(parts: &mut Form) -> Result<Option<Bytes>, ApiError> {
    match parts.next_part().await? {
        Some(part) => part.receive().await?.load().await.map(Some),
        None => Ok(None),
    }
}

/// Stores an instance, or reports why not. Fails only on an internal error.
async fn receive_one(
    uploads: &Uploads,
    dataset: &Dataset,
    study: Option<&str>,
    bytes: Bytes,
    report: &mut Report,
) -> Result<(), ApiError> {
    let limits = uploads.limits.image();
    let (bytes, reference) = tokio::task::spawn_blocking(move || {
        let reference = imaging::sop_instance(&bytes, &limits);
        (bytes, reference)
    })
    .await
    .map_err(ApiError::internal)?;
    let Some(reference) = reference else {
        report.failed(None, Reason::NotUnderstood);
        return Ok(());
    };
    if study.is_some_and(|study| reference.study.as_deref() != Some(study)) {
        report.failed(Some(&reference), Reason::OtherStudy);
        return Ok(());
    }
    let new = NewRadiograph { bytes, ..NewRadiograph::default() };
    match uploads.add(dataset, new).await {
        Ok(_) => report.stored(&reference),
        Err(AddError::Store(error)) => return Err(error.into()),
        Err(error) => {
            tracing::info!(%error, "an instance received by DICOMweb was not stored");
            report.failed(Some(&reference), reason(&error, &reference));
        }
    }
    Ok(())
}

fn reason(error: &AddError, reference: &SopInstance) -> Reason {
    match error {
        _ if !reference.is_radiograph() => Reason::OtherClass,
        AddError::Image(ImageError::TooManyPixels { .. }) => Reason::TooLarge,
        AddError::Image(_) => Reason::NotUnderstood,
        AddError::Field { .. } | AddError::Refused(..) | AddError::Store(_) => Reason::Refused,
    }
}

/// Boundary of a `multipart/related` body with `application/dicom` parts; 415 for other media types.
fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let unsupported =
        || ApiError::UnsupportedType("send multipart/related; type=\"application/dicom\"; boundary=…".into());
    let parameter = |name| header_fields::parameter(headers, header::CONTENT_TYPE, name);
    // The type contains a slash and must be quoted, but some clients send it without quotes.
    let is_dicom = parameter("type").is_none_or(|parts| parts.eq_ignore_ascii_case("application/dicom"));
    if body::media_type(headers) != "multipart/related" || !is_dicom {
        return Err(unsupported());
    }
    parameter("boundary").filter(|boundary| !boundary.is_empty()).ok_or_else(unsupported)
}

fn respond(report: &Report, media_type: &'static str) -> Response {
    let status = match (report.has_stored(), report.has_failed()) {
        (true, false) => StatusCode::OK,
        (true, true) => StatusCode::ACCEPTED,
        (false, _) => StatusCode::CONFLICT,
    };
    let mut response = (status, [(header::CONTENT_TYPE, media_type)], report.to_json().to_string()).into_response();
    response.extensions_mut().insert(SkipProblemRendering);
    response
}
