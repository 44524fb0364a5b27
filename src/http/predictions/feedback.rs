//! Clinicians' feedback on recorded predictions.

use axum::{
    Json,
    extract::{FromRef, FromRequest, Multipart, Request, State},
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::response::RecordedPrediction;
use crate::{
    dataset::{self, Added, NewRadiograph},
    domain::{DatasetId, PredictionId, Sha256, Split},
    http::{
        ApiError, AppState,
        answer::{Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
        body,
        extract::{Form, JsonBody, PathOf},
    },
    service::Models,
    store::{self, Prediction},
};

/// Feedback on a prediction.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// One of the model's classes; null removes the feedback.
    label: Option<String>,
}

/// Feedback with the image, which is added to a data set; predictions do not store images.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; read field by field")]
pub struct FeedbackForm {
    /// One of the model's classes.
    label: String,
    /// The file that was classified.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Data set that receives the image with the label.
    dataset_id: DatasetId,
    /// Patient id, stored as a keyed hash; that of the DICOM file when absent.
    patient_id: Option<String>,
    /// Split.
    split: Option<Split>,
}

/// Sets the true class of a recorded prediction, in place of earlier feedback.
///
/// A form with `file`, `label` and `dataset_id` also adds the image to a data set: it must be the file that was classified (the same
/// SHA-256). An image that the data set already has is not changed.
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
    let models = Models::from_ref(&state);
    let prediction = super::find(&models, id).await?;
    let label = if body::media_type(request.headers()) == "multipart/form-data" {
        let Form(form) = Form::from_request(request, &state).await?;
        let parts = Parts::read(form).await?;
        Some(parts.add_image(&state, &prediction).await?)
    } else {
        let JsonBody(Feedback { label }) = JsonBody::from_request(request, &state).await?;
        label.map(|label| known(&prediction, &label)).transpose()?
    };
    store::predictions::set_feedback(&state.stores.db, id, label.as_deref()).await?;
    super::find(&models, id).await.map(|prediction| Json(prediction.into()))
}

/// A class of the model, in the model's spelling.
fn known(prediction: &Prediction, label: &str) -> Result<String, ApiError> {
    let classes = || prediction.probabilities.keys();
    let found = classes().find(|class| class.eq_ignore_ascii_case(label.trim()));
    found.cloned().ok_or_else(|| {
        let classes = classes().cloned().collect::<Vec<_>>().join(", ");
        ApiError::invalid("/label", format!("is not a class of the model: {classes}"))
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
                _ => return Err(ApiError::invalid(&format!("/{name}"), "unknown field")),
            };
            *text = Some(part.text().await?);
        }
        Ok(parts)
    }

    /// Adds the image to the data set; returns the label in the model's spelling.
    async fn add_image(self, state: &AppState, prediction: &Prediction) -> Result<String, ApiError> {
        let missing = |field: &str| ApiError::invalid(field, "is missing");
        let label = known(prediction, &self.label.ok_or_else(|| missing("/label"))?)?;
        let (file_name, bytes) = self.file.ok_or_else(|| missing("/file"))?;
        let dataset = self.dataset.ok_or_else(|| missing("/dataset_id"))?;
        let dataset = match dataset.trim().parse() {
            Ok(id) => store::datasets::get(&state.stores.db, id).await?,
            Err(_) => None,
        };
        let dataset = dataset.ok_or_else(|| ApiError::invalid("/dataset_id", "there is no such data set"))?;
        if Sha256::of(&bytes) != prediction.input_sha256 {
            return Err(ApiError::invalid("/file", "is not the file that was classified: its SHA-256 differs"));
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
        let limits = state.limits.image();
        let added =
            dataset::add(&state.stores.db, &state.stores.blobs, &dataset, new, &limits, &state.intake.patient_ids)
                .await?;
        let known = matches!(added, Added::Duplicate(_));
        tracing::info!(prediction = %prediction.id, dataset = %dataset.id, known, "image of a prediction added to a data set");
        Ok(label)
    }
}
