//! Uploads: one or more files, with fields that apply to all of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    dataset::{self, AddError, AddOutcome, NewRadiograph},
    domain::{RadiographField, Split},
    http::{
        ApiError, Problem,
        body::{self, Received},
        extract::unknown_part,
        form::Form,
    },
    service::{self, FieldError, Uploads},
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
    /// Name of the file as sent; empty if none was sent. The name that is stored is in `radiograph`.
    file_name: String,
    status: UploadStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    radiograph: Option<Radiograph>,
    /// For a duplicate: the fields that were sent and differ from those of the stored radiograph; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differs: Vec<RadiographField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Fields of a radiograph whose file is the whole body. A patient id is sent in a form only, so that it is in no URL.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadParams {
    /// For a raw body: one of the data set's classes.
    label: Option<String>,
    /// For a raw body: source of the image.
    source: Option<String>,
    /// For a raw body: projection, such as `PA` or `AP`.
    view: Option<String>,
    /// For a raw body: split.
    split: Option<String>,
}

impl UploadParams {
    /// The fields by name.
    fn fields(self) -> [(&'static str, Option<String>); 4] {
        let Self { label, source, view, split } = self;
        [("label", label), ("source", source), ("view", view), ("split", split)]
    }
}

/// Files and fields of an upload, received completely, because fields of a form may follow the files they apply to. Files wait on disk where
/// they are large or memory is scarce.
#[derive(Default)]
pub struct Upload {
    files: Vec<(Option<String>, Received)>,
    /// True for a file that is the whole body: its first bytes must be those of an image.
    is_raw: bool,
    label: Option<String>,
    patient_id: Option<String>,
    source: Option<String>,
    view: Option<String>,
    split: Option<Split>,
}

impl Upload {
    /// Reads the form; one 422 names every wrong part. Fields of the query belong to a raw body and are refused.
    pub async fn read_form(mut form: Form, params: UploadParams, dataset: &Dataset) -> Result<Self, ApiError> {
        let mut upload = Self::default();
        let in_query = params.fields().into_iter().filter(|(_, text)| text.is_some());
        let mut errors: Vec<FieldError> =
            in_query.map(|(name, _)| wrong(name, "must be a part of the form, not of the query")).collect();
        let mut names = BTreeSet::new();
        while let Some(part) = form.next_part().await? {
            let name = part.name();
            if name == "file" {
                let file_name = part.file_name();
                upload.files.push((file_name, part.receive().await?));
            } else if !names.insert(name.clone()) {
                errors.push(wrong(&name, "is sent more than once"));
            } else if let Err(detail) = upload.set(&name, &part.text().await?, dataset) {
                errors.push(detail);
            }
        }
        if upload.files.is_empty() {
            errors.push(wrong("file", "is missing: send at least one"));
        }
        if errors.is_empty() { Ok(upload) } else { Err(ApiError::Invalid(errors)) }
    }

    /// One file without a name, with the fields of the query.
    pub fn of_body(file: Received, params: UploadParams, dataset: &Dataset) -> Result<Self, ApiError> {
        let mut upload = Self { files: vec![(None, file)], is_raw: true, ..Self::default() };
        let set = |(name, text): (&str, Option<String>)| upload.set(name, &text.unwrap_or_default(), dataset).err();
        let errors: Vec<FieldError> = params.fields().into_iter().filter_map(set).collect();
        if errors.is_empty() { Ok(upload) } else { Err(ApiError::Invalid(errors)) }
    }

    /// Stores file after file. The rejection of a single file fails the request.
    pub async fn store(mut self, uploads: &Uploads, dataset: &Dataset) -> Result<Vec<UploadResult>, ApiError> {
        let files = std::mem::take(&mut self.files);
        let alone = files.len() == 1;
        let mut results = Vec::with_capacity(files.len());
        for (sent_name, file) in files {
            // The response names the file as it was sent, whatever is stored.
            let file_name = sent_name.clone().unwrap_or_default();
            let outcome = self.add(uploads, dataset, sent_name, file).await;
            results.push(match outcome {
                Ok(AddOutcome::Created(radiograph)) => stored(file_name, UploadStatus::Created, radiograph, Vec::new()),
                Ok(AddOutcome::Duplicate(radiograph, differs)) => {
                    stored(file_name, UploadStatus::Duplicate, radiograph, differs)
                }
                Err(error @ ApiError::Internal(_)) => return Err(error),
                Err(error) if alone => return Err(error),
                Err(error) => {
                    let problem = error.into_problem(&format!("/v1/datasets/{}/radiographs", dataset.id));
                    UploadResult {
                        file_name,
                        status: UploadStatus::Rejected,
                        radiograph: None,
                        differs: Vec::new(),
                        problem: Some(problem),
                    }
                }
            });
        }
        Ok(results)
    }

    async fn add(
        &self,
        uploads: &Uploads,
        dataset: &Dataset,
        file_name: Option<String>,
        file: Received,
    ) -> Result<AddOutcome, ApiError> {
        let bytes = file.load().await?;
        let new = NewRadiograph {
            bytes: if self.is_raw { body::check_image(bytes)? } else { bytes },
            file_name: file_name.filter(|_| uploads.intake.keep_file_names),
            label: self.label.clone(),
            patient_id: self.patient_id.clone(),
            source: self.source.clone(),
            view: self.view.clone(),
            split: self.split,
        };
        Ok(uploads.add(dataset, new).await?)
    }

    /// Sets a field; an empty text leaves it unset.
    fn set(&mut self, name: &str, text: &str, dataset: &Dataset) -> Result<(), FieldError> {
        let text = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        match (name, text) {
            ("label", Some(text)) if dataset::match_class(&dataset.classes, &text).is_none() => {
                return Err(wrong(name, &super::not_a_class(dataset)));
            }
            ("label", text) => self.label = text,
            ("patient_id", text) => self.patient_id = text,
            ("source", text) => self.source = text,
            ("view", text) => self.view = text,
            ("split", text) => {
                let split = text.map(|text| text.parse()).transpose();
                self.split = split.map_err(|_| wrong(name, "must be train, validation or test"))?;
            }
            _ => return Err(unknown_part(name)),
        }
        Ok(())
    }
}

fn wrong(name: &str, detail: &str) -> FieldError {
    FieldError::new(format!("/{name}"), detail)
}

fn stored(
    file_name: String,
    status: UploadStatus,
    radiograph: Radiograph,
    differs: Vec<RadiographField>,
) -> UploadResult {
    UploadResult { file_name, status, radiograph: Some(radiograph), differs, problem: None }
}

impl From<AddError> for ApiError {
    fn from(error: AddError) -> Self {
        service::Error::from(error).into()
    }
}
