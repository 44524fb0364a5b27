//! Raw request bodies with a limit of their own, in memory or in a file; and bodies that do something when they end.

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

/// The whole body in memory, in one piece from the start where the client says how long it is: growing it by and by would take up to three
/// times as much.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().exact().unwrap_or(0);
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(limit).min(limit));
    write(body, limit, &mut bytes).await?;
    Ok(bytes.into())
}

/// The whole body into `sink`; refused as soon as it is over the limit.
pub(super) async fn write(body: Body, limit: usize, sink: &mut (impl AsyncWrite + Unpin)) -> Result<(), ApiError> {
    let mut chunks = body.into_data_stream();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::Malformed(format!("the body ended early: {error}")))?;
        length += chunk.len();
        if length > limit {
            return Err(ApiError::TooLarge(format!("the body is over the limit of {limit} bytes")));
        }
        sink.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    sink.flush().await.map_err(ApiError::internal)
}

/// The media type without its parameters, in lower case; empty when there is none.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A body that keeps something until it has ended or is dropped.
pub(super) struct Held<T> {
    body: Body,
    held: Option<T>,
}

impl<T> Held<T> {
    pub(super) fn new(body: Body, held: T) -> Self {
        Self { body, held: Some(held) }
    }
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if is_end(&polled) {
            self.held = None;
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

/// How long a client that was answered already may go on sending.
const LINGERING: Duration = Duration::from_secs(5);

/// The body of a request. What is left of it when it is dropped is read and thrown away: a server that answers early and closes would
/// reset the connection under a client that still sends, and the client would never read the answer.
pub(super) struct Lingering {
    body: Body,
    most: usize,
    discarding: Arc<Semaphore>,
    ended: bool,
}

impl Lingering {
    /// Throws away `most` bytes at most, when it is its turn.
    pub(super) fn new(body: Body, most: usize, discarding: Arc<Semaphore>) -> Self {
        Self { body, most, discarding, ended: false }
    }
}

impl HttpBody for Lingering {
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

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.ended || self.body.is_end_stream() {
            return;
        }
        let (body, most, discarding) = (std::mem::take(&mut self.body), self.most, Arc::clone(&self.discarding));
        let discard = async move {
            let _turn = discarding.acquire().await;
            write(body, most, &mut tokio::io::sink()).await
        };
        // Whether it ended, failed or was too long makes no difference any more.
        let discard = async { drop(tokio::time::timeout(LINGERING, discard).await) };
        // Without a runtime the connection is gone, too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(discard);
        }
    }
}
