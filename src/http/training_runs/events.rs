//! `/v1/training-runs/{id}/events`, `…/losses` and `…/range-tests`: a run that one can watch.

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
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::follower::Follower;
use super::find;
use crate::{
    domain::{BatchEvent, LossPoint, RangeTestResult, RunId},
    http::{
        ApiError, AppState,
        accept::negotiate,
        answer::{Busy, Malformed, NotFound, UNBUFFERED},
        extract::{List, ListParams, PathOf, QueryOf},
    },
    store::{self, StoredEvent},
};

/// What the browser sends when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// In which form events are answered.
#[derive(Clone, Copy)]
enum Form {
    Stream,
    List,
}

const MEDIA_TYPES: [(&str, Form); 2] = [("text/event-stream", Form::Stream), ("application/json", Form::List)];

pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_training_run_events))
        .routes(routes!(list_training_run_losses))
        .routes(routes!(list_training_run_range_tests))
}

/// The loss of a run's batches.
#[derive(Debug, Serialize, ToSchema)]
pub struct Losses {
    /// In order, thinned to at most 2,000: of every stretch of batches the lowest and the highest, and the first and the last
    /// of the run.
    items: Vec<LossPoint>,
    /// Batches trained so far, as far as they are recorded: a running run writes every few seconds.
    steps: u64,
}

/// Follows a run, or lists what happened to it.
///
/// As `text/event-stream`: what happened after `Last-Event-ID` (a header, or `after`), and then what happens, until the run
/// has ended. Each event has an `id`, its kind as `event` and the list's item as `data`. Trained batches come in between as
/// events of the kind `batch` without an id (`BatchEvent`), at most four a second; they are not kept. A comment every 15
/// seconds keeps the connection open. As `application/json`: a page of the list.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/events", tag = "training",
    params(
        ("id" = RunId, Path),
        ListParams,
        ("Last-Event-ID" = Option<u64>, Header, description = "The last event seen; goes before `after`"),
    ),
    responses(
        (status = 200, description = "A stream that ends with the run, or a page", content(
            (String = "text/event-stream"),
            (List<StoredEvent> = "application/json"),
        )),
        (status = 204, description = "The run has ended and nothing follows: a browser stops asking"),
        Malformed,
        NotFound,
        (status = 406, description = "Neither of the two types is accepted"),
        Busy,
    )
)]
async fn list_training_run_events(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
    QueryOf(params): QueryOf<ListParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let after = cursor(&headers, page.after.as_deref())?;
    find(&state, id).await?;
    match negotiate(&headers, &MEDIA_TYPES)? {
        Form::Stream => follow(&state, id, after).await,
        Form::List => {
            let events = store::events::list(&state.db, id, after, page.limit).await?;
            Ok(Json(List::of(events, &page, |event| event.id.to_string())).into_response())
        }
    }
}

/// Lists the losses of a run's batches, thinned so that a run of any length has at most 2,000.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/losses", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "All that is kept", body = Losses), NotFound)
)]
async fn list_training_run_losses(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<Losses>, ApiError> {
    find(&state, id).await?;
    let (items, steps) = store::losses::list(&state.db, id).await?;
    Ok(Json(Losses { items, steps }))
}

/// Lists what the learning-rate range tests of a run's steps found, with their curves; empty where the plan has none.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/range-tests", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 200, description = "By stage and step", body = List<RangeTestResult>), NotFound)
)]
async fn list_training_run_range_tests(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<Json<List<RangeTestResult>>, ApiError> {
    find(&state, id).await?;
    Ok(Json(List::whole(store::events::range_tests(&state.db, id).await?)))
}

async fn follow(state: &AppState, id: RunId, after: u64) -> Result<Response, ApiError> {
    let busy =
        |_| ApiError::Busy("as many streams are open as this server keeps: come back, or ask for the list".into());
    let place = state.event_streams.clone().try_acquire_owned().map_err(busy)?;
    let follower = Follower::start(state, id, after, place).await?;
    if follower.is_done() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (sender, receiver) = mpsc::channel(follower::AHEAD);
    state.tasks.spawn(follower.feed(sender));
    let next = |mut receiver: mpsc::Receiver<Event>| async move {
        receiver.recv().await.map(|event| (Ok::<_, Infallible>(event), receiver))
    };
    let stream = Sse::new(stream::unfold(receiver, next)).keep_alive(KeepAlive::default());
    Ok(([UNBUFFERED], stream).into_response())
}

/// The id of the last event seen; 0 for none.
fn cursor(headers: &HeaderMap, after: Option<&str>) -> Result<u64, ApiError> {
    let malformed = || ApiError::Malformed("Last-Event-ID and after must be the id of an event".into());
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().map_err(|_| malformed())).transpose()?;
    header.or(after).map_or(Ok(0), |id| id.trim().parse().map_err(|_| malformed()))
}

/// An event that is kept, as it goes over the wire.
fn stored(event: &StoredEvent) -> Result<Event, axum::Error> {
    Event::default().id(event.id.to_string()).event(event.event.kind()).json_data(event)
}

/// A batch: it has no id, so that a client that comes back names the last event that is kept.
fn batch(event: &BatchEvent) -> Result<Event, axum::Error> {
    Event::default().event("batch").json_data(event)
}
