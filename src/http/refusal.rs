//! Requests that the listener refuses: those beyond the cap of connections, and those with too large a head.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{ApiError, probes};

/// Reason to refuse a request, as an extension that the listener gives it.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// The server has as many connections as it can take. Probes are answered all the same.
    TooManyConnections,
    /// The head is larger than `max_bytes`.
    HeadTooLarge {
        /// Maximum size of a head.
        max_bytes: usize,
    },
}

/// Responds to requests with a [`Refusal`].
pub(super) async fn enforce(request: Request, next: Next) -> Response {
    match request.extensions().get::<Refusal>() {
        Some(Refusal::TooManyConnections) if !probes::is_monitoring(&request) => {
            let detail = "there are as many connections as the server takes, in all or from this address: retry";
            ApiError::Unavailable(detail.into()).into_response()
        }
        Some(Refusal::HeadTooLarge { max_bytes }) => {
            let detail = format!("the request line and the header fields exceed the limit of {max_bytes} bytes");
            ApiError::HeadTooLarge(detail).into_response()
        }
        _ => next.run(request).await,
    }
}
