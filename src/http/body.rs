//! Raw request bodies with a limit of their own, in memory or in a file.

use axum::{body::Body, http::HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::ApiError;

/// The whole body in memory.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::new();
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
