//! Request bodies read in full, with a size limit, and wrappers around bodies that act when the body ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::HeaderMap,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    runtime::Handle,
    sync::Semaphore,
};

use super::ApiError;
use crate::imaging;

/// Reads the whole body into memory. Allocates once if the client sent the length: growing the buffer would take up to three times
/// the memory.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let declared_length = body.size_hint().exact().unwrap_or(0);
    let mut bytes = Vec::with_capacity(usize::try_from(declared_length).unwrap_or(limit).min(limit));
    write(body, limit, &mut bytes).await?;
    Ok(bytes.into())
}

/// Writes the whole body to `sink`; fails as soon as it exceeds the limit.
pub(super) async fn write(body: Body, limit: usize, sink: &mut (impl AsyncWrite + Unpin)) -> Result<(), ApiError> {
    let mut chunks = body.into_data_stream();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::Malformed(format!("the request body is incomplete: {error}")))?;
        length += chunk.len();
        if length > limit {
            return Err(ApiError::TooLarge(format!("the request body exceeds the limit of {limit} bytes")));
        }
        sink.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    sink.flush().await.map_err(ApiError::internal)
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

/// A body that owns a guard, and drops the guard when the body ends or is dropped.
pub(super) struct BodyGuard<T> {
    body: Body,
    guard: Option<T>,
}

impl<T> BodyGuard<T> {
    pub(super) fn new(body: Body, guard: T) -> Self {
        Self { body, guard: Some(guard) }
    }
}

impl<T: Unpin> HttpBody for BodyGuard<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if is_end(&polled) {
            self.guard = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn is_end(polled: &Poll<Option<Result<Frame<Bytes>, axum::Error>>>) -> bool {
    matches!(polled, Poll::Ready(None | Some(Err(_))))
}

/// Maximum time for discarding the rest of a body after the response.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// A request body whose unread rest is read and discarded when it is dropped (nginx: *lingering close*).
///
/// A server that responds early and closes the connection would reset it under a client that is still sending, and the client would
/// never read the response.
pub(super) struct DiscardOnDrop {
    body: Body,
    max_bytes: usize,
    permits: Arc<Semaphore>,
    ended: bool,
}

impl DiscardOnDrop {
    /// Discards at most `max_bytes`, while holding one of `permits`.
    pub(super) fn new(body: Body, max_bytes: usize, permits: Arc<Semaphore>) -> Self {
        Self { body, max_bytes, permits, ended: false }
    }
}

impl HttpBody for DiscardOnDrop {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= is_end(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for DiscardOnDrop {
    fn drop(&mut self) {
        if self.ended || self.body.is_end_stream() {
            return;
        }
        let (body, max_bytes, permits) = (std::mem::take(&mut self.body), self.max_bytes, Arc::clone(&self.permits));
        let discard = async move {
            let _permit = permits.acquire().await;
            write(body, max_bytes, &mut tokio::io::sink()).await
        };
        // The result does not matter: the response has been sent.
        let discard = async { drop(tokio::time::timeout(MAX_DISCARD_TIME, discard).await) };
        // Without a runtime the connection is closed, too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(discard);
        }
    }
}
