//! `/dicomweb/studies`: a PACS pushes radiographs (STOW-RS; PS3.18, 10.5). They come in without label, and lose what names a patient as
//! every upload does: there is nothing to be retrieved here, so that the answer has no URL for that.

mod report;

use axum::{
    body::Body,
    extract::State,
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
    answer::{Malformed, NotAcceptable, UnsupportedType},
    extract::PathOf,
    problem::OwnAnswer,
};
use crate::{
    dataset::{self, AddError, NewRadiograph},
    imaging::{self, ImageError, SopInstance},
    store::{self, Dataset},
};

/// Media type of the answer.
const DICOM_JSON: &str = "application/dicom+json";

/// What a radiograph is called whose sender gave it no name.
const NAME: &str = "radiograph.dcm";

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(store_instances)).routes(routes!(store_instances_of_study))
}

/// The Store Instances Response Module, in the description.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes what `answer` writes")]
enum StoreInstances {
    /// All are stored
    #[response(status = 200, content_type = "application/dicom+json")]
    All(serde_json::Value),
    /// Some are stored
    #[response(status = 202, content_type = "application/dicom+json")]
    Some(serde_json::Value),
    /// None is stored
    #[response(status = 409, content_type = "application/dicom+json")]
    None(serde_json::Value),
}

/// Stores DICOM radiographs, without label, in the data set that the server names for it (STOW-RS, PS3.18 10.5). The answer is a Store
/// Instances Response Module. Each instance that was stored carries the warning B006H, Elements Discarded: only grey and an allow-list
/// of attributes are kept.
#[utoipa::path(
    post, path = "/dicomweb/studies", tag = "datasets",
    request_body(content = String, description = "One instance (PS3.10) a part", content_type = "multipart/related; type=\"application/dicom\""),
    responses(StoreInstances, Malformed, NotAcceptable, UnsupportedType)
)]
async fn store_instances(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    receive(&state, None, &headers, body).await
}

/// The same for instances of one study; others are not stored.
#[utoipa::path(
    post, path = "/dicomweb/studies/{study}", tag = "datasets",
    params(("study" = String, Path, description = "Study Instance UID")),
    request_body(content = String, description = "One instance (PS3.10) a part", content_type = "multipart/related; type=\"application/dicom\""),
    responses(StoreInstances, Malformed, NotAcceptable, UnsupportedType)
)]
async fn store_instances_of_study(
    State(state): State<AppState>,
    PathOf(study): PathOf<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    receive(&state, Some(&study), &headers, body).await
}

async fn receive(state: &AppState, study: Option<&str>, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let form = negotiate(headers, &[(DICOM_JSON, DICOM_JSON), ("application/json", "application/json")])?;
    let boundary = boundary(headers)?;
    let new =
        Dataset { description: Some("Pushed by DICOMweb".into()), ..Dataset::new(&*state.intake.dicomweb_dataset) };
    let dataset = store::datasets::find_or_create(&state.stores.db, new).await?;
    // One instance is in memory at a time; there may be any number of them.
    let bounds = multer::SizeLimit::new().per_field(state.limits.max_upload_bytes as u64);
    let constraints = multer::Constraints::new().size_limit(bounds);
    let mut parts = multer::Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let mut report = Report::default();
    loop {
        let bytes = match next_part(&mut parts).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(multer::Error::FieldSizeExceeded { .. }) => {
                report.failed(None, Reason::TooLarge);
                break;
            }
            Err(error) if report.is_empty() => return Err(ApiError::Malformed(format!("the parts: {error}"))),
            // What came before is stored, and its sender has to learn that.
            Err(error) => {
                tracing::warn!(%error, "the parts of a push end early");
                report.failed(None, Reason::NotUnderstood);
                break;
            }
        };
        receive_one(state, &dataset, study, bytes, &mut report).await?;
    }
    if report.is_empty() {
        return Err(ApiError::Malformed("there is no part".into()));
    }
    Ok(answer(&report, form))
}

async fn next_part(parts: &mut multer::Multipart<'_>) -> Result<Option<Bytes>, multer::Error> {
    match parts.next_field().await? {
        Some(part) => part.bytes().await.map(Some),
        None => Ok(None),
    }
}

/// Stores an instance or notes why not; fails only where the server does.
async fn receive_one(
    state: &AppState,
    dataset: &Dataset,
    study: Option<&str>,
    bytes: Bytes,
    report: &mut Report,
) -> Result<(), ApiError> {
    let limits = state.limits.image();
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
    let new = NewRadiograph { bytes: bytes.into(), file_name: NAME.into(), ..NewRadiograph::default() };
    match dataset::add(&state.stores.db, &state.stores.blobs, dataset, new, &limits, &state.intake.patient_ids).await {
        Ok(_) => report.stored(&reference),
        Err(AddError::Store(error)) => return Err(error.into()),
        Err(error) => {
            tracing::info!(%error, "a pushed instance is not stored");
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
        AddError::Field { .. } | AddError::Refused(_) | AddError::Store(_) => Reason::Refused,
    }
}

/// Of `multipart/related` with parts of `application/dicom`.
fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let refuse = || ApiError::UnsupportedType("send multipart/related; type=\"application/dicom\"; boundary=…".into());
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(refuse)?;
    let sent: mime::Mime = sent.parse().map_err(|_| refuse())?;
    let parts = sent.get_param("type").map_or("application/dicom", |parts| parts.as_str());
    if sent.essence_str() != "multipart/related" || parts != "application/dicom" {
        return Err(refuse());
    }
    sent.get_param(mime::BOUNDARY).map(|boundary| boundary.as_str().to_owned()).ok_or_else(refuse)
}

fn answer(report: &Report, media_type: &'static str) -> Response {
    let status = match (report.has_stored(), report.has_failed()) {
        (true, false) => StatusCode::OK,
        (true, true) => StatusCode::ACCEPTED,
        (false, _) => StatusCode::CONFLICT,
    };
    let mut response = (status, [(header::CONTENT_TYPE, media_type)], report.to_json().to_string()).into_response();
    response.extensions_mut().insert(OwnAnswer);
    response
}
