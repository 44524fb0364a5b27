//! Export of a split as NumPy arrays, computed while streaming: only a few images are in memory at a time.

use std::{pin::Pin, str::FromStr};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    domain::{DatasetId, MAX_IMAGE_SIZE, Sha256, Split},
    imaging::{self, GreyImage, Limits},
    store::{self, Blobs, Dataset, Db},
};

use super::{
    ExportError,
    npy::{self, Element},
    run_blocking,
};

/// Accepted sides of exported images, in pixels.
pub const ARRAY_SIDES: std::ops::RangeInclusive<u32> = imaging::MIN_SIDE..=MAX_IMAGE_SIZE;

/// Element type of an exported image array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float from 0 (black) to 1 (white).
    #[default]
    Float32,
    /// Unsigned byte from 0 (black) to 255 (white).
    Uint8,
}

/// Format of an image array: [n, side, side, channels].
#[derive(Clone, Copy, Debug)]
pub struct ArraySpec {
    /// Width and height of the images in pixels, within [`ARRAY_SIDES`].
    pub side: u32,
    /// Element type.
    pub dtype: Dtype,
    /// Number of channels: 1 (greyscale) or 3 (grey replicated).
    pub channels: u8,
}

/// Streamed file.
pub struct ArrayStream {
    /// Length of the file in bytes, known in advance.
    pub bytes: u64,
    /// Chunks of the file in order. The stream ends after an error.
    pub chunks: Pin<Box<dyn Stream<Item = Result<Bytes, ExportError>> + Send>>,
}

/// The labelled images of a split in order of arrival, decoded and resized like network inputs.
pub async fn image_array(
    db: &Db,
    blobs: &Blobs,
    dataset: DatasetId,
    split: Split,
    spec: ArraySpec,
    limits: Limits,
) -> Result<ArrayStream, ExportError> {
    let radiographs = store::radiographs::labelled_in_order(db, dataset, split).await?;
    let images: Vec<_> = radiographs.into_iter().map(|radiograph| (radiograph.sha256, radiograph.file_name)).collect();
    let shape = [images.len() as u64, spec.side.into(), spec.side.into(), spec.channels.into()];
    let blobs = blobs.clone();
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = stream::iter(images)
        .map(move |(sha256, file_name)| row(blobs.clone(), sha256, file_name, spec, limits))
        .buffered(parallel);
    Ok(npy_stream(spec.dtype.element(), &shape, rows))
}

/// The classes of the same images as `int64` indices in the class list of the data set.
pub async fn label_array(db: &Db, dataset: &Dataset, split: Split) -> Result<ArrayStream, ExportError> {
    let radiographs = store::radiographs::labelled_in_order(db, dataset.id, split).await?;
    let index = |label: &String| {
        let known = dataset.classes.index_of(label);
        known.ok_or_else(|| ExportError::Unwritable(format!("{label:?} is not a class of the data set")))
    };
    let indices: Vec<usize> =
        radiographs.iter().flat_map(|radiograph| &radiograph.label).map(index).collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = indices.iter().flat_map(|index| (*index as i64).to_le_bytes()).collect();
    Ok(npy_stream(npy::INT64, &[indices.len() as u64], stream::iter([Ok(bytes.into())])))
}

fn npy_stream(
    element: Element,
    shape: &[u64],
    rows: impl Stream<Item = Result<Bytes, ExportError>> + Send + 'static,
) -> ArrayStream {
    let header = Bytes::from(npy::header(element, shape));
    let bytes = header.len() as u64 + shape.iter().product::<u64>() * element.bytes();
    ArrayStream { bytes, chunks: Box::pin(stream::once(future::ready(Ok(header))).chain(rows)) }
}

async fn row(
    blobs: Blobs,
    sha256: Sha256,
    file_name: String,
    spec: ArraySpec,
    limits: Limits,
) -> Result<Bytes, ExportError> {
    let bytes = blobs.get(&sha256).await?;
    let decoded = run_blocking(move || {
        let (_, image) = imaging::decode(&bytes, &limits)?;
        Ok(spec.elements(&imaging::resize_square(&image, spec.side)))
    });
    decoded.await?.map_err(|error: imaging::ImageError| ExportError::Image { file_name, problem: error.to_string() })
}

impl ArraySpec {
    fn elements(self, image: &GreyImage) -> Bytes {
        let channels = usize::from(self.channels);
        match self.dtype {
            Dtype::Uint8 => image.pixels.iter().flat_map(|level| std::iter::repeat_n(*level, channels)).collect(),
            Dtype::Float32 => {
                let mut bytes = Vec::with_capacity(image.pixels.len() * channels * 4);
                for level in &image.pixels {
                    let value = (f32::from(*level) / 255.0).to_le_bytes();
                    (0..channels).for_each(|_| bytes.extend_from_slice(&value));
                }
                bytes.into()
            }
        }
    }
}

impl Dtype {
    fn element(self) -> Element {
        match self {
            Self::Float32 => Element::Float32,
            Self::Uint8 => npy::UINT8,
        }
    }
}

impl FromStr for Dtype {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "float32" => Ok(Self::Float32),
            "uint8" => Ok(Self::Uint8),
            _ => Err("dtype must be float32 or uint8"),
        }
    }
}
