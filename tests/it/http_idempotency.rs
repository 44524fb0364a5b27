//! `Idempotency-Key`: a retry returns the response to the first request and creates nothing again.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use crate::support::{Part, Server, TestResponse, model, multipart, png};

const KEY: &str = "8a7f3c52-retry";

async fn post(server: &Server, path: &str, content_type: &str, key: &str, body: Vec<u8>) -> TestResponse {
    let mut request = Request::post(path).header("idempotency-key", key);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    server.send(request.body(Body::from(body)).unwrap()).await
}

#[track_caller]
fn assert_same(retry: &TestResponse, first: &TestResponse) {
    assert_eq!((retry.status, &retry.bytes), (first.status, &first.bytes), "{retry:?}");
    for header in ["location", "content-type"] {
        assert_eq!(retry.header(header), first.header(header));
    }
    assert_eq!((retry.header("idempotency-replayed"), first.header("idempotency-replayed")), ("true", ""));
    assert!(!retry.header("x-request-id").is_empty());
}

/// Every POST that creates something, with a body of each kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_creating_request_can_be_retried() {
    let server = Server::with(|state, folder| {
        std::fs::create_dir_all(folder.join("root/set/normal")).unwrap();
        std::fs::write(folder.join("root/set/normal/a.png"), png(48, 48, 200)).unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    server.promote(model::small(32, 1)).await;
    let run = server.queue(1).await;
    let dataset = server.get(&run).await.text("/dataset_id");
    let json = |value: Value| ("application/json".to_owned(), value.to_string().into_bytes());
    let form = multipart(&[Part::Text("label", "normal"), Part::File("a.png", &png(48, 48, 201))]);
    let plan = json!({"stages": [{"image_size": 32, "steps": [{"scope": "all", "learning_rate": 0.01, "epochs": 1}]}],
        "selection": {"split": "test", "metric": "accuracy"}, "batch_size": 2});
    let requests = [
        ("/v1/datasets".to_owned(), json(json!({"name": "again"}))),
        (format!("/v1/datasets/{dataset}/radiographs"), form),
        (format!("/v1/datasets/{dataset}/radiographs"), ("image/png".into(), png(48, 48, 202))),
        (format!("/v1/datasets/{dataset}/imports"), json(json!({"path": "set"}))),
        ("/v1/training-runs".into(), json(json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": plan}))),
        ("/v1/models".into(), ("application/octet-stream".into(), model::small(32, 3))),
        ("/v1/models/champion/evaluations".into(), json(json!({"dataset_id": dataset, "split": "test"}))),
        ("/v1/prediction-jobs".into(), json(json!({"dataset_id": dataset}))),
        ("/v1/predictions".into(), ("image/png".into(), png(48, 48, 1))),
        ("/v1/predictions".into(), multipart(&[Part::File("a.png", &png(48, 48, 1)), Part::File("b", b"none")])),
    ];
    for (number, (path, (content_type, body))) in requests.into_iter().enumerate() {
        let key = format!("key-{number}");
        let first = post(&server, &path, &content_type, &key, body.clone()).await;
        assert!((200..300).contains(&first.status), "{path}: {first:?}");
        let retry = post(&server, &path, &content_type, &key, body.clone()).await;
        assert_same(&retry, &first);
        let other = post(&server, &path, &content_type, &key, [&body[..], b" "].concat()).await;
        other.assert_problem(422, &path);
        assert!(other.text("/detail").contains("Idempotency-Key"), "{other:?}");
    }
    assert_eq!(server.get("/v1/training-runs").await.items(), 2, "the retry queued no run");
    assert_eq!(server.get("/v1/models").await.items(), 2);
    assert_eq!(server.get("/v1/prediction-jobs").await.items(), 2);
    assert_eq!(server.get("/v1/predictions").await.items(), 2);
    server.settle().await;
}

#[tokio::test]
async fn a_retry_after_a_restart_gets_the_same_response() {
    let server = Server::start().await;
    let body = json!({"name": "once"}).to_string().into_bytes();
    let first = post(&server, "/v1/datasets", "application/json", KEY, body.clone()).await;
    let server = server.again().await;
    let retry = post(&server, "/v1/datasets", "application/json", &format!("\"{KEY}\""), body.clone()).await;
    assert_same(&retry, &first);
    let elsewhere = post(&server, "/v1/training-runs", "application/json", KEY, body.clone()).await;
    elsewhere.assert_problem(422, "/v1/training-runs");
    assert_eq!(server.get("/v1/datasets").await.items(), 1);
    let without = server.request("POST", "/v1/datasets", "application/json", body).await;
    assert_eq!(without.status, 409, "the name is taken");
}

#[tokio::test]
async fn a_form_is_the_same_whatever_its_boundary() {
    let server = Server::start().await;
    let dataset = server.dataset("forms").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let (content_type, body) = multipart(&[Part::File("a.png", &png(48, 48, 1))]);
    let first = post(&server, &path, &content_type, KEY, body.clone()).await;
    let boundary = content_type.split('=').nth(1).unwrap();
    let at = |from: usize| body[from..].windows(boundary.len()).position(|window| window == boundary.as_bytes());
    let mut renamed = Vec::new();
    let mut from = 0;
    while let Some(found) = at(from) {
        renamed.extend_from_slice(&body[from..from + found]);
        renamed.extend_from_slice(b"another");
        from += found + boundary.len();
    }
    renamed.extend_from_slice(&body[from..]);
    let retry = post(&server, &path, "multipart/form-data; boundary=another", KEY, renamed).await;
    assert_same(&retry, &first);
}

#[tokio::test]
async fn a_failed_request_leaves_its_key_free() {
    let server = Server::start().await;
    for status in [422, 422] {
        let failed = post(&server, "/v1/datasets", "application/json", KEY, b"{}".to_vec()).await;
        assert_eq!((failed.status, failed.header("idempotency-replayed")), (status, ""));
    }
    let body = json!({"name": "now"}).to_string().into_bytes();
    assert_eq!(post(&server, "/v1/datasets", "application/json", KEY, body).await.status, 201);
}

#[tokio::test]
async fn one_of_several_concurrent_requests_with_the_same_key_is_handled() {
    let server = Server::start().await;
    let body = json!({"name": "one"}).to_string().into_bytes();
    let requests = (0..8).map(|_| post(&server, "/v1/datasets", "application/json", KEY, body.clone()));
    let answers = futures_util::future::join_all(requests).await;
    for response in &answers {
        assert!([201, 409].contains(&response.status), "{response:?}");
    }
    assert!(answers.iter().any(|response| response.status == 201));
    assert_eq!(server.get("/v1/datasets").await.items(), 1);
}

#[tokio::test]
async fn malformed_keys_and_streamed_responses_are_refused() {
    let server = Server::start().await;
    let body = json!({"name": "none"}).to_string().into_bytes();
    for key in ["", "\"\"", &"x".repeat(256)] {
        let refused = post(&server, "/v1/datasets", "application/json", key, body.clone()).await;
        refused.assert_problem(400, "/v1/datasets");
    }
    let request =
        Request::post("/v1/predictions").header("idempotency-key", KEY).header("accept", "application/x-ndjson");
    let refused = server.send(request.body(Body::from(png(48, 48, 1))).unwrap()).await;
    refused.assert_problem(400, "/v1/predictions");
    assert_eq!(server.get("/v1/datasets").await.items(), 0);
}

/// Keys of the OpenAPI document's pattern: printable ASCII, with a character other than spaces and quotes.
#[tokio::test]
async fn a_key_has_up_to_255_printable_characters() {
    let server = Server::start().await;
    let create = async |key: &str| {
        let body = json!({"name": format!("{key:.200}")}).to_string().into_bytes();
        post(&server, "/v1/datasets", "application/json", key, body).await
    };
    for key in ["a", "\"b\"", "a b", &"k".repeat(255)] {
        assert_eq!(create(key).await.status, 201, "{key}");
    }
    for key in ["\"", "\"\"", "\" \"", &"k".repeat(256), "schlüssel"] {
        create(key).await.assert_problem(400, "/v1/datasets");
    }
}
