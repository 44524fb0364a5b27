//! Rate limits and daily quotas of each client: 429 with `Retry-After` beyond them, and `RateLimit-*` on every limited response.
//!
//! Requests are counted twice: by the address that they come from, before anything else is done for them, and by the API key that they
//! send. Uploaded bytes and archives are counted by key, or by address where no key is needed. The counters are in memory, so that they
//! start again with the server.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    ApiError, ClientAddress,
    body::{BodyObserver, observed},
    buckets::{Buckets, Level, Quota},
    client::{Client, network},
    probes,
};

/// Response headers about the tightest limit on the number of requests (draft-ietf-httpapi-ratelimit-headers-06): requests per minute,
/// requests left, and seconds until all are available again.
pub(super) const RATE_LIMIT_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Configured limits; `None` for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaConfig {
    /// Requests per minute from one address.
    pub requests_per_minute: Option<u64>,
    /// Requests per minute with one API key.
    pub key_requests_per_minute: Option<u64>,
    /// Bytes of request bodies per day.
    pub upload_bytes_per_day: Option<u64>,
    /// Archives for prediction jobs per day.
    pub archives_per_day: Option<u64>,
}

/// Rate limits and quotas of a server; cheap to clone. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    address_requests: Limit<IpAddr>,
    key_requests: Limit<&'static str>,
    upload_bytes: Limit<Client>,
    archives: Limit<Client>,
}

type Limit<K> = Option<Arc<Buckets<K>>>;

impl Quotas {
    /// Quotas of which nothing is used.
    pub fn new(config: QuotaConfig) -> Self {
        Self {
            address_requests: limit(config.requests_per_minute, MINUTE),
            key_requests: limit(config.key_requests_per_minute, MINUTE),
            upload_bytes: limit(config.upload_bytes_per_day, DAY),
            archives: limit(config.archives_per_day, DAY),
        }
    }

    /// Counts an archive.
    pub(super) fn take_archive(&self, client: Client) -> Result<(), ApiError> {
        let level = self.archives.as_ref().map(|archives| archives.take(client, 1, Instant::now()));
        refuse(level, "archives a day")
    }

    fn take_bytes(&self, client: Client, bytes: u64) -> Result<(), ApiError> {
        let level = self.upload_bytes.as_ref().map(|quota| quota.take(client, bytes, Instant::now()));
        if let Some(Level { amount, .. }) = level.filter(|level| bytes > level.amount) {
            return Err(ApiError::TooLarge(format!("the request body exceeds the quota of {amount} bytes a day")));
        }
        refuse(level, "uploaded bytes a day")
    }
}

fn limit<K: Eq + std::hash::Hash>(amount: Option<u64>, period: Duration) -> Limit<K> {
    amount.filter(|amount| *amount > 0).map(|amount| Arc::new(Buckets::new(Quota { amount, period })))
}

fn refuse(level: Option<Level>, of: &str) -> Result<(), ApiError> {
    let Some((Level { amount, .. }, retry_in)) = level.and_then(|level| Some((level, level.retry_in?))) else {
        return Ok(());
    };
    let retry_after_seconds = seconds(retry_in).max(1);
    let detail = format!("over the limit of {amount} {of}: retry in {retry_after_seconds} s");
    Err(ApiError::LimitExceeded { detail, retry_after_seconds })
}

/// Counts a request from its address. Probes and `/metrics` are always answered.
pub(super) async fn limit_address(State(quotas): State<Quotas>, request: Request, next: Next) -> Response {
    let Some(buckets) = quotas.address_requests.filter(|_| !probes::is_monitoring(&request)) else {
        return next.run(request).await;
    };
    let Some(ClientAddress(address)) = request.extensions().get().copied() else { return no_address() };
    let level = buckets.take(network(address), 1, Instant::now());
    respond(level, "requests a minute from this address", request, next).await
}

/// Counts a request with its API key, and the bytes of its body. Runs after authentication.
pub(super) async fn limit_client(State(quotas): State<Quotas>, mut request: Request, next: Next) -> Response {
    let Some(client) = request.extensions().get().copied() else {
        return ApiError::internal("authentication did not set the client").into_response();
    };
    let key_level = match (&quotas.key_requests, client) {
        (Some(buckets), Client::Key(name)) => Some(buckets.take(name, 1, Instant::now())),
        _ => None,
    };
    let excess = Arc::new(AtomicU64::new(0));
    if key_level.is_none_or(|level| level.retry_in.is_none()) && quotas.upload_bytes.is_some() {
        let declared = request.body().size_hint().exact();
        if let Err(error) = quotas.take_bytes(client, declared.unwrap_or(0)) {
            return error.into_response();
        }
        if declared.is_none() {
            let counter = BytesCounter { quotas: quotas.clone(), client, excess: Arc::clone(&excess) };
            request = request.map(|body| observed(body, counter));
        }
    }
    let response = match key_level {
        Some(level) => respond(level, "requests a minute with this API key", request, next).await,
        None => next.run(request).await,
    };
    // The handler saw a body that breaks off. The client learns the reason.
    match excess.load(Ordering::Relaxed) {
        0 => response,
        bytes => quotas.take_bytes(client, bytes).map_or_else(IntoResponse::into_response, |()| response),
    }
}

async fn respond(level: Level, of: &str, request: Request, next: Next) -> Response {
    let mut response = match refuse(Some(level), of) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let tighter = |value: &HeaderValue| value.to_str().ok().and_then(|left| left.parse().ok()) <= Some(level.remaining);
    if !response.headers().get(&RATE_LIMIT_HEADERS[1]).is_some_and(tighter) {
        for (name, value) in RATE_LIMIT_HEADERS.into_iter().zip([level.amount, level.remaining, seconds(level.full_in)])
        {
            response.headers_mut().insert(name, value.into());
        }
    }
    response
}

fn no_address() -> Response {
    ApiError::internal("the listener did not set the client's address").into_response()
}

/// Whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Counts the bytes of a request body of unknown length as they arrive.
struct BytesCounter {
    quotas: Quotas,
    client: Client,
    /// Bytes for which the quota did not suffice.
    excess: Arc<AtomicU64>,
}

impl BodyObserver for BytesCounter {
    fn received(&mut self, data: &Bytes) -> Result<(), axum::Error> {
        let bytes = data.len() as u64;
        self.quotas.take_bytes(self.client, bytes).map_err(|error| {
            self.excess.store(bytes, Ordering::Relaxed);
            axum::Error::new(error)
        })
    }
}
