//! The end of a server: requests that are under way are answered, new ones are sent elsewhere.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use super::{
    ApiError, AppState,
    body::{Held, Lingering},
    v2,
};

/// They say how the server is, to its last moment.
const ABOUT_THE_SERVER: [&str; 5] = ["/health/live", "/health/ready", "/metrics", v2::PROBES[0], v2::PROBES[1]];

/// Bodies that are thrown away at once: each takes time, and a connection's buffer. The others wait unread, which costs next to nothing.
const DISCARDED_AT_ONCE: usize = 16;

/// Where every request comes in.
#[derive(Clone)]
pub(super) struct Door {
    state: AppState,
    discarding: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(state: AppState) -> Self {
        Self { state, discarding: Arc::new(Semaphore::new(DISCARDED_AT_ONCE)) }
    }
}

/// Lets requests in until the server stops, and has its end wait for their answers. From then on it answers 503 and closes the
/// connection, so that a client that keeps one alive looks for another server.
pub(super) async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let Door { state, discarding } = door;
    let about_the_server = ABOUT_THE_SERVER.contains(&request.uri().path());
    // Taken before the look at whether the server stops: it waits for every one that was let in.
    let under_way = (!about_the_server).then(|| state.lifecycle.tasks.token());
    // Who asks before sending has nothing under way that could be cut off.
    let sends = !request.headers().contains_key(header::EXPECT);
    let most = state.limits.max_upload_bytes;
    let request = if sends { request.map(|body| Body::new(Lingering::new(body, most, discarding))) } else { request };
    let mut response = if state.lifecycle.shutdown.is_cancelled() && !about_the_server {
        drop(request);
        ApiError::Unavailable("this server is ending: ask another one, or this one again when it is back".into())
            .into_response()
    } else {
        next.run(request).await
    };
    if state.lifecycle.shutdown.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Held::new(body, under_way)))
}
