//! From an input tensor to radiographs: encoded files, or pixels, which skip decoding and go through all other steps.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes};

use super::{
    metadata::TensorMetadata,
    request::{Data, InferRequest, InputTensor},
};
use crate::{
    domain::Sha256,
    http::ApiError,
    imaging::{self, GreyImage, Limits, MIN_SIDE},
    service::Content,
};

/// Input tensors: name, data type and number of dimensions.
const INPUTS: [(&str, &str, usize); 3] = [("image", "BYTES", 1), ("uint8", "UINT8", 4), ("fp32", "FP32", 4)];

/// Maximum number of images in a request; each result takes memory.
const MAX_IMAGES: u64 = 1000;

/// Metadata of the input tensors, of which a request sends one.
pub(super) fn metadata() -> Vec<TensorMetadata> {
    INPUTS.map(|(name, datatype, dimensions)| TensorMetadata { name, datatype, shape: vec![-1; dimensions] }).into()
}

/// Reads the images of a request. `raw` are the bytes after its JSON. Blocks.
pub(super) fn images(request: &mut InferRequest, raw: Bytes, limits: &Limits) -> Result<Vec<Content>, ApiError> {
    let [input] = request.inputs.as_mut_slice() else {
        return Err(malformed("a request must have exactly one input: image, uint8 or fp32"));
    };
    check_name(input)?;
    check_parameters(input, &raw)?;
    let data = input.data.take().filter(|_| raw.is_empty());
    match (input.datatype.as_str(), data) {
        ("BYTES", data) => encoded(input, data, raw),
        ("UINT8", Some(data)) => grey(input, Levels(&data.numbers), limits),
        ("UINT8", None) => grey(input, Bytewise(&raw), limits),
        (_, Some(data)) => grey(input, Levels(&data.numbers), limits),
        (_, None) => grey(input, LittleEndian(&raw), limits),
    }
}

fn malformed(detail: impl Into<String>) -> ApiError {
    ApiError::Malformed(detail.into())
}

fn check_name(input: &InputTensor) -> Result<(), ApiError> {
    let known = INPUTS.iter().find(|(name, ..)| *name == input.name);
    let (name, datatype, _) =
        known.ok_or_else(|| malformed(format!("unknown input {:?}: send image, uint8 or fp32", input.name)))?;
    if input.datatype != *datatype {
        return Err(malformed(format!("the datatype of {name} must be {datatype} (got {:?})", input.datatype)));
    }
    Ok(())
}

/// Checks that the elements are either in the JSON or in the raw bytes after it.
fn check_parameters(input: &InputTensor, raw: &Bytes) -> Result<(), ApiError> {
    if input.parameters.contains_key("shared_memory_region") {
        return Err(malformed("shared memory is not supported: send the tensor in the request"));
    }
    let size = input.parameters.get("binary_data_size");
    match (size, &input.data) {
        (Some(_), Some(_)) => Err(malformed("the input has both data and binary_data_size: send one of them")),
        (Some(size), None) if size.as_u64() != Some(raw.len() as u64) => {
            Err(malformed(format!("binary_data_size is {size}, but {} bytes follow the JSON", raw.len())))
        }
        (None, None) => Err(malformed("the input has neither data nor binary_data_size: send one of them")),
        (None, Some(_)) if !raw.is_empty() => Err(malformed("bytes follow the JSON, but binary_data_size is missing")),
        _ => Ok(()),
    }
}

/// Encoded files. The shape is `[images]`, or `[images, 1]`, which some servers require.
fn encoded(input: &InputTensor, data: Option<Data>, mut raw: Bytes) -> Result<Vec<Content>, ApiError> {
    let count = match input.shape.as_slice() {
        [count] | [count, 1] => *count,
        _ => return Err(malformed("the shape of image must be [images] or [images, 1]")),
    };
    check_count(count)?;
    let files: Vec<Bytes> = match data {
        Some(data) => {
            let decode = |text: &String| BASE64_STANDARD.decode(text).map(Bytes::from);
            let files: Result<_, _> = data.texts.iter().map(decode).collect();
            files.map_err(|error| malformed(format!("the elements of image must be base64 in JSON: {error}")))?
        }
        None => std::iter::from_fn(|| element(&mut raw)).take(count as usize + 1).collect(),
    };
    if files.len() as u64 != count || !raw.is_empty() {
        return Err(malformed(format!("the shape of image does not match its data: expected {count} elements")));
    }
    Ok(files.into_iter().map(Content::Encoded).collect())
}

/// Splits off the next element of a raw BYTES tensor: its length in 4 bytes, little-endian, then its bytes. `None` if it is incomplete.
fn element(raw: &mut Bytes) -> Option<Bytes> {
    let length = u32::from_le_bytes(raw.get(..4)?.try_into().ok()?) as usize;
    if raw.len() - 4 < length {
        return None;
    }
    raw.advance(4);
    Some(raw.split_to(length))
}

fn check_count(count: u64) -> Result<(), ApiError> {
    match count {
        1..=MAX_IMAGES => Ok(()),
        _ => Err(malformed(format!("a request must have 1 to {MAX_IMAGES} images (got {count})"))),
    }
}

/// Pixel values from 0 (black) to 255 (white), in the order of the tensor.
trait Elements {
    fn count(&self) -> usize;

    /// The value at `index`, rounded; `None` outside 0 to 255.
    fn level(&self, index: usize) -> Option<u8>;
}

struct Levels<'a>(&'a [f32]);
struct Bytewise<'a>(&'a [u8]);
struct LittleEndian<'a>(&'a [u8]);

impl Elements for Levels<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn level(&self, index: usize) -> Option<u8> {
        rounded(self.0[index])
    }
}

impl Elements for Bytewise<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn level(&self, index: usize) -> Option<u8> {
        Some(self.0[index])
    }
}

impl Elements for LittleEndian<'_> {
    fn count(&self) -> usize {
        self.0.len() / 4
    }

    fn level(&self, index: usize) -> Option<u8> {
        let [a, b, c, d] = self.0[4 * index..][..4] else { return None };
        rounded(f32::from_le_bytes([a, b, c, d]))
    }
}

fn rounded(level: f32) -> Option<u8> {
    (0.0..=255.0).contains(&level).then(|| level.round() as u8)
}

/// Memory layout of a batch of images.
struct Layout {
    images: u64,
    channels: usize,
    height: usize,
    width: usize,
    channel_stride: usize,
    pixel_stride: usize,
}

impl Layout {
    /// Parses the shape `[images, channels, height, width]` or `[images, height, width, channels]`, with 1 or 3 channels. If both
    /// are possible it is the first.
    fn parse(input: &InputTensor, limits: &Limits) -> Result<Self, ApiError> {
        let (images, channels, height, width, channels_first) = match *input.shape.as_slice() {
            [images, channels @ (1 | 3), height, width] => (images, channels, height, width, true),
            [images, height, width, channels @ (1 | 3)] => (images, channels, height, width, false),
            _ => {
                let name = &input.name;
                let shapes =
                    "[images, channels, height, width] or [images, height, width, channels] with 1 or 3 channels";
                return Err(malformed(format!("the shape of {name} must be {shapes}")));
            }
        };
        check_count(images)?;
        if height.saturating_mul(width) > limits.max_pixels {
            return Err(ApiError::TooLarge(format!(
                "{width} x {height} pixels exceed the limit of {} pixels",
                limits.max_pixels
            )));
        }
        if height.min(width) < u64::from(MIN_SIDE) {
            return Err(ApiError::Unusable(format!(
                "width and height must be at least {MIN_SIDE} pixels (got {width} x {height})"
            )));
        }
        let [channels, height, width] = [channels, height, width].map(|length| length as usize);
        let (channel_stride, pixel_stride) =
            if channels_first { (height.saturating_mul(width), 1) } else { (1, channels) };
        Ok(Self { images, channels, height, width, channel_stride, pixel_stride })
    }

    /// Number of elements per image. Saturates, because the shape comes from the client.
    fn elements_per_image(&self) -> usize {
        self.channels.saturating_mul(self.height).saturating_mul(self.width)
    }
}

/// Converts each image to a grey plane. Colour is converted as in decoded files.
fn grey(input: &InputTensor, elements: impl Elements, limits: &Limits) -> Result<Vec<Content>, ApiError> {
    let layout = Layout::parse(input, limits)?;
    let per_image = layout.elements_per_image();
    if elements.count() as u64 != layout.images.saturating_mul(per_image as u64) {
        let (shape, count) = (&input.shape, elements.count());
        return Err(malformed(format!("the shape {shape:?} does not match the data, which has {count} elements")));
    }
    let image = |image: usize| {
        let level = |pixel: usize, channel: usize| {
            elements.level(image * per_image + pixel * layout.pixel_stride + channel * layout.channel_stride)
        };
        let pixel = |pixel: usize| match layout.channels {
            1 => level(pixel, 0),
            _ => Some(imaging::luma(level(pixel, 0)?, level(pixel, 1)?, level(pixel, 2)?)),
        };
        let pixels: Option<Vec<u8>> = (0..layout.height * layout.width).map(pixel).collect();
        let pixels = pixels
            .ok_or_else(|| ApiError::Unusable("pixel values must be between 0 (black) and 255 (white)".into()))?;
        let (width, height) = (layout.width as u32, layout.height as u32);
        Ok(Content::Grey(Sha256::of(&pixels), GreyImage { width, height, pixels }))
    };
    (0..layout.images as usize).map(image).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits { max_pixels: 10_000 };

    fn read(input: serde_json::Value, raw: &[u8]) -> Result<Vec<Content>, ApiError> {
        let mut request: InferRequest = serde_json::from_value(json!({ "inputs": [input] })).unwrap();
        images(&mut request, Bytes::copy_from_slice(raw), &LIMITS)
    }

    fn planes(read: Result<Vec<Content>, ApiError>) -> Vec<(u32, u32, Vec<u8>)> {
        let plane = |content| match content {
            Content::Grey(_, image) => (image.width, image.height, image.pixels),
            Content::Encoded(_) => panic!("encoded"),
        };
        read.unwrap().into_iter().map(plane).collect()
    }

    #[test]
    fn reads_the_same_planes_from_both_layouts_and_all_datatypes_and_encodings() {
        let (height, width) = (32, 40);
        let colour = |image: usize, pixel: usize, channel: usize| (image * 100 + pixel % 50 * 2 + channel * 20) as u8;
        let pixels = height * width;
        let first: Vec<u8> =
            (0..2 * 3 * pixels).map(|i| colour(i / (3 * pixels), i % pixels, i / pixels % 3)).collect();
        let last: Vec<u8> = (0..2 * 3 * pixels).map(|i| colour(i / (3 * pixels), i / 3 % pixels, i % 3)).collect();
        let plane = |image| {
            let grey = |pixel| imaging::luma(colour(image, pixel, 0), colour(image, pixel, 1), colour(image, pixel, 2));
            (40, 32, (0..pixels).map(grey).collect())
        };
        let expected: Vec<(u32, u32, Vec<u8>)> = vec![plane(0), plane(1)];
        for (shape, levels) in [([2, 3, height, width], first), ([2, height, width, 3], last)] {
            let bytes = json!({"name": "uint8", "datatype": "UINT8", "shape": shape,
                "parameters": {"binary_data_size": levels.len()}});
            assert_eq!(planes(read(bytes, &levels)), expected);
            let numbers = json!({"name": "uint8", "datatype": "UINT8", "shape": shape, "data": levels});
            assert_eq!(planes(read(numbers, &[])), expected);
            let floats: Vec<u8> = levels.iter().flat_map(|level| (f32::from(*level) + 0.2).to_le_bytes()).collect();
            let raw = json!({"name": "fp32", "datatype": "FP32", "shape": shape,
                "parameters": {"binary_data_size": floats.len()}});
            assert_eq!(planes(read(raw, &floats)), expected);
            let numbers = json!({"name": "fp32", "datatype": "FP32", "shape": shape, "data": levels});
            assert_eq!(planes(read(numbers, &[])), expected);
        }
    }

    #[test]
    fn reads_files_with_their_lengths_or_in_base64() {
        let raw = [&3_u32.to_le_bytes()[..], b"one", &2_u32.to_le_bytes(), b"to"].concat();
        let binary = |shape: serde_json::Value, size: usize| json!({"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}});
        let text = json!({"name": "image", "datatype": "BYTES", "shape": [2], "data": ["b25l", "dG8="]});
        for read in
            [read(binary(json!([2]), raw.len()), &raw), read(binary(json!([2, 1]), raw.len()), &raw), read(text, &[])]
        {
            let files: Vec<Bytes> = read
                .unwrap()
                .into_iter()
                .map(|content| match content {
                    Content::Encoded(bytes) => bytes,
                    Content::Grey(..) => panic!("decoded"),
                })
                .collect();
            assert_eq!(files, ["one", "to"]);
        }
        for (shape, cut) in [(json!([1]), 0), (json!([3]), 0), (json!([2]), 1), (json!([2, 2]), 0), (json!([0]), 0)] {
            let raw = &raw[..raw.len() - cut];
            assert!(
                matches!(read(binary(shape.clone(), raw.len()), raw), Err(ApiError::Malformed(_))),
                "{shape} {cut}"
            );
        }
    }

    #[test]
    fn rejects_tensors_that_do_not_match_their_shape_or_limits() {
        let fp32 = |shape: [u64; 4], level: f32| {
            let data = vec![
                level;
                shape.iter().fold(1_u64, |product, length| product.saturating_mul(*length)).min(4096)
                    as usize
            ];
            read(json!({"name": "fp32", "datatype": "FP32", "shape": shape, "data": data}), &[])
        };
        assert!(fp32([1, 1, 32, 32], 255.0).is_ok());
        assert!(matches!(fp32([1, 1, 32, 32], 255.6), Err(ApiError::Unusable(_))));
        assert!(matches!(fp32([1, 1, 32, 32], -1.0), Err(ApiError::Unusable(_))));
        assert!(matches!(fp32([1, 1, 16, 32], 1.0), Err(ApiError::Unusable(_))));
        assert!(matches!(fp32([1, 2, 32, 32], 1.0), Err(ApiError::Malformed(_))));
        assert!(matches!(fp32([2, 1, 64, 64], 1.0), Err(ApiError::Malformed(_))));
        assert!(matches!(fp32([1, 1, 1 << 40, 1 << 40], 1.0), Err(ApiError::TooLarge(_))));
        let boundless = Limits { max_pixels: u64::MAX };
        let input =
            json!({"name": "fp32", "datatype": "FP32", "shape": [1, 1, 1_u64 << 40, 1_u64 << 40], "data": [1.0]});
        let mut request: InferRequest = serde_json::from_value(json!({ "inputs": [input] })).unwrap();
        assert!(matches!(images(&mut request, Bytes::new(), &boundless), Err(ApiError::Malformed(_))));
        let wrong = [
            json!({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 32, 32], "data": []}),
            json!({"name": "uint8", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": []}),
            json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 1, 32, 32]}),
            json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 1, 32, 32], "parameters": {"binary_data_size": 9}}),
            json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 1, 32, 32], "parameters": {"shared_memory_region": "a"}}),
        ];
        for wrong in wrong {
            assert!(matches!(read(wrong.clone(), &[]), Err(ApiError::Malformed(_))), "{wrong}");
        }
    }
}
