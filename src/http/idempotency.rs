//! `Idempotency-Key` on POST requests (draft-ietf-httpapi-idempotency-key-header): a retry with the same key gets the response to the first
//! request, and nothing is done twice.

use std::{mem, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{
    ApiError,
    body::{self, BodyObserver, observed},
    header_fields,
};
use crate::{
    service::{Attempt, IdempotencyKeys, Intake, Lifecycle, RepeatableResponse, RequestDigest, Reservation},
    store::Stores,
};

/// Request header with the key.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Response header of a repeated response.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Maximum length of a key, with its quotes.
pub(super) const MAX_KEY_LENGTH: usize = 255;

/// Pattern of a key: printable ASCII, with a character other than spaces and the quotes of a structured field.
pub(super) const KEY_PATTERN: &str = r"^[\t -~]*[!#-~][\t -~]*$";

/// Maximum size of a response that is stored, in bytes; a thousand explained predictions take 12 MB.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Maximum size of the body of a retry, which is read to compare it; that of the largest upload, an archive.
const MAX_REQUEST_BYTES: u64 = 8 << 30;

/// State of the middleware.
#[derive(Clone)]
pub(super) struct IdempotencyState {
    keys: IdempotencyKeys,
    tasks: TaskTracker,
}

impl IdempotencyState {
    pub(super) fn new(stores: &Stores, intake: &Intake, lifecycle: &Lifecycle) -> Self {
        let keys = IdempotencyKeys::new(stores.db.clone(), intake.patient_ids.clone());
        Self { keys, tasks: lifecycle.tasks.clone() }
    }
}

/// Handles POST requests with a key; others pass.
pub(super) async fn honour(State(state): State<IdempotencyState>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(IDEMPOTENCY_KEY) {
        return next.run(request).await;
    }
    respond(state, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: IdempotencyState, request: Request, next: Next) -> Result<Response, ApiError> {
    let key = read_key(request.headers())?;
    let IdempotencyState { keys, tasks } = state;
    let attempt = async move {
        match keys.begin(&key).await? {
            Attempt::First(reservation) => handle(reservation, request, next).await,
            Attempt::Retry(previous) => {
                let digest = digest(request).await?;
                repeated(previous.open(&digest)?)
            }
        }
    };
    // A task of its own: a client that disconnects while its key is reserved must not leave it so, and one that disconnects while the work
    // is done must find its result when it retries.
    tasks.spawn(attempt.in_current_span()).await.map_err(ApiError::internal)?
}

/// The key of a request, with or without the quotes of a structured field.
fn read_key(headers: &HeaderMap) -> Result<String, ApiError> {
    let streams =
        headers.get_all(header::ACCEPT).iter().any(|value| value.as_bytes().windows(8).any(|part| part == b"x-ndjson"));
    if streams {
        return Err(ApiError::Malformed(
            "Idempotency-Key cannot be used with Accept: application/x-ndjson, whose response is streamed and not stored".into(),
        ));
    }
    let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = sent.next().and_then(|value| value.to_str().ok()).filter(|value| value.len() <= MAX_KEY_LENGTH);
    let key = value.map(|value| value.trim_matches(|c: char| c == '"' || c.is_ascii_whitespace()).to_owned());
    key.filter(|key| !key.is_empty() && sent.next().is_none()).ok_or_else(|| {
        ApiError::Malformed(format!(
            "Idempotency-Key must be sent once and have 1 to {MAX_KEY_LENGTH} ASCII characters"
        ))
    })
}

/// Handles the first request with a key, and stores its response if it succeeds. A request that was not received whole leaves its key
/// free: nobody could tell whether a retry is the same.
async fn handle(reservation: Reservation, request: Request, next: Next) -> Result<Response, ApiError> {
    let hasher = Arc::new(Mutex::new(RequestHasher::of(&request)));
    let request = request.map(|body| observed(body, HashingObserver(Arc::clone(&hasher))));
    let response = next.run(request).await;
    if !response.status().is_success() {
        reservation.release().await?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, MAX_RESPONSE_BYTES).await.map_err(ApiError::internal)?;
    let rest = mem::take(&mut hasher.lock().rest);
    let rest_read = read_rest(rest, &hasher).await;
    if rest_read.is_err() || hasher.lock().is_broken {
        reservation.release().await?;
        return Ok(Response::from_parts(parts, body.into()));
    }
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let headers = parts.headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
    let stored = RepeatableResponse { status: parts.status.as_u16(), headers, body: body.to_vec() };
    let digest = hasher.lock().finish();
    reservation.complete(&digest, &stored).await?;
    Ok(Response::from_parts(parts, body.into()))
}

fn repeated(RepeatableResponse { status, headers, body }: RepeatableResponse) -> Result<Response, ApiError> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).map_err(ApiError::internal)?;
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(ApiError::internal)?;
        response.headers_mut().append(name, HeaderValue::try_from(value).map_err(ApiError::internal)?);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Reads a request without keeping it.
async fn digest(request: Request) -> Result<RequestDigest, ApiError> {
    let hasher = Mutex::new(RequestHasher::of(&request));
    read_rest(request.into_body(), &hasher).await?;
    Ok(hasher.into_inner().finish())
}

/// Hashes the rest of a body.
async fn read_rest(body: Body, hasher: &Mutex<RequestHasher>) -> Result<(), ApiError> {
    let mut chunks = body.into_data_stream();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::of_body(&error))?;
        length += chunk.len() as u64;
        if length > MAX_REQUEST_BYTES {
            return Err(ApiError::TooLarge(format!("the request body exceeds the limit of {MAX_REQUEST_BYTES} bytes")));
        }
        hasher.lock().update(&chunk);
    }
    Ok(())
}

/// Hash of a request while its body is read.
struct RequestHasher {
    hash: Sha256,
    /// `--boundary` of a form, which a client chooses again for each attempt: it is left out of the hash.
    delimiter: Option<Vec<u8>>,
    /// End of what was read, which may be the beginning of a delimiter.
    pending: Vec<u8>,
    /// Rest of the body that the handler did not read.
    rest: Body,
    /// True if the body failed before its end.
    is_broken: bool,
}

impl RequestHasher {
    fn of(request: &Request) -> Self {
        let headers = request.headers();
        let media_type = body::media_type(headers);
        let boundary = header_fields::parameter(headers, header::CONTENT_TYPE, "boundary");
        let is_form = media_type.starts_with("multipart/");
        let delimiter = boundary.filter(|boundary| is_form && !boundary.is_empty());
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let mut hash = Sha256::new();
        for part in [target, &media_type] {
            hash.update(part);
            hash.update([0]);
        }
        let delimiter = delimiter.map(|boundary| format!("--{boundary}").into_bytes());
        Self { hash, delimiter, pending: Vec::new(), rest: Body::empty(), is_broken: false }
    }

    fn update(&mut self, chunk: &[u8]) {
        let Some(delimiter) = &self.delimiter else { return self.hash.update(chunk) };
        self.pending.extend_from_slice(chunk);
        let mut start = 0;
        while let Some(at) = memchr::memmem::find(&self.pending[start..], delimiter) {
            self.hash.update(&self.pending[start..start + at]);
            start += at + delimiter.len();
        }
        let end = self.pending.len().saturating_sub(delimiter.len() - 1).max(start);
        self.hash.update(&self.pending[start..end]);
        self.pending.drain(..end);
    }

    fn finish(&mut self) -> RequestDigest {
        self.hash.update(mem::take(&mut self.pending));
        self.hash.finalize_reset().into()
    }
}

/// Hashes a body while it is read, and keeps what is not read.
struct HashingObserver(Arc<Mutex<RequestHasher>>);

impl BodyObserver for HashingObserver {
    fn received(&mut self, data: &Bytes) -> Result<(), axum::Error> {
        self.0.lock().update(data);
        Ok(())
    }

    fn ended(&mut self, is_complete: bool) {
        self.0.lock().is_broken = !is_complete;
    }

    fn abandoned(&mut self, rest: Body) {
        self.0.lock().rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, content_type: &str) -> Request {
        Request::post(path).header(header::CONTENT_TYPE, content_type).body(Body::empty()).unwrap()
    }

    fn hashed(content_type: &str, body: &[u8], chunk: usize) -> RequestDigest {
        let mut hasher = RequestHasher::of(&request("/v1/x", content_type));
        body.chunks(chunk).for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }

    #[test]
    fn the_boundary_of_a_form_does_not_count_and_its_content_does() {
        let form = |boundary: &str, content: &str| {
            (
                format!("multipart/form-data; boundary={boundary}"),
                format!(
                    "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n{content}\r\n--{boundary}--\r\n"
                ),
            )
        };
        let (media_type, body) = form("first", "content");
        let expected = hashed(&media_type, body.as_bytes(), 1000);
        for chunk in [1, 2, 7, 50] {
            assert_eq!(hashed(&media_type, body.as_bytes(), chunk), expected, "{chunk}");
            let (media_type, body) = form("another-boundary", "content");
            assert_eq!(hashed(&media_type, body.as_bytes(), chunk), expected, "{chunk}");
        }
        let (media_type, body) = form("first", "contents");
        assert_ne!(hashed(&media_type, body.as_bytes(), 1000), expected);
    }

    #[test]
    fn path_and_media_type_count() {
        let of = |path: &str, content_type: &str| RequestHasher::of(&request(path, content_type)).finish();
        assert_eq!(of("/v1/x", "application/json"), of("/v1/x", "application/json; charset=utf-8"));
        assert_ne!(of("/v1/x", "application/json"), of("/v1/x?model=a", "application/json"));
        assert_ne!(of("/v1/x", "application/json"), of("/v1/x", "image/png"));
    }
}
