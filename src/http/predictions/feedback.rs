//! Clinicians' feedback on recorded predictions.

use axum::{
    Json,
    extract::{FromRequest, Request, State},
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::response::RecordedPrediction;
use crate::{
    domain::{DatasetId, PredictionId, Split},
    http::{
        ApiError, body,
        extract::{JsonBody, PathOf, unknown_part},
        form::Form,
        responses::{Invalid, Malformed, NotFound, TooLarge, UnsupportedType},
    },
    service::{self, FeedbackImage, Imports, Models},
};

/// Feedback on a prediction.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// One of the model's classes; null removes the feedback.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
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
        (status = 200, description = "The prediction with its feedback", body = RecordedPrediction),
        Malformed,
        NotFound,
        TooLarge,
        UnsupportedType,
        Invalid
    ))]
pub(super) async fn put_feedback(
    State(models): State<Models>,
    State(imports): State<Imports>,
    PathOf(id): PathOf<PredictionId>,
    request: Request,
) -> Result<Json<RecordedPrediction>, ApiError> {
    let prediction = super::find(&models, id).await?;
    if body::media_type(request.headers()) == "multipart/form-data" {
        let form = Form::from_request(request, &()).await?;
        let (label, image) = Parts::read(form).await?.into_image()?;
        service::set_feedback_with_image(&imports, &prediction, &label, image).await?;
    } else {
        let JsonBody(Feedback { label }) = JsonBody::from_request(request, &()).await?;
        service::set_feedback(&models.stores, &prediction, label.as_deref()).await?;
    }
    super::find(&models, id).await.map(|prediction| Json(prediction.into()))
}

/// The parts of the form.
#[derive(Default)]
struct Parts {
    file: Option<(Option<String>, Bytes)>,
    label: Option<String>,
    dataset: Option<String>,
    patient: Option<String>,
    split: Option<String>,
}

impl Parts {
    async fn read(mut form: Form) -> Result<Self, ApiError> {
        let mut parts = Self::default();
        while let Some(part) = form.next_part().await? {
            let name = part.name();
            let text = match name.as_str() {
                "file" => {
                    let file_name = part.file_name();
                    parts.file = Some((file_name, part.receive().await?.load().await?));
                    continue;
                }
                "label" => &mut parts.label,
                "dataset_id" => &mut parts.dataset,
                "patient_id" => &mut parts.patient,
                "split" => &mut parts.split,
                _ => return Err(ApiError::Invalid(vec![unknown_part(&name)])),
            };
            *text = Some(part.text().await?);
        }
        Ok(parts)
    }

    /// The label and the image; every part but the patient id and the split is required.
    fn into_image(self) -> Result<(String, FeedbackImage), ApiError> {
        let missing = |field: &str| ApiError::invalid(field, "is missing");
        let wrong_split = |_| ApiError::invalid("/split", "must be train, validation or test");
        let label = self.label.ok_or_else(|| missing("/label"))?;
        let (file_name, bytes) = self.file.ok_or_else(|| missing("/file"))?;
        let dataset = self.dataset.ok_or_else(|| missing("/dataset_id"))?.trim().parse().ok();
        let split = self.split.map(|split| split.trim().parse().map_err(wrong_split)).transpose()?;
        Ok((label, FeedbackImage { file_name, bytes, dataset, patient_id: self.patient, split }))
    }
}
