//! Several radiographs in one request: the order of the results, NDJSON lines, and the resources of a long form.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use thorax::http::router;
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

use crate::support::{MAX_UPLOAD_BYTES, Part, Server, TestResponse, assert_close, model, multipart, png, received};

const PREDICTIONS: &str = "/v1/predictions";
const NDJSON: &str = "application/x-ndjson";

/// Timeout of each wait.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_keep_the_order_of_the_files_and_an_invalid_file_has_a_problem_at_its_position() {
    let server = started().await;
    let images = images(9);
    let alone: Vec<Value> = join_in_turn(&server, &images).await;
    let parts = named(&images);
    let response = post(&server, &parts, "application/json").await;
    assert_eq!((response.status, response.items()), (200, 9));
    for (index, alone) in alone.iter().enumerate() {
        let item = response.at(&format!("/items/{index}"));
        assert_eq!((&item["index"], &item["file_name"]), (&json!(index), &json!(format!("{index}.png"))));
        if index % 4 == 1 {
            assert_eq!((&item["problem"]["status"], &item["prediction"]), (&json!(415), &Value::Null), "{item}");
        } else {
            assert_close(&item["prediction"]["probabilities"], alone);
        }
    }
    assert_eq!(server.get(PREDICTIONS).await.items(), 7 + 7, "each response is recorded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndjson_lines_have_index_and_name_and_equal_the_json_results() {
    let server = started().await;
    let images = images(6);
    let alone = join_in_turn(&server, &images).await;
    let response = post(&server, &named(&images), NDJSON).await;
    assert_eq!((response.status, response.header("content-type")), (200, NDJSON));
    let mut lines = lines(&response.bytes);
    lines.sort_by_key(|line| line["index"].as_u64());
    assert_eq!(lines.len(), 6);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!((&line["index"], &line["file_name"]), (&json!(index), &json!(format!("{index}.png"))));
        match index % 4 {
            1 => assert_eq!(line["problem"]["status"], json!(415)),
            _ => assert_close(&line["prediction"]["probabilities"], &alone[index]),
        }
    }
    // A single image gives one line, even if it is invalid.
    let raw = server.request_as(PREDICTIONS, "image/png", NDJSON, images[0].clone()).await;
    assert_eq!((raw.status, raw.at("/index"), raw.at("/file_name")), (200, json!(0), Value::Null));
    let bad = server.request_as(PREDICTIONS, "image/png", NDJSON, b"no image".to_vec()).await;
    assert_eq!((bad.status, bad.at("/problem/status")), (200, json!(415)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_whole_request_is_the_status_or_the_last_line() {
    let server = started().await;
    for accept in ["application/json", NDJSON] {
        post(&server, &[], accept).await.assert_problem(422, PREDICTIONS);
        post(&server, &[Part::Text("label", "normal")], accept).await.assert_problem(422, PREDICTIONS);
        let raw = vec![0; MAX_UPLOAD_BYTES + 1];
        server.request_as(PREDICTIONS, "image/png", accept, raw).await.assert_problem(413, PREDICTIONS);
    }
    post(&server, &[Part::File("a.png", &png(48, 48, 1))], "image/png").await.assert_problem(406, PREDICTIONS);
    let good = png(48, 48, 1);
    let parts = [Part::File("a.png", &good), Part::Text("label", "normal"), Part::File("b.png", &good)];
    post(&server, &parts, "application/json").await.assert_problem(422, PREDICTIONS);
    // The files before the error have their results.
    let parts = [Part::File("a.png", &good), Part::File("b.png", &good), Part::Text("label", "normal")];
    let results = lines(&post(&server, &parts, NDJSON).await.bytes);
    let problems: Vec<&Value> = results.iter().map(|line| &line["problem"]["status"]).collect();
    assert_eq!(problems, [&Value::Null, &Value::Null, &json!(422)], "{results:?}");
    // The form becomes invalid after its first line.
    let mut sent = Sent::open(&server).await;
    sent.file("a.png", &good).await;
    assert_eq!(sent.line().await["index"], json!(0));
    sent.send(b"\r\ncontent-disposition: form-data; name=\"label\"\r\n\r\nnormal\r\n--b--\r\n").await;
    let last = sent.line().await;
    assert_eq!((&last["problem"]["status"], &last["index"]), (&json!(422), &Value::Null), "{last}");
    assert!(sent.ended().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_a_line_before_the_next_file_is_sent() {
    let server = started().await;
    let mut sent = Sent::open(&server).await;
    for index in 0..4_u8 {
        sent.file(&format!("{index}.png"), &png(48, 48, index)).await;
        let line = sent.line().await;
        assert_eq!((&line["index"], line["prediction"]["id"].is_string()), (&json!(index), true), "{line}");
    }
    sent.send(b"--\r\n").await;
    assert!(sent.ended().await);
    assert_eq!(depth(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_stay_within_the_concurrency_limit_and_leave_half_to_others() {
    let server = started().await;
    let images = images(8);
    let watch = tokio::spawn({
        let metrics = server.state.telemetry.metrics.clone();
        async move {
            let mut most = 0;
            loop {
                most = most.max(depth_of(&metrics.text().unwrap()));
                if most > 4 {
                    return most;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    });
    let parts = named(&images);
    let answers = join_all((0..6).map(|_| post(&server, &parts, "application/json"))).await;
    let (answered, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|response| response.status == 200);
    assert!(
        answered.len() >= 3 && refused.iter().all(|response| response.status == 429),
        "{} answered",
        answered.len()
    );
    for response in answered {
        let problems: Vec<Value> = (0..8).map(|index| response.at(&format!("/items/{index}/problem/status"))).collect();
        assert!(
            problems.iter().all(|status| *status != json!(429)),
            "a form that came in is answered whole: {problems:?}"
        );
    }
    assert!(!watch.is_finished(), "more places were taken than there are");
    watch.abort();
    assert_eq!(depth(&server), 0);

    // With one free permit a form continues file by file; without one it gets a 429 with `Retry-After`.
    let mut others: Vec<_> = (0..3).map(|_| server.state.serving.engine.admit().unwrap()).collect();
    assert_eq!(post(&server, &parts, "application/json").await.items(), 8);
    others.push(server.state.serving.engine.admit().unwrap());
    post(&server, &parts, "application/json").await.assert_problem(429, PREDICTIONS);
    post(&server, &parts, NDJSON).await.assert_problem(429, PREDICTIONS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnected_client_stops_the_work_and_releases_its_permits() {
    let server = started().await;
    let mut sent = Sent::open(&server).await;
    sent.file("0.png", &png(48, 48, 0)).await;
    sent.line().await;
    assert!(depth(&server) >= 1, "it waits for the next file");
    let body = sent.hang_up();
    for index in 1..40_u8 {
        // Nothing more is computed, even though the rest of the form was sent.
        drop(body.send(part("late.png", &png(48, 48, index))).await);
    }
    wait_until(|| depth(&server) == 0).await;
    // One or two that were in flight may have been completed.
    let answered = server.get(PREDICTIONS).await.items();
    assert!((1..5).contains(&answered), "{answered} of 40");
}

async fn started() -> Arc<Server> {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    Arc::new(server)
}

/// A file of a form; every fourth, from the second on, is not an image.
fn images(count: u8) -> Vec<Vec<u8>> {
    let image =
        |index: u8| if index % 4 == 1 { b"no image".to_vec() } else { png(48 + u32::from(index), 48, 20 * index) };
    (0..count).map(image).collect()
}

fn named(images: &[Vec<u8>]) -> Vec<Part<'_>> {
    const NAMES: [&str; 9] = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png", "7.png", "8.png"];
    NAMES.iter().zip(images).map(|(name, image)| Part::File(name, image)).collect()
}

/// The probabilities that each file gets in a request of its own, or null.
async fn join_in_turn(server: &Server, images: &[Vec<u8>]) -> Vec<Value> {
    let mut answers = Vec::new();
    for image in images {
        answers.push(server.request("POST", PREDICTIONS, "image/png", image.clone()).await.at("/probabilities"));
    }
    answers
}

async fn post(server: &Server, parts: &[Part<'_>], accept: &str) -> TestResponse {
    let (content_type, body) = multipart(parts);
    server.request_as(PREDICTIONS, &content_type, accept, body).await
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn depth(server: &Server) -> u64 {
    depth_of(&server.state.telemetry.metrics.text().unwrap())
}

fn depth_of(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("thorax_predictions_in_flight "));
    line.unwrap().parse().unwrap()
}

async fn wait_until(holds: impl Fn() -> bool) {
    let held = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    held.await.expect("in time");
}

/// A part of a form with a file, and the boundary after it.
fn part(name: &str, image: &[u8]) -> Bytes {
    let head = format!("\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
    // With the boundary after it, without which a reader does not know that it is complete.
    [head.as_bytes(), image, b"\r\n--b"].concat().into()
}

/// A form that is sent part by part, and the lines of the response.
struct Sent {
    body: mpsc::Sender<Bytes>,
    response: Option<tokio::task::JoinHandle<Body>>,
    lines: Option<Body>,
    read: Vec<u8>,
}

impl Sent {
    async fn open(server: &Server) -> Self {
        let (body, receiver) = mpsc::channel::<Bytes>(1);
        let next = |mut receiver: mpsc::Receiver<Bytes>| async move {
            receiver.recv().await.map(|bytes| (Ok::<_, std::io::Error>(bytes), receiver))
        };
        body.send(Bytes::from_static(b"--b")).await.unwrap();
        let request = axum::http::Request::post(PREDICTIONS)
            .header("content-type", "multipart/form-data; boundary=b")
            .header("accept", NDJSON)
            .body(Body::from_stream(futures_util::stream::unfold(receiver, next)))
            .unwrap();
        let service = router(server.state.clone());
        let response = tokio::spawn(async move {
            let response = service.oneshot(received(request)).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body()
        });
        Self { body, response: Some(response), lines: None, read: Vec::new() }
    }

    async fn send(&self, bytes: &[u8]) {
        self.body.send(Bytes::copy_from_slice(bytes)).await.expect("the server reads");
    }

    async fn file(&self, name: &str, image: &[u8]) {
        self.body.send(part(name, image)).await.expect("the server reads");
    }

    async fn line(&mut self) -> Value {
        timeout(PATIENCE, async {
            loop {
                if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.read.drain(..=end).collect();
                    return serde_json::from_slice(&line).unwrap();
                }
                assert!(self.more().await, "the lines have ended");
            }
        })
        .await
        .expect("a line comes")
    }

    async fn more(&mut self) -> bool {
        if let Some(response) = self.response.take() {
            self.lines = Some(response.await.unwrap());
        }
        let Some(frame) = self.lines.as_mut().unwrap().frame().await else { return false };
        self.read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        true
    }

    async fn ended(&mut self) -> bool {
        timeout(PATIENCE, self.more()).await.is_ok_and(|more| !more)
    }

    /// Drops the response and returns the sender of the request.
    fn hang_up(self) -> mpsc::Sender<Bytes> {
        self.body
    }
}
