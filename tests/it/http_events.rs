//! Progress of a run over HTTP: its events as a stream and as a list, and the losses of its batches. A worker trains.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use thorax::{
    domain::{BatchEvent, RunEvent, RunId, TrainedBatch},
    http::EventStreams,
    store::{Db, events, runs},
};
use tokio::time::timeout;

use crate::support::Server;

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Timeout of each wait.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_the_events_of_a_run_from_submission_to_end() {
    let server = Server::start().await;
    let run = server.queue(3).await;
    let mut watch = Watch::open(&server, &format!("{run}/events"), &[]).await;
    assert_eq!((watch.status, watch.header("content-type")), (200, "text/event-stream"));
    let worker = server.train();
    let events = watch.rest().await;
    worker.shutdown().await;

    let stored: Vec<&ReceivedEvent> = events.iter().filter(|event| event.id.is_some()).collect();
    let kinds: Vec<&str> = stored.iter().map(|event| event.kind.as_str()).collect();
    let epoch = ["epoch", "checkpoint"];
    let expected = [&["status"; 2][..], &epoch.repeat(3), &["stage", "checkpoint", "status"]].concat();
    assert_eq!(kinds, expected);
    let moves: Vec<_> =
        stored.iter().filter(|event| event.kind == "status").map(|event| event.data["to"].clone()).collect();
    assert_eq!(moves, [json!("queued"), json!("running"), json!("succeeded")]);
    assert_eq!(
        stored[2].data["scores"]["train"]["loss"],
        server.get(&format!("{run}/epochs")).await.at("/items/0/train/loss")
    );
    assert_eq!(stored[8].data["model_id"], server.get("/v1/models").await.at("/items/0/id"));

    let list = server.accept(&format!("{run}/events"), "application/json").await;
    assert_eq!(
        list.at("/items"),
        Value::Array(stored.iter().map(|event| event.data.clone()).collect()),
        "the same, as a list"
    );
    assert!(stored.iter().all(|event| event.id == event.data["id"].as_u64() && event.data["kind"] == *event.kind));

    let batch = events.iter().find(|event| event.kind == "batch").expect("an event of at least the first batch");
    assert_eq!((batch.id, &batch.data["steps"], &batch.data["learning_rate"]), (None, &json!(1), &json!(0.01)));
    assert!(batch.data["loss"].as_f64().unwrap() > 0.0 && batch.data["images_per_second"].as_f64().unwrap() > 0.0);

    // Six images in batches of two, for three epochs.
    let losses = server.get(&format!("{run}/losses")).await;
    assert_eq!((losses.at("/steps"), losses.items(), losses.at("/items/8/step")), (json!(9), 9, json!(9)));
    assert_eq!(losses.at("/items/0/loss"), batch.data["loss"]);

    let after =
        Watch::open(&server, &format!("{run}/events"), &[("last-event-id", kinds.len().to_string().as_str())]).await;
    assert_eq!(after.status, 204, "a browser that reconnects stops reconnecting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnected_stream_resumes_without_gap_or_duplicate() {
    let server = Server::start().await;
    let run = server.queue(12).await;
    let worker = server.train();
    let mut ids = Vec::new();
    for cut in 0.. {
        // The header that a browser sends, and the parameter for clients that cannot send it.
        let last = ids.last().copied().unwrap_or(0).to_string();
        let path = if cut % 2 == 0 { format!("{run}/events") } else { format!("{run}/events?after={last}") };
        let headers = [("last-event-id", last.as_str())];
        let mut watch = Watch::open(&server, &path, if cut % 2 == 0 && cut > 0 { &headers } else { &[] }).await;
        let mut left = 3;
        while left > 0
            && let Some(event) = watch.next().await
        {
            ids.extend(event.id);
            left -= usize::from(event.id.is_some());
        }
        if left > 0 {
            break;
        }
    }
    worker.shutdown().await;
    let id = run.rsplit('/').next().unwrap().parse().unwrap();
    let stored: Vec<u64> =
        events::list(&server.state.stores.db, id, 0, 200).await.unwrap().into_iter().map(|event| event.id).collect();
    assert_eq!((ids, stored.len()), (stored.clone(), 2 + 2 * 12 + 2 + 1));
}

#[tokio::test]
async fn events_are_paged_as_json_and_content_negotiated() {
    let server = Server::start().await;
    let run = server.queue(1).await;
    server.post(&format!("{run}/cancel"), json!({})).await;
    let path = format!("{run}/events");
    let first = server.accept(&format!("{path}?limit=1"), "application/json").await;
    assert_eq!((first.items(), first.at("/items/0/to"), first.text("/next")), (1, json!("queued"), "1".into()));
    assert_eq!((first.at("/items/0/id"), first.at("/items/0/from")), (json!(1), Value::Null));
    let rest = server.accept(&format!("{path}?after=1"), "application/json").await;
    assert_eq!((rest.items(), rest.at("/items/0/to"), rest.at("/next")), (1, json!("cancelled"), Value::Null));
    for anything in ["*/*", "text/event-stream"] {
        let stream = server.accept(&path, anything).await;
        assert_eq!((stream.status, stream.header("content-type")), (200, "text/event-stream"), "{anything}");
        assert!(stream.header("cache-control").contains("no-cache"));
    }
    server.accept(&path, "image/png").await.assert_problem(406, &path);
    for cursor in ["last", "-1", "9223372036854775808"] {
        server.accept(&format!("{path}?after={cursor}"), "application/json").await.assert_problem(400, &path);
    }
    for nothing in ["events", "losses"] {
        let nowhere = format!("/v1/training-runs/{NOBODY}/{nothing}");
        server.get(&nowhere).await.assert_problem(404, &nowhere);
    }
}

#[tokio::test]
async fn shutdown_ends_event_streams_immediately() {
    let server = Server::start().await;
    let run = server.queue(1).await;
    let mut watch = Watch::open(&server, &format!("{run}/events"), &[]).await;
    assert_eq!(watch.next().await.unwrap().id, Some(1));
    server.state.lifecycle.shutdown.cancel();
    server.state.lifecycle.tasks.close();
    let ended = async { (watch.next().await.is_none(), server.state.lifecycle.tasks.wait().await) };
    let (ended, ()) = timeout(PATIENCE, ended).await.expect("the streams end");
    assert!(ended);
}

#[tokio::test]
async fn limits_concurrent_streams_and_frees_closed_ones() {
    let server = Server::with(|state, _| state.event_streams = EventStreams::new(1)).await;
    let path = format!("{}/events", server.queue(1).await);
    let mut watch = Watch::open(&server, &path, &[]).await;
    assert_eq!((watch.status, watch.next().await.unwrap().id), (200, Some(1)));
    let refused = server.get(&path).await;
    refused.assert_problem(429, &path);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(server.accept(&path, "application/json").await.status, 200, "the list has no bound");
    drop(watch);
    let room = timeout(PATIENCE, server.state.event_streams.0.acquire()).await.unwrap().unwrap();
    drop(room);
    assert_eq!(Watch::open(&server, &path, &[]).await.status, 200);
}

#[tokio::test]
async fn streams_events_that_another_process_writes() {
    let server = Server::start().await;
    let run = server.queue(1).await;
    let mut watch = Watch::open(&server, &format!("{run}/events"), &[]).await;
    assert_eq!(watch.next().await.unwrap().id, Some(1));
    let other = Db::open(&server.folder.path().join("data")).await.unwrap();
    runs::cancel(&other, run.rsplit('/').next().unwrap().parse().unwrap()).await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!((event.id, &event.data["to"]), (Some(2), &json!("cancelled")));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_slow_reader_misses_batches_but_no_event() {
    let server = Server::start().await;
    let run = server.queue(1).await;
    let id: RunId = run.rsplit('/').next().unwrap().parse().unwrap();
    let mut watch = Watch::open(&server, &format!("{run}/events"), &[]).await;
    for step in 1..=500 {
        let batch = TrainedBatch {
            stage: 1,
            step: 1,
            epoch: 1,
            batch: step,
            loss: 1.0,
            learning_rate: 0.01,
            images_per_second: 8.0,
        };
        server.state.training.batches.send(id, BatchEvent { steps: step.into(), batch });
        if step % 5 == 0 {
            let warning = RunEvent::Warning { message: format!("after {step}") };
            events::append(&server.state.stores.db, id, &warning).await.unwrap();
        }
    }
    runs::cancel(&server.state.stores.db, id).await.unwrap();
    let events = watch.rest().await;
    let (stored, batches): (Vec<&ReceivedEvent>, Vec<&ReceivedEvent>) =
        events.iter().partition(|event| event.id.is_some());
    assert!(stored.iter().filter_map(|event| event.id).eq(1..=102));
    assert!(batches.len() < 100, "{} batches were held for it", batches.len());
}

/// An event stream that is read event by event.
struct Watch {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Body,
    text: String,
}

/// A received event.
#[derive(Debug)]
struct ReceivedEvent {
    id: Option<u64>,
    kind: String,
    data: Value,
}

impl Watch {
    async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = axum::http::Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = server.open(request.body(Body::empty()).unwrap()).await;
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body, text: String::new() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<ReceivedEvent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let received = ReceivedEvent::read(event);
                self.text = rest.to_owned();
                match received {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("an event or the end")?;
            self.text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
        }
    }

    async fn rest(&mut self) -> Vec<ReceivedEvent> {
        let mut events = Vec::new();
        while let Some(next) = self.next().await {
            events.push(next);
        }
        events
    }
}

impl ReceivedEvent {
    /// `None` for a comment.
    fn read(event: &str) -> Option<Self> {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let data = serde_json::from_str(field("data")?).unwrap();
        Some(Self { id: field("id").map(|id| id.parse().unwrap()), kind: field("event")?.to_owned(), data })
    }
}
