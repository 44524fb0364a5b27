//! The end of a server: requests that are under way are answered, new ones are sent elsewhere.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    ApiError, AppState,
    body::{Held, Lingering},
};

/// They say how the server is, to its last moment.
const ABOUT_THE_SERVER: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

/// Lets requests in until the server stops, and has its end wait for their answers. From then on it answers 503 and closes the
/// connection, so that a client that keeps one alive looks for another server.
pub(super) async fn admit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let about_the_server = ABOUT_THE_SERVER.contains(&request.uri().path());
    // Taken before the look at whether the server stops: it waits for every one that was let in.
    let under_way = (!about_the_server).then(|| state.tasks.token());
    let most = state.limits.max_upload_bytes;
    let request = request.map(|body| Body::new(Lingering::new(body, most)));
    let mut response = if state.shutdown.is_cancelled() && !about_the_server {
        drop(request);
        ApiError::Unavailable("this server is ending: ask another one, or this one again when it is back".into())
            .into_response()
    } else {
        next.run(request).await
    };
    if state.shutdown.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Body::new(Held::new(body, under_way)))
}
