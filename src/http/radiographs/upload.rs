//! Uploads: one or more files, with fields that apply to all of them.

use axum::{
    body::Bytes,
    extract::{Multipart, multipart::Field},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    dataset::{self, AddError, AddOutcome, NewRadiograph},
    domain::Split,
    http::{ApiError, AppState, Problem},
    service::{self, FieldError},
    store::{Dataset, Radiograph},
};

/// The form of an upload.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the request; the parts are read one by one")]
pub struct UploadForm {
    /// PNG, JPEG or DICOM; repeatable.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
    /// One of the data set's classes.
    label: Option<String>,
    /// Patient id, stored as a keyed hash; that of the DICOM file when absent.
    patient_id: Option<String>,
    /// Source of the image.
    source: Option<String>,
    /// Projection, such as `PA` or `AP`.
    view: Option<String>,
    /// Split.
    split: Option<Split>,
}

/// Outcome for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UploadStatus {
    /// Stored.
    Created,
    /// The data set has the same content already; `radiograph` is that one, unchanged.
    Duplicate,
    /// Not stored; `problem` has the reason.
    Rejected,
}

/// Result for one file.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadResult {
    /// Name of the file as sent.
    file_name: String,
    status: UploadStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    radiograph: Option<Radiograph>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Parts of the form, read completely, because fields may follow the files they apply to. The limit on the body bounds it.
#[derive(Default)]
pub struct Upload {
    files: Vec<(String, Bytes)>,
    label: Option<String>,
    patient_id: Option<String>,
    source: Option<String>,
    view: Option<String>,
    split: Option<Split>,
}

impl Upload {
    /// Reads the form; one 422 names every wrong part.
    pub async fn read(mut form: Multipart, dataset: &Dataset) -> Result<Self, ApiError> {
        let mut upload = Self::default();
        let mut errors = Vec::new();
        while let Some(part) = form.next_field().await? {
            if let Err(detail) = upload.add_part(&part_name(&part), part, dataset).await? {
                errors.push(detail);
            }
        }
        if upload.files.is_empty() {
            errors.push(wrong("file", "is missing: send at least one"));
        }
        if errors.is_empty() { Ok(upload) } else { Err(ApiError::Invalid(errors)) }
    }

    /// Stores file after file. The rejection of a single file fails the request.
    pub async fn store(mut self, state: &AppState, dataset: &Dataset) -> Result<Vec<UploadResult>, ApiError> {
        let files = std::mem::take(&mut self.files);
        let alone = files.len() == 1;
        let mut results = Vec::with_capacity(files.len());
        for (file_name, bytes) in files {
            let outcome = self.add(state, dataset, file_name.clone(), bytes).await;
            results.push(match outcome {
                Ok(AddOutcome::Created(radiograph)) => stored(file_name, UploadStatus::Created, radiograph),
                Ok(AddOutcome::Duplicate(radiograph)) => stored(file_name, UploadStatus::Duplicate, radiograph),
                Err(error @ ApiError::Internal(_)) => return Err(error),
                Err(error) if alone => return Err(error),
                Err(error) => {
                    let problem = error.into_problem(&format!("/v1/datasets/{}/radiographs", dataset.id));
                    UploadResult { file_name, status: UploadStatus::Rejected, radiograph: None, problem: Some(problem) }
                }
            });
        }
        Ok(results)
    }

    async fn add(
        &self,
        state: &AppState,
        dataset: &Dataset,
        file_name: String,
        bytes: Bytes,
    ) -> Result<AddOutcome, ApiError> {
        let new = NewRadiograph {
            bytes: bytes.into(),
            file_name,
            label: self.label.clone(),
            patient_id: self.patient_id.clone(),
            source: self.source.clone(),
            view: self.view.clone(),
            split: self.split,
        };
        let limits = state.limits.image();
        Ok(dataset::add(&state.stores.db, &state.stores.blobs, dataset, new, &limits, &state.intake.patient_ids)
            .await?)
    }

    /// Adds one part; the inner error concerns its content, the outer one the form.
    async fn add_part(
        &mut self,
        name: &str,
        part: Field<'_>,
        dataset: &Dataset,
    ) -> Result<Result<(), FieldError>, ApiError> {
        if name == "file" {
            let file_name = part.file_name().unwrap_or_default().to_owned();
            self.files.push((file_name, part.bytes().await?));
            return Ok(Ok(()));
        }
        let text = part.text().await?.trim().to_owned();
        if text.is_empty() {
            return Ok(Ok(()));
        }
        match name {
            "label" if dataset::match_class(&dataset.classes, &text).is_none() => {
                return Ok(Err(wrong(name, &super::not_a_class(dataset))));
            }
            "label" => self.label = Some(text),
            "patient_id" => self.patient_id = Some(text),
            "source" => self.source = Some(text),
            "view" => self.view = Some(text),
            "split" => match text.parse() {
                Ok(split) => self.split = Some(split),
                Err(_) => return Ok(Err(wrong(name, "must be train, validation or test"))),
            },
            _ => return Ok(Err(wrong(name, "unknown field"))),
        }
        Ok(Ok(()))
    }
}

fn part_name(part: &Field<'_>) -> String {
    part.name().unwrap_or_default().to_owned()
}

fn wrong(name: &str, detail: &str) -> FieldError {
    FieldError { pointer: format!("/{name}"), detail: detail.into() }
}

fn stored(file_name: String, status: UploadStatus, radiograph: Radiograph) -> UploadResult {
    UploadResult { file_name, status, radiograph: Some(radiograph), problem: None }
}

impl From<AddError> for ApiError {
    fn from(error: AddError) -> Self {
        service::Error::from(error).into()
    }
}
