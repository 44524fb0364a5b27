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
