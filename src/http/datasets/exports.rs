//! `/v1/datasets/{id}/exports/{name}`: a data set as files for other programs.

use std::str::FromStr;

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    dataset::{self, ArraySpec, ArrayStream, Dtype, ExportError},
    domain::{DatasetId, Split},
    http::{
        ApiError, AppState,
        answer::{Conflict, Malformed, NotFound},
        extract::{PathOf, QueryOf},
    },
    imaging,
};

/// How images are written.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArrayParams {
    /// `float32` from 0 to 1 (the default) or `uint8` from 0 to 255.
    #[param(inline, default = "float32")]
    dtype: Option<Dtype>,
    /// 3 that are alike (the default), or 1.
    #[param(minimum = 1, maximum = 3, default = 3)]
    channels: Option<u8>,
}

/// What a name of a file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Export {
    /// `train_split.txt`
    LabelFile(Split),
    /// `x_train_128.npy`
    Images(Split, u32),
    /// `y_train.npy`
    Labels(Split),
}

/// Exports a split (`train`, `validation` or `test`) as a file.
///
/// - `train_split.txt`: its label file in the COVIDx format, `patient-id filename class source`. An import reads it back as it is.
/// - `x_train_128.npy`: its images as an array of NumPy, `[n, 128, 128, 3]`, of any size from 32 to 1024 pixels, decoded and resized as a
///   network sees them. The array is computed as it is sent; if an image cannot be read the connection ends before its length is reached.
/// - `y_train.npy`: their classes, `int64` positions in the data set's `classes`.
///
/// All have the images that have a class, in the same order.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/exports/{name}", tag = "datasets",
    params(("id" = DatasetId, Path), ("name" = String, Path, example = "x_train_128.npy"), ArrayParams),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/plain"), (Vec<u8> = "application/octet-stream")
        )),
        Malformed,
        NotFound,
        Conflict
    )
)]
pub async fn get_dataset_export(
    State(state): State<AppState>,
    PathOf((id, name)): PathOf<(DatasetId, String)>,
    QueryOf(params): QueryOf<ArrayParams>,
) -> Result<Response, ApiError> {
    let export: Export = name.parse()?;
    let dataset = super::find(&state, id).await?;
    match export {
        Export::LabelFile(split) => {
            params.refuse()?;
            let text = dataset::label_file(&state.db, &dataset, split).await?;
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
        }
        Export::Images(split, side) => {
            let limits = imaging::Limits { max_pixels: state.limits.max_pixels };
            let spec = params.spec(side)?;
            Ok(streamed(dataset::image_array(&state.db, &state.blobs, id, split, spec, limits).await?))
        }
        Export::Labels(split) => {
            params.refuse()?;
            Ok(streamed(dataset::label_array(&state.db, &dataset, split).await?))
        }
    }
}

fn streamed(array: ArrayStream) -> Response {
    let failed = |error: &ExportError| tracing::error!(%error, "an export ended before its end");
    let body = Body::from_stream(array.chunks.inspect_err(failed));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, array.bytes.to_string()),
    ];
    (headers, body).into_response()
}

impl ArrayParams {
    fn spec(&self, side: u32) -> Result<ArraySpec, ApiError> {
        let channels = self.channels.unwrap_or(3);
        if !matches!(channels, 1 | 3) {
            return Err(ApiError::Malformed("channels must be 1 or 3".into()));
        }
        Ok(ArraySpec { side, dtype: self.dtype.unwrap_or_default(), channels })
    }

    /// For files that are the same however images are written.
    fn refuse(&self) -> Result<(), ApiError> {
        match (self.dtype, self.channels) {
            (None, None) => Ok(()),
            _ => Err(ApiError::Malformed("dtype and channels are for arrays of images".into())),
        }
    }
}

impl FromStr for Export {
    type Err = ApiError;

    fn from_str(name: &str) -> Result<Self, ApiError> {
        let split = |name: &str| name.parse::<Split>().ok();
        let label_file = || split(name.strip_suffix("_split.txt")?).map(Self::LabelFile);
        let labels = || split(name.strip_prefix("y_")?.strip_suffix(".npy")?).map(Self::Labels);
        let images = || {
            let (of, side) = name.strip_prefix("x_")?.strip_suffix(".npy")?.rsplit_once('_')?;
            let side = side.parse().ok().filter(|side| dataset::SIDES.contains(side))?;
            Some(Self::Images(split(of)?, side))
        };
        label_file().or_else(labels).or_else(images).ok_or(ApiError::NotFound("export"))
    }
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => error.into(),
            ExportError::Image { .. } => Self::internal(error),
            other => Self::Conflict(other.to_string()),
        }
    }
}
