//! `/v1/datasets/{id}/exports/{name}`: exports of a data set to other programs.

use std::str::FromStr;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use utoipa::{
    IntoParams,
    openapi::{Object, Type},
};

use crate::{
    dataset::{self, ArraySpec, ArrayStream, Dtype, ExportError},
    domain::{DatasetId, Split},
    http::{
        ApiError,
        extract::{PathOf, QueryOf},
        responses::{Binary, Busy, Conflict, Malformed, NotFound},
        stream,
        transfers::Transfers,
    },
    service::{self, Lifecycle, Limits},
    store::Stores,
};

/// Format of image arrays.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ArrayParams {
    /// `float32` from 0 to 1 (the default) or `uint8` from 0 to 255.
    #[param(inline)]
    dtype: Option<Dtype>,
    /// Number of channels: 3 (grey replicated, the default) or 1.
    #[param(schema_with = channels)]
    channels: Option<u8>,
}

fn channels() -> Object {
    Object::builder().schema_type(Type::Integer).enum_values(Some([1, 3])).default(Some(3.into())).build()
}

/// Media type of NumPy arrays.
const ARRAY: &str = "application/octet-stream";

/// The export that a file name stands for.
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
/// - `train_split.txt`: label file in the COVIDx format, `patient-id filename class source`; an import reads it back.
/// - `x_train_128.npy`: images as a NumPy array, `[n, 128, 128, 3]`, of any size from 32 to 1024 pixels, decoded and resized as for the
///   network. Images that are missing or damaged are refused first (409, with their radiographs), as far as that can be seen without reading
///   all of them. The array is computed while it is sent; if an image cannot be read then, the connection closes before the announced
///   length.
/// - `y_train.npy`: classes of the images, `int64` indices into the data set's `classes`.
///
/// All of them contain the labelled images, in the same order.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/exports/{name}", tag = "datasets",
    params(("id" = DatasetId, Path), ("name" = String, Path, pattern = r"^((train|validation|test)_split\.txt|x_(train|validation|test)_[0-9]{2,4}\.npy|y_(train|validation|test)\.npy)$", example = "x_train_128.npy"), ArrayParams),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/plain"), (Binary = "application/octet-stream")
        )),
        Malformed,
        NotFound,
        Conflict,
        Busy
    )
)]
pub async fn get_dataset_export(
    State(stores): State<Stores>,
    State(limits): State<Limits>,
    State(transfers): State<Transfers>,
    State(lifecycle): State<Lifecycle>,
    PathOf((id, name)): PathOf<(DatasetId, String)>,
    QueryOf(params): QueryOf<ArrayParams>,
) -> Result<Response, ApiError> {
    let export: Export = name.parse()?;
    let dataset = service::find_dataset(&stores, id).await?;
    let permit = transfers.export_permit()?;
    let send = |media_type, array| streamed(&lifecycle.tasks, &transfers, permit, media_type, array);
    match export {
        Export::LabelFile(split) => {
            params.refuse()?;
            let text = dataset::label_file(&stores.db, &dataset, split).await?;
            let bytes = text.len() as u64;
            let chunks = Box::pin(futures_util::stream::iter([Ok(text.into())]));
            Ok(send("text/plain; charset=utf-8", ArrayStream { bytes, chunks }))
        }
        Export::Images(split, side) => {
            let limits = limits.image();
            let spec = params.spec(side)?;
            let array = dataset::image_array(&stores.db, &stores.blobs, id, split, spec, limits).await?;
            Ok(send(ARRAY, array))
        }
        Export::Labels(split) => {
            params.refuse()?;
            Ok(send(ARRAY, dataset::label_array(&stores.db, &dataset, split).await?))
        }
    }
}

fn streamed(
    tasks: &TaskTracker,
    transfers: &Transfers,
    permit: OwnedSemaphorePermit,
    media_type: &str,
    file: ArrayStream,
) -> Response {
    let headers = [(header::CONTENT_TYPE, media_type.to_owned()), (header::CONTENT_LENGTH, file.bytes.to_string())];
    let body = stream::body(tasks, file.chunks, transfers.limits.read_pause, permit);
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

    /// Refuses the parameters for files that have no image format.
    fn refuse(&self) -> Result<(), ApiError> {
        match (self.dtype, self.channels) {
            (None, None) => Ok(()),
            _ => Err(ApiError::Malformed("dtype and channels apply to image arrays only".into())),
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
            let side = side.parse().ok().filter(|side| dataset::ARRAY_SIDES.contains(side))?;
            Some(Self::Images(split(of)?, side))
        };
        label_file().or_else(labels).or_else(images).ok_or(ApiError::NotFound(
            "export: SPLIT_split.txt, x_SPLIT_SIDE.npy with a side of 32 to 1024 pixels, or y_SPLIT.npy; SPLIT is train, validation or test",
        ))
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
