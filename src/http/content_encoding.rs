//! `Content-Encoding` of request bodies: gzip is decoded, anything else is refused. Limits on bodies apply to the decoded bytes, since they
//! are counted by those who read them.

use std::io::{self, Write};

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt, stream};

use super::{
    ApiError,
    body::{BodyError, MAX_EXPANSION},
};
use crate::imaging;

/// Number of compressed bytes that are decoded at once, which bounds the memory: deflate expands at most about 1,000 times.
const SLICE_BYTES: usize = 1 << 10;

/// Decodes the request body before the request is handled.
pub(super) async fn decode(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let encoding = sent.collect::<Vec<_>>().join(", ").trim().to_ascii_lowercase();
    match encoding.as_str() {
        "" | "identity" => next.run(request).await,
        "gzip" | "x-gzip" => {
            request.headers_mut().remove(header::CONTENT_ENCODING);
            request.headers_mut().remove(header::CONTENT_LENGTH);
            next.run(request.map(|body| Body::from_stream(gunzip(body)))).await
        }
        _ => ApiError::UnsupportedType(format!(
            "unsupported Content-Encoding {encoding:?}: send the body compressed with gzip, or without Content-Encoding"
        ))
        .into_response(),
    }
}

/// A compressed body and its decoder.
struct Gunzip {
    body: BodyDataStream,
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Received bytes that are not yet decoded.
    received: Bytes,
    compressed: u64,
    decoded: u64,
    ended: bool,
}

fn gunzip(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let decoder = MultiGzDecoder::new(Vec::new());
    let body = body.into_data_stream();
    let state = Gunzip { body, decoder, received: Bytes::new(), compressed: 0, decoded: 0, ended: false };
    stream::try_unfold(state, |mut state| async move {
        while !state.ended {
            let decoded = state.decode_next().await?;
            if !decoded.is_empty() {
                return Ok(Some((decoded, state)));
            }
        }
        Ok(None)
    })
}

impl Gunzip {
    /// Decodes the next slice of the body; what it returns may be empty.
    async fn decode_next(&mut self) -> Result<Bytes, axum::Error> {
        if self.received.is_empty() {
            match self.body.next().await {
                Some(chunk) => self.received = chunk?,
                None => {
                    self.ended = true;
                    // An empty body has no end to check.
                    if self.compressed > 0 {
                        self.decoder.try_finish().map_err(damaged)?;
                    }
                }
            }
        } else {
            // Others run between two slices.
            tokio::task::yield_now().await;
        }
        let slice = self.received.split_to(self.received.len().min(SLICE_BYTES));
        self.decoder.write_all(&slice).map_err(damaged)?;
        let decoded = std::mem::take(self.decoder.get_mut());
        self.compressed += slice.len() as u64;
        self.decoded += decoded.len() as u64;
        if self.decoded > (self.compressed * MAX_EXPANSION).max(1 << 20) {
            return Err(axum::Error::new(BodyError::Bomb));
        }
        Ok(decoded.into())
    }
}

/// The error of the decoder in plain words.
fn damaged(error: io::Error) -> axum::Error {
    axum::Error::new(BodyError::Gzip(imaging::plain_reason("the gzip body", &error)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use futures_util::TryStreamExt;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn decoded(body: Vec<u8>) -> Result<Vec<u8>, axum::Error> {
        let chunks: Vec<_> =
            body.chunks(700).map(|chunk| Ok::<_, axum::Error>(Bytes::copy_from_slice(chunk))).collect();
        let chunks: Vec<Bytes> = gunzip(Body::from_stream(stream::iter(chunks))).try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn decodes_one_or_several_members() {
        let bytes: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(at) >> 5) as u8).collect();
        assert_eq!(decoded(gzip(&bytes)).await.unwrap(), bytes);
        assert_eq!(decoded([gzip(&bytes), gzip(b"more")].concat()).await.unwrap(), [&bytes[..], b"more"].concat());
        assert_eq!(decoded(Vec::new()).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn truncated_and_corrupt_bodies_and_bombs_are_errors() {
        let whole = gzip(b"some text");
        for bytes in [whole[..whole.len() - 1].to_vec(), whole[..5].to_vec(), b"no gzip at all".to_vec()] {
            let error = decoded(bytes).await.unwrap_err();
            assert!(matches!(BodyError::of(&error), Some(BodyError::Gzip(_))), "{error}");
        }
        let bomb = decoded(gzip(&vec![0; 64 << 20])).await.unwrap_err();
        assert_eq!(BodyError::of(&bomb), Some(BodyError::Bomb));
    }
}
