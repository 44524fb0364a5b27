//! Image preprocessing: bounded decoding of PNG, JPEG and DICOM, conversion to one grey plane, resizing. Training and serving share this
//! path; training may augment the result. Synthetic phantoms for demos and tests.

mod augmentation;
mod burned_in_text;
mod container;
mod damage;
mod dicom;
mod examine;
mod exif;
mod fingerprint;
mod grey;
mod jpeg;
#[cfg(test)]
mod matrix;
mod overlay;
pub mod phantom;
mod png;
mod quality_flags;
mod resize;
mod statistics;
mod strip;

pub use augmentation::Transform;
pub use container::sniff;
pub use damage::plain_reason;
pub use dicom::{DicomRadiograph, SopInstance, sop_instance};
pub use examine::{ExaminedImage, examine};
pub use fingerprint::{FINGERPRINT_VERSION, detail, fingerprint, mirrored_detail, mirrored_hash, similarity};
pub use grey::luma;
pub use overlay::overlay_png;
pub use quality_flags::{grey_range, quality_flags};
pub use resize::{resize_square, shrink};
pub use statistics::{statistics, statistics_of_plane};

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

/// Minimum side of an accepted image, in pixels. Smaller images show no usable anatomy, and networks need at least 32 pixels.
pub const MIN_SIDE: u32 = 32;

/// Version of the output of [`decode`] and [`resize_square`]. Raise it whenever they return different pixels for the same bytes: cached
/// images of earlier versions are then recomputed.
pub const PREPROCESSING_VERSION: u32 = 2;

/// Limits of the decoder, checked before memory is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of pixels (width x height).
    pub max_pixels: u64,
}

/// Reason why a file is not a usable radiograph.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is neither PNG nor JPEG nor DICOM (HTTP 415).
    #[error("not a PNG, JPEG or DICOM image")]
    UnsupportedType,
    /// The image exceeds the pixel limit, according to its header (HTTP 413).
    #[error("the image has {width} x {height} pixels, over the limit of {max_pixels}")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Maximum number of pixels.
        max_pixels: u64,
    },
    /// The type is supported, but the content is truncated, corrupt, too small or not a radiograph (HTTP 422).
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
}

/// File format, detected from the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// DICOM. Never stored as such.
    Dicom,
}

/// A decoded PNG or JPEG.
struct DecodedImage {
    image: GreyImage,
    /// True if image viewers show the same image: not for transparent pixels, inks, and few significant bits.
    viewers_agree: bool,
    /// True if the file is marked as a synthetic phantom.
    synthetic: bool,
}

/// Greyscale image: one plane, 0 (black) to 255 (white).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreyImage {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Grey levels in row-major order: `width * height` bytes.
    pub pixels: Vec<u8>,
}

impl Format {
    /// The name: `png`, `jpeg` or `dicom`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Dicom => "dicom",
        }
    }

    /// The extension of file names.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Dicom => "dcm",
        }
    }

    /// The media type: `image/png`, `image/jpeg` or `application/dicom`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Dicom => "application/dicom",
        }
    }
}

/// Detects the format, checks the header against `limits`, decodes the image and converts it to greyscale.
///
/// Colour is converted to Rec. 601 luma, 16 bits to 8 by rounding `value / 257`. Transparent pixels are composited over black, the
/// background of a radiograph. An EXIF orientation and the sBIT chunk of a PNG are applied. For DICOM, modality and VOI transformations
/// (tables, rescale, window), padding and photometric interpretation are applied.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<(Format, GreyImage), ImageError> {
    let format = container::sniff(bytes).ok_or(ImageError::UnsupportedType)?;
    let image = match format {
        Format::Png => png::read(bytes, limits)?.image,
        Format::Jpeg => jpeg::read(bytes, limits)?.image,
        Format::Dicom => dicom::read(bytes, limits)?.grey(),
    };
    Ok((format, image))
}

/// Rejects images over the pixel limit and images with a side below [`MIN_SIDE`].
fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, max_pixels: limits.max_pixels });
    }
    if width.min(height) < MIN_SIDE {
        return Err(undecodable(format!("each side must have at least {MIN_SIDE} pixels (got {width} x {height})")));
    }
    Ok(())
}

fn undecodable(why: impl ToString) -> ImageError {
    ImageError::Undecodable(why.to_string())
}

/// Encodes as 8-bit grey PNG.
pub fn encode_png(image: &GreyImage) -> Vec<u8> {
    encode(image.width, image.height, &image.pixels, ExtendedColorType::L8)
}

/// Encodes `width * height` RGB pixels as PNG.
pub fn encode_colour_png(width: u32, height: u32, colours: &[u8]) -> Vec<u8> {
    encode(width, height, colours, ExtendedColorType::Rgb8)
}

fn encode(width: u32, height: u32, pixels: &[u8], colour: ExtendedColorType) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new(&mut bytes)
        .write_image(pixels, width, height, colour)
        .expect("writing to memory cannot fail, and an image has width x height pixels");
    bytes.into_inner()
}

#[cfg(test)]
mod tests;
