//! What a clinician says about a recorded prediction.

use axum::{
    Json,
    extract::{FromRequest, Multipart, Request, State},
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::answer::RecordedPrediction;
use crate::{
    dataset::{self, Added, NewRadiograph},
    domain::{DatasetId, PredictionId, Sha256, Split},
    http::{
        ApiError, AppState,
        answer::{Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
        body,
        extract::{Form, JsonBody, PathOf},
    },
    imaging,
    store::{self, Prediction},
};

/// What it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// One of the model's classes; null takes back what was said.
    label: Option<String>,
}

/// What it is, with the image, which goes into a data set: predictions keep none.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; read field by field")]
pub struct FeedbackForm {
    /// One of the model's classes.
    label: String,
    /// The very file that was classified.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Where it goes, with the label.
    dataset_id: DatasetId,
    /// Stored as a keyed hash. Of a DICOM, its own when absent.
    patient_id: Option<String>,
    /// Split.
    split: Option<Split>,
}

/// Says what the radiograph of a prediction is, in place of what was said before.
///
/// As a form with `file`, `label` and `dataset_id` it also puts the image into a data set: the file has to be the one that was classified
/// (the same SHA-256). One that is there already stays as it is.
#[utoipa::path(put, path = "/v1/predictions/{id}/feedback", tag = "predictions", params(("id" = PredictionId, Path)),
    request_body(content((Feedback = "application/json"), (FeedbackForm = "multipart/form-data"))),
    responses(
        (status = 200, body = RecordedPrediction),
        Malformed,
        NotFound,
        TooLarge,
        UnsupportedType,
        Invalid
    ))]
pub(super) async fn put_feedback(
    State(state): State<AppState>,
    PathOf(id): PathOf<PredictionId>,
    request: Request,
) -> Result<Json<RecordedPrediction>, ApiError> {
    let prediction = super::find(&state, id).await?;
    let label = if body::media_type(request.headers()) == "multipart/form-data" {
        let Form(form) = Form::from_request(request, &state).await?;
        let parts = Parts::read(form).await?;
        Some(parts.keep(&state, &prediction).await?)
    } else {
        let JsonBody(Feedback { label }) = JsonBody::from_request(request, &state).await?;
        label.map(|label| known(&prediction, &label)).transpose()?
    };
    store::predictions::set_feedback(&state.db, id, label.as_deref()).await?;
    super::find(&state, id).await.map(|prediction| Json(prediction.into()))
}

/// A class of the model that answered, as it writes it.
fn known(prediction: &Prediction, label: &str) -> Result<String, ApiError> {
    let classes = || prediction.probabilities.keys();
    let found = classes().find(|class| class.eq_ignore_ascii_case(label.trim()));
    found.cloned().ok_or_else(|| {
        let classes = classes().cloned().collect::<Vec<_>>().join(", ");
        ApiError::invalid("/label", format!("is not a class of the model that answered; those are {classes}"))
    })
}

/// The parts of the form.
#[derive(Default)]
struct Parts {
    file: Option<(String, Bytes)>,
    label: Option<String>,
    dataset: Option<String>,
    patient: Option<String>,
    split: Option<String>,
}

impl Parts {
    async fn read(mut form: Multipart) -> Result<Self, ApiError> {
        let mut parts = Self::default();
        while let Some(part) = form.next_field().await? {
            let name = part.name().unwrap_or_default().to_owned();
            let text = match name.as_str() {
                "file" => {
                    let file_name = part.file_name().unwrap_or("radiograph").to_owned();
                    parts.file = Some((file_name, part.bytes().await?));
                    continue;
                }
                "label" => &mut parts.label,
                "dataset_id" => &mut parts.dataset,
                "patient_id" => &mut parts.patient,
                "split" => &mut parts.split,
                _ => return Err(ApiError::invalid(&format!("/{name}"), "there is no such field")),
            };
            *text = Some(part.text().await?);
        }
        Ok(parts)
    }

    /// Puts the image into the data set; the label as the model writes it.
    async fn keep(self, state: &AppState, prediction: &Prediction) -> Result<String, ApiError> {
        let missing = |field: &str| ApiError::invalid(field, "is missing");
        let label = known(prediction, &self.label.ok_or_else(|| missing("/label"))?)?;
        let (file_name, bytes) = self.file.ok_or_else(|| missing("/file"))?;
        let dataset = self.dataset.ok_or_else(|| missing("/dataset_id"))?;
        let dataset = match dataset.trim().parse() {
            Ok(id) => store::datasets::get(&state.db, id).await?,
            Err(_) => None,
        };
        let dataset = dataset.ok_or_else(|| ApiError::invalid("/dataset_id", "there is no such data set"))?;
        if Sha256::of(&bytes) != prediction.input_sha256 {
            return Err(ApiError::invalid("/file", "is not the file that was classified: its SHA-256 is another"));
        }
        let wrong_split = |_| ApiError::invalid("/split", "must be train, validation or test");
        let new = NewRadiograph {
            bytes: bytes.into(),
            file_name,
            label: Some(label.clone()),
            patient_id: self.patient,
            split: self.split.map(|split| split.trim().parse().map_err(wrong_split)).transpose()?,
            ..NewRadiograph::default()
        };
        let limits = imaging::Limits { max_pixels: state.limits.max_pixels };
        let added = dataset::add(&state.db, &state.blobs, &dataset, new, &limits, &state.patient_ids).await?;
        let known = matches!(added, Added::Duplicate(_));
        tracing::info!(prediction = %prediction.id, dataset = %dataset.id, known, "a prediction's image came into a data set");
        Ok(label)
    }
}
