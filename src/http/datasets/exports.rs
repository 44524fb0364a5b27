//! `/v1/datasets/{id}/exports/{name}`: a data set as files for other programs.

use std::str::FromStr;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{
    dataset::{self, ExportError},
    domain::{DatasetId, Split},
    http::{
        ApiError, AppState,
        answer::{Conflict, NotFound},
        extract::PathOf,
    },
};

/// What a name of a file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Export {
    /// `train_split.txt`
    Labels(Split),
}

/// Exports a split's label file in the COVIDx format (`patient-id filename class source`): `train_split.txt`, `validation_split.txt` or
/// `test_split.txt`. An import reads it back as it is.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/exports/{name}", tag = "datasets",
    params(("id" = DatasetId, Path), ("name" = String, Path, example = "train_split.txt")),
    responses(
        (status = 200, description = "The file", content((String = "text/plain"))),
        NotFound,
        Conflict
    )
)]
pub async fn get_dataset_export(
    State(state): State<AppState>,
    PathOf((id, name)): PathOf<(DatasetId, String)>,
) -> Result<Response, ApiError> {
    let export: Export = name.parse()?;
    let dataset = super::find(&state, id).await?;
    match export {
        Export::Labels(split) => {
            let text = dataset::label_file(&state.db, &dataset, split).await?;
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
        }
    }
}

impl FromStr for Export {
    type Err = ApiError;

    fn from_str(name: &str) -> Result<Self, ApiError> {
        let unknown = || ApiError::NotFound("export");
        let split = name.strip_suffix("_split.txt").ok_or_else(unknown)?;
        split.parse().map(Self::Labels).map_err(|_| unknown())
    }
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => error.into(),
            other => Self::Conflict(other.to_string()),
        }
    }
}
