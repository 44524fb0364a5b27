//! `/v1/training-runs/{id}/events`, `…/losses` and `…/range-tests`: progress of a run.

mod follower;

use std::convert::Infallible;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::follower::Follower;
use super::find;
use crate::{
    domain::{BatchEvent, LossPoint, RangeTestResult, RunId},
    http::{
        ApiError, AppState,
        accept::negotiate,
        extract::{List, ListParams, PathOf, QueryOf, Sequence},
        responses::{Busy, Malformed, NotAcceptable, NotFound, UNBUFFERED},
        state::RunEvents,
    },
    store::{self, StoredEvent, Stores},
};

/// Sent by a browser that reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

/// Format of events.
#[derive(Clone, Copy)]
enum Format {
    Stream,
    List,
}

const MEDIA_TYPES: [(&str, Format); 2] = [("text/event-stream", Format::Stream), ("application/json", Format::List)];

pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_training_run_events))
        .routes(routes!(list_training_run_losses))
        .routes(routes!(list_training_run_range_tests))
}

/// Position in the events of a run.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
struct LastEventId {
    /// The last event received; takes precedence over `after`.
    #[param(rename = "Last-Event-ID", required = false, minimum = 0)]
    id: i64,
}

/// Training losses of a run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Losses {
    /// In order, downsampled to at most 2,000: the lowest and the highest of each interval of batches, and the first and the last of
    /// the run.
    items: Vec<LossPoint>,
    /// Number of batches recorded so far; a running run writes every few seconds.
    steps: u64,
}

/// Streams or lists the events of a run.
///
/// As `text/event-stream`: the events after `Last-Event-ID` (header, or `after`), then new events until the run ends. Each event has an
/// `id`, its kind as `event` and the item of the list as `data`. Trained batches are sent in between as events of the kind `batch` without
/// an id (`BatchEvent`), at most four per second; they are not stored. A comment every 15 seconds keeps the connection open. As
/// `application/json`: a page of the list.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/events", tag = "training",
    params(
        ("id" = RunId, Path),
        ListParams<Sequence>,
        LastEventId,
    ),
    responses(
        (status = 200, description = "A stream that ends with the run, or a page", content(
            (String = "text/event-stream"),
            (List<StoredEvent> = "application/json"),
        )),
        (status = 204, description = "The run has ended and no event follows: a browser stops reconnecting"),
        Malformed,
        NotFound,
        NotAcceptable,
        Busy,
    )
)]
async fn list_training_run_events(
    State(events): State<RunEvents>,
    PathOf(id): PathOf<RunId>,
    QueryOf(params): QueryOf<ListParams<Sequence>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let after = cursor(&headers, page.after.as_deref())?;
    find(&events.stores, id).await?;
    match negotiate(&headers, &MEDIA_TYPES)? {
        Format::Stream => follow(&events, id, after).await,
        Format::List => {
            let listed = store::events::list(&events.stores.db, id, after, page.limit).await?;
            Ok(Json(List::of(listed, &page, |event| event.id.to_string())).into_response())
        }
    }
}

/// Lists the training losses of a run, downsampled to at most 2,000 points.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/losses", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "The losses", body = Losses), NotFound)
)]
async fn list_training_run_losses(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<Losses>, ApiError> {
    find(&stores, id).await?;
    let (items, steps) = store::losses::list(&stores.db, id).await?;
    Ok(Json(Losses { items, steps }))
}

/// Lists the results of a run's learning-rate range tests with their curves; empty without range tests in the plan.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/range-tests", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "By stage and step", body = List<RangeTestResult>), NotFound)
)]
async fn list_training_run_range_tests(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<List<RangeTestResult>>, ApiError> {
    find(&stores, id).await?;
    Ok(Json(List::whole(store::events::range_tests(&stores.db, id).await?)))
}

async fn follow(events: &RunEvents, id: RunId, after: u64) -> Result<Response, ApiError> {
    let busy =
        |_| ApiError::Busy("too many open event streams; retry later or poll with `Accept: application/json`".into());
    let permit = events.permits.0.clone().try_acquire_owned().map_err(busy)?;
    let follower = Follower::start(events, id, after, permit).await?;
    if follower.is_done() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (sender, receiver) = mpsc::channel(follower::BUFFERED_EVENTS);
    events.lifecycle.tasks.spawn(follower.feed(sender));
    let next = |mut receiver: mpsc::Receiver<Event>| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    };
    let stream = Sse::new(stream::unfold(receiver, next)).keep_alive(KeepAlive::default());
    Ok(([UNBUFFERED], stream).into_response())
}

/// The id of the last event received; 0 for none.
fn cursor(headers: &HeaderMap, after: Option<&str>) -> Result<u64, ApiError> {
    let malformed = || ApiError::Malformed("Last-Event-ID and after must be the id of an event".into());
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().map_err(|_| malformed())).transpose()?;
    let id = |text: &str| text.trim().parse().ok().filter(|id| i64::try_from(*id).is_ok()).ok_or_else(malformed);
    header.or(after).map_or(Ok(0), id)
}

/// A stored event as a server-sent event.
fn stored(event: &StoredEvent) -> Result<Event, axum::Error> {
    Event::default().id(event.id.to_string()).event(event.event.kind()).json_data(event)
}

/// A batch as a server-sent event, without an id: a client that reconnects names the last stored event.
fn batch(event: &BatchEvent) -> Result<Event, axum::Error> {
    Event::default().event("batch").json_data(event)
}
