//! Receipt of the body of one request.

use axum::{body::Body, extract::Request, http::header};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::{Received, Receiver, media_type};
use crate::{
    http::{ApiError, transfers::Transfers},
    inference::{Engine, RequestPermit},
};

/// Number of bytes of a body that a request receives before it takes a permit of the engine.
const BEGINNING_BYTES: usize = 64 << 10;

/// Receipt of the body of one request, an extension of the request.
#[derive(Clone, Debug)]
pub(in crate::http) struct Receipt {
    /// The budgets.
    pub(in crate::http) transfers: Transfers,
    /// Cancelled once the client is too slow for its request to hold a permit of the engine while its body arrives.
    pub(in crate::http) slow: CancellationToken,
    max_upload_bytes: u64,
}

impl Receipt {
    pub(in crate::http) fn new(transfers: Transfers, max_upload_bytes: usize) -> Self {
        Self { transfers, slow: CancellationToken::new(), max_upload_bytes: max_upload_bytes as u64 }
    }

    /// Limit of an upload.
    pub(in crate::http) fn max_upload_bytes(&self) -> u64 {
        self.max_upload_bytes
    }

    /// The receipt of a request.
    pub(in crate::http) fn of(request: &Request) -> Result<Self, ApiError> {
        let receipt = request.extensions().get::<Self>().cloned();
        receipt.ok_or_else(|| ApiError::internal("a request passed the layer that makes its receipt"))
    }

    /// Receives the first bytes of a body, so that a request takes a permit of the engine only once its client sends: the first
    /// [`BEGINNING_BYTES`] or, of a form, those that arrive together. The client of a form may wait for the result of one file before it
    /// sends the next.
    pub(in crate::http) async fn begin(request: Request) -> Result<Request, ApiError> {
        let is_form = media_type(request.headers()).starts_with("multipart/");
        let (parts, body) = request.into_parts();
        let (mut rest, mut first, mut length) = (body.into_data_stream(), Vec::new(), 0);
        while length < BEGINNING_BYTES {
            let next = if is_form && length > 0 { rest.next().now_or_never().flatten() } else { rest.next().await };
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(|error| ApiError::of_body(&error))?;
            length += chunk.len();
            first.push(Ok(chunk));
        }
        let body = Body::from_stream(stream::iter(first).chain(rest));
        Ok(Request::from_parts(parts, body))
    }

    /// Receives a whole body.
    pub(in crate::http) async fn receive(&self, request: Request, limit: usize) -> Result<Received, ApiError> {
        let receiver = Receiver::new(&self.transfers, declared_length(&request), limit as u64)?;
        receiver.receive(request.into_body()).await
    }

    /// Receives a whole body under a permit of the engine. A request whose client is slow gives its permit to others, and waits for another
    /// one when its body is complete.
    pub(in crate::http) async fn receive_admitted(
        &self,
        request: Request,
        limit: usize,
        engine: &Engine,
    ) -> Result<(Received, RequestPermit), ApiError> {
        let request = Self::begin(request).await?;
        let permit = engine.admit()?;
        let receiving = self.receive(request, limit);
        tokio::pin!(receiving);
        tokio::select! {
            received = &mut receiving => return Ok((received?, permit)),
            () = self.slow.cancelled() => drop(permit),
        }
        let received = receiving.await?;
        Ok((received, engine.admit_later().await?))
    }

    /// Receives a small body, such as JSON.
    pub(in crate::http) async fn receive_small(&self, request: Request) -> Result<Bytes, ApiError> {
        let limit = self.transfers.limits.max_json_bytes;
        self.receive(request, limit).await?.load().await
    }
}

/// The length of a body as its client declared it; `None` for a compressed body.
pub(in crate::http) fn declared_length(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
