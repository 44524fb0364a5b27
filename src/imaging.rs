//! Bytes to model input: bounded decode, one grey plane, resize. The same path for training and serving.

/// Bounds checked before memory is taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest accepted width x height.
    pub max_pixels: u64,
}

/// Why bytes are not a usable radiograph.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither PNG nor JPEG (HTTP 415).
    #[error("not a PNG or JPEG image")]
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
    /// Right type, unusable content: truncated, corrupt, too small (HTTP 422).
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
    /// `png` or `jpeg`.
    pub fn as_str(self) -> &'static str {
        unimplemented!()
    }

    /// `image/png` or `image/jpeg`.
    pub fn media_type(self) -> &'static str {
        unimplemented!()
    }
}

/// Tells the type from magic bytes, checks the header against `limits`, decodes, converts to grey.
pub fn decode(_bytes: &[u8], _limits: &Limits) -> Result<(Format, GreyImage), ImageError> {
    unimplemented!()
}

/// Resizes to a `side` x `side` square (aspect ratio not kept, as the report does), antialiased bilinear.
pub fn resize_square(_image: &GreyImage, _side: u32) -> GreyImage {
    unimplemented!()
}

/// Encodes as 8-bit grey PNG.
pub fn encode_png(_image: &GreyImage) -> Vec<u8> {
    unimplemented!()
}
