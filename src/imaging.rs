//! Bytes to model input: bounded decode, one grey plane, resize. The same path for training and serving; training may change its images
//! at random after it.

mod augmentation;
mod burned_in_text;
mod container;
mod dicom;
mod examine;
mod fingerprint;
mod grey;
mod overlay;
mod quality_flags;
mod resize;
mod statistics;
mod strip;

pub use augmentation::Transform;
pub use dicom::{DicomRadiograph, Reference, reference};
pub use examine::{Examined, examine};
pub use fingerprint::{FINGERPRINT_VERSION, detail, fingerprint, mirrored_detail, mirrored_hash, similarity};
pub use grey::luma;
pub use overlay::overlay_png;
pub use quality_flags::quality_flags;
pub use resize::{resize_square, shrink};
pub use statistics::{statistics, statistics_of_plane};

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

/// Smallest accepted side in pixels: below it there is no chest to see, and networks take 32 and more.
pub const MIN_SIDE: u32 = 32;

/// Version of what [`decode`] and [`resize_square`] make of the same bytes. To be raised whenever they come to give other pixels:
/// images that were decoded and resized before and kept are then made anew.
pub const PREPROCESSING: u32 = 1;

/// Bounds checked before memory is taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest accepted width x height.
    pub max_pixels: u64,
}

/// Why bytes are not a usable radiograph.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither PNG nor JPEG nor DICOM (HTTP 415).
    #[error("not a PNG, JPEG or DICOM image")]
    UnsupportedType,
    /// Over the pixel limit; known from the header alone (HTTP 413).
    #[error("{width} x {height} pixels are over the limit of {max_pixels}")]
    TooManyPixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// Right type, unusable content: truncated, corrupt, too small, no radiograph (HTTP 422).
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
}

/// The container of the uploaded bytes, told from their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// DICOM. It is never stored as such.
    Dicom,
}

/// One grey plane, row by row, 0 black to 255 white.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreyImage {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height` bytes.
    pub pixels: Vec<u8>,
}

impl Format {
    /// `png`, `jpeg` or `dicom`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Dicom => "dicom",
        }
    }

    /// `image/png`, `image/jpeg` or `application/dicom`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Dicom => "application/dicom",
        }
    }
}

/// Tells the type from magic bytes, checks the header against `limits`, decodes, converts to grey.
///
/// Colour becomes Rec. 601 luma, 16 bits become 8 by rounding `value / 257`, a translucent pixel is laid over black
/// (the background of a radiograph; an opaque one is unchanged), and an EXIF orientation is carried out. Of a DICOM
/// the modality and VOI tables, rescale, window, padding and photometric interpretation are applied.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<(Format, GreyImage), ImageError> {
    let format = container::sniff(bytes).ok_or(ImageError::UnsupportedType)?;
    let image = match format {
        Format::Png => container::read_png(bytes, limits)?,
        Format::Jpeg => container::read_jpeg(bytes, limits)?,
        Format::Dicom => dicom::read(bytes, limits)?.grey(),
    };
    Ok((format, image))
}

/// Refuses what is over the limit, and what is too small to show a chest.
fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, max_pixels: limits.max_pixels });
    }
    if width.min(height) < MIN_SIDE {
        return Err(undecodable(format!("{width} x {height} pixels: each side needs at least {MIN_SIDE}")));
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

/// Encodes `width * height` colours of red, green and blue as PNG.
pub fn encode_colour_png(width: u32, height: u32, colours: &[u8]) -> Vec<u8> {
    encode(width, height, colours, ExtendedColorType::Rgb8)
}

fn encode(width: u32, height: u32, pixels: &[u8], colour: ExtendedColorType) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new(&mut bytes)
        .write_image(pixels, width, height, colour)
        .expect("memory takes the bytes, and an image holds width x height pixels");
    bytes.into_inner()
}

#[cfg(test)]
mod tests;
