//! Export of a split as NumPy arrays, computed while streaming: only a few images are in memory at a time.

use std::{pin::Pin, str::FromStr};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    domain::{DatasetId, MAX_IMAGE_SIZE, RadiographId, Sha256, Split},
    imaging::{self, GreyImage, Limits},
    store::{self, Blobs, Dataset, Db, Radiograph},
};

use super::{
    ExportError,
    npy::{self, Element},
    run_blocking,
    upload::DECODERS,
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

/// Images that are decoded ahead of the one that is being written.
const READ_AHEAD: usize = 2;

/// Size of a chunk of an image array, in bytes. Elements are computed chunk by chunk, since they take up to twelve times the memory of the
/// grey image.
const CHUNK_BYTES: usize = 64 << 10;

/// The labelled images of a split in order of arrival, decoded and resized like network inputs.
///
/// # Errors
/// Radiographs whose stored image is missing or damaged, as far as that is known before all of them are read.
pub async fn image_array(
    db: &Db,
    blobs: &Blobs,
    dataset: DatasetId,
    split: Split,
    spec: ArraySpec,
    limits: Limits,
) -> Result<ArrayStream, ExportError> {
    let radiographs = store::radiographs::labelled_in_order(db, dataset, split).await?;
    check(blobs, split, &radiographs).await?;
    let images: Vec<_> = radiographs.into_iter().map(|radiograph| (radiograph.sha256, radiograph.id)).collect();
    let shape = [images.len() as u64, spec.side.into(), spec.side.into(), spec.channels.into()];
    let blobs = blobs.clone();
    let chunks = stream::iter(images)
        .map(move |(sha256, id)| image(blobs.clone(), sha256, id, spec.side, limits))
        .buffered(READ_AHEAD)
        .map_ok(move |image| stream::iter(spec.chunks(image).map(Ok)))
        .try_flatten();
    Ok(npy_stream(spec.dtype.element(), &shape, chunks))
}

/// Refuses an export whose images are known to be unreadable.
async fn check(blobs: &Blobs, split: Split, radiographs: &[Radiograph]) -> Result<(), ExportError> {
    let stored = radiographs.iter().map(|radiograph| (radiograph.sha256.clone(), radiograph.byte_length)).collect();
    let damaged = blobs.damaged(stored).await?;
    if damaged.is_empty() {
        return Ok(());
    }
    Err(ExportError::Damaged { split, radiographs: damaged.into_iter().map(|at| radiographs[at].id).collect() })
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

async fn image(
    blobs: Blobs,
    sha256: Sha256,
    radiograph: RadiographId,
    side: u32,
    limits: Limits,
) -> Result<GreyImage, ExportError> {
    let permit = DECODERS.acquire().await.expect("the semaphore is never closed");
    let bytes = blobs.get(&sha256).await?;
    let decoded = run_blocking(move || {
        // Held by the decoding and not by the export, whose client may be gone.
        let _permit = permit;
        let (_, image) = imaging::decode(&bytes, &limits)?;
        Ok(imaging::resize_square(&image, side))
    });
    decoded.await?.map_err(|error: imaging::ImageError| ExportError::Image { radiograph, problem: error.to_string() })
}

impl ArraySpec {
    /// The elements of an image, computed when they are needed.
    fn chunks(self, image: GreyImage) -> impl Iterator<Item = Bytes> + Send {
        let pixels = Bytes::from(image.pixels);
        let step = CHUNK_BYTES / (usize::from(self.channels) * self.dtype.element().bytes() as usize);
        (0..pixels.len()).step_by(step).map(move |at| self.elements(&pixels[at..pixels.len().min(at + step)]))
    }

    fn elements(self, levels: &[u8]) -> Bytes {
        let channels = usize::from(self.channels);
        match self.dtype {
            Dtype::Uint8 => levels.iter().flat_map(|level| std::iter::repeat_n(*level, channels)).collect(),
            Dtype::Float32 => {
                let mut bytes = Vec::with_capacity(levels.len() * channels * 4);
                for level in levels {
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
