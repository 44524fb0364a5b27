//! Request bodies: their receipt within budgets of memory, disk and time, their errors, and what their media types say.

mod observed;
mod receipt;
mod receive;

use std::error::Error;

use axum::http::HeaderMap;
use bytes::Bytes;

use super::ApiError;
use crate::imaging;
pub(super) use observed::{BodyObserver, Deadline, Discard, Guard, observed};
pub(super) use receipt::{Receipt, declared_length};
pub(super) use receive::{Received, Receiver};

/// Maximum compression ratio of a body over 1 MiB. Images hardly compress, so that a higher ratio is a decompression bomb.
pub(super) const MAX_EXPANSION: u64 = 200;

/// Reason why a request body ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum BodyError {
    /// The client paused for too long, or sent too slowly (408).
    #[error("the request body did not arrive in time: send it again, faster and without long pauses")]
    TooSlow,
    /// The server shuts down (503).
    #[error("the server is shutting down and does not wait for the request body: retry")]
    Shutdown,
    /// The body is too long (413).
    #[error("the request body exceeds the limit of {0} bytes")]
    TooLarge(u64),
    /// The body decompresses to too much (413).
    #[error(
        "the request body decompresses to more than {MAX_EXPANSION} times its size: send it without Content-Encoding"
    )]
    Bomb,
    /// The body is not what its `Content-Encoding` says (400).
    #[error("the request body cannot be decompressed: {0}")]
    Gzip(String),
    /// The head of a part of a form is too long (400).
    #[error("invalid multipart body: the head of a part, or the text before the first part, exceeds {0} bytes")]
    PartHead(u64),
}

impl BodyError {
    /// The reason behind an error, which wrappers of bodies and parsers may have wrapped.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = std::iter::successors(Some(error), |error| (*error).source());
        causes.find_map(|cause| cause.downcast_ref::<Self>().cloned())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let detail = error.to_string();
        match error {
            BodyError::TooSlow => Self::Timeout(detail),
            BodyError::Shutdown => Self::Unavailable(detail),
            BodyError::TooLarge(_) | BodyError::Bomb => Self::TooLarge(detail),
            BodyError::Gzip(_) | BodyError::PartHead(_) => Self::Malformed(detail),
        }
    }
}

impl ApiError {
    /// The error of a body that failed. Without a reason of its own, the client has stopped sending.
    pub(super) fn of_body(error: &(dyn Error + 'static)) -> Self {
        let incomplete = || Self::Malformed(format!("the request body is incomplete: {error}"));
        BodyError::of(error).map_or_else(incomplete, Self::from)
    }
}

/// True for the media types with which clients send an image: those of images, and those that say nothing, such as curl's default. Their
/// first bytes tell the format.
fn may_be_image(media_type: &str) -> bool {
    const UNSPECIFIC: [&str; 4] =
        ["", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"];
    media_type.starts_with("image/") || media_type == "application/dicom" || UNSPECIFIC.contains(&media_type)
}

/// 415 for a body that is not an image.
fn not_an_image(found: &str) -> ApiError {
    ApiError::UnsupportedType(format!(
        "{found}: send the bytes of a PNG, JPEG or DICOM file, as the body (curl --data-binary @FILE) or as the part `file` \
         of a form (curl --form file=@FILE)"
    ))
}

/// 415 for a body whose media type says that it is something else than an image.
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type = media_type(headers);
    if may_be_image(&media_type) {
        return Ok(());
    }
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    let hint = if is_json { ", and base64 in JSON is not decoded here" } else { "" };
    Err(not_an_image(&format!("a body of type {media_type:?} is not an image{hint}")))
}

/// 415 for a body whose first bytes are not those of a PNG, JPEG or DICOM file.
pub(super) fn check_image(bytes: Bytes) -> Result<Bytes, ApiError> {
    if imaging::sniff(&bytes).is_some() {
        return Ok(bytes);
    }
    let start = bytes.trim_ascii_start();
    let is = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| start.starts_with(prefix));
    Err(not_an_image(match start {
        [] => "the body is empty",
        _ if is(&[b"{", b"["]) => "the body is JSON, and base64 in it is not decoded here",
        // The first bytes of PNG, JPEG and DICOM in base64, and of a data URL.
        _ if is(&[b"iVBORw0KGgo", b"/9j/", b"AAAAAAAAAAAAAAAA", b"data:"]) => "the body is base64 text",
        _ => "the body is not an image",
    }))
}

/// The media type of `Content-Type` without parameters, in lower case; empty without the header.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
