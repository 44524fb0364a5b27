//! Clients that send or read slowly, or not at all, or too much: what they hold, and for how long.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::Request,
};
use futures_util::stream;
use serde_json::json;

use crate::{
    operating::{Connection, noise, serving_folder, until},
    process::{PATIENCE, Running, with_phantoms},
    support::{MAX_UPLOAD_BYTES, Part, Server, model, multipart, png, transfer_limits},
};

const PREDICTIONS: &str = "/v1/predictions";
const IMAGE: [(&str, &str); 1] = [("content-type", "image/png")];

fn open(server: &Running) -> Connection {
    Connection::open(&server.address).unwrap()
}

/// A connection that has sent a head and the beginning of the body.
fn stalled(server: &Running, path: &str, headers: &[(&str, &str)], length: usize, sent: &[u8]) -> Connection {
    let mut connection = open(server);
    connection.send_head("POST", path, headers, length);
    connection.send(sent);
    connection
}

fn predict(server: &Running, image: &[u8]) -> u16 {
    open(server).request("POST", PREDICTIONS, &IMAGE, image).unwrap().status
}

#[test]
fn clients_that_stop_within_a_request_take_nothing_from_others() {
    let folder = serving_folder();
    let server = Running::start(folder.path(), &[("THORAX_BODY_PAUSE_SECONDS", "600")]);
    let image = noise(64);
    let infer = "/v2/models/champion/infer";
    let heads: Vec<Connection> =
        (0..64).map(|at| stalled(&server, if at % 2 == 0 { PREDICTIONS } else { infer }, &IMAGE, 1000, b"")).collect();
    for _ in 0..20 {
        assert_eq!(predict(&server, &image), 200, "beside 64 heads");
    }
    // Enough of a body that each of them took a permit, which it gives back as it stops.
    let large = noise(600);
    let half = &large[..large.len() / 2];
    let form = [("content-type", "multipart/form-data; boundary=edge")];
    let part = b"--edge\r\ncontent-disposition: form-data; name=file; filename=a.png\r\n\r\n";
    let mut halves: Vec<Connection> = (0..64)
        .map(|at| match at % 2 {
            0 => stalled(&server, PREDICTIONS, &IMAGE, large.len(), half),
            _ => stalled(&server, PREDICTIONS, &form, large.len() + 1000, &[part, half].concat()),
        })
        .collect();
    // While the server still receives the halves, they may hold all permits.
    let in_a_row = || (0..20).take_while(|_| predict(&server, &image) == 200).count();
    assert_eq!(until(in_a_row, |count| *count == 20), 20, "beside 64 halves of bodies");
    // A slow client is served all the same.
    halves[0].send(&large[large.len() / 2..]);
    assert_eq!(halves[0].read().unwrap().status, 200);
    halves[1].send(&[&large[large.len() / 2..], b"\r\n--edge--\r\n"].concat());
    drop((heads, halves));
}

/// Every kind of body: JSON, an image, a form, an archive, a model, weights, DICOMweb, a tensor, and one that a retry sends.
#[test]
fn a_body_below_the_minimum_rate_gets_408_on_every_path() {
    let folder = serving_folder();
    let server = Running::start(folder.path(), &[("THORAX_BODY_PAUSE_SECONDS", "1")]);
    let (_, dataset) = server.send("POST", "/v1/datasets", &json!({"name": "drip"}).to_string());
    let radiographs = format!("/v1/datasets/{}/radiographs", dataset["id"].as_str().unwrap());
    let form = "multipart/form-data; boundary=edge";
    let related = "multipart/related; type=\"application/dicom\"; boundary=edge";
    let requests = [
        ("/v1/datasets", "application/json"),
        (PREDICTIONS, "image/png"),
        (PREDICTIONS, form),
        (&radiographs, "image/png"),
        (&radiographs, form),
        ("/v1/prediction-jobs", "application/zip"),
        ("/v1/models", "application/octet-stream"),
        ("/v1/admin/weights", "application/octet-stream"),
        ("/v1/admin/weights", form),
        ("/dicomweb/studies", related),
        ("/v2/models/champion/infer", "application/json"),
        ("/v2/repository/index", "application/json"),
    ];
    thread::scope(|scope| {
        for (path, content_type) in requests {
            let server = &server;
            scope.spawn(move || {
                let part = b"--edge\r\ncontent-disposition: form-data; name=file; filename=a.png\r\n\r\n";
                let mut connection = stalled(server, path, &[("content-type", content_type)], 10_000, part);
                let began = Instant::now();
                let response = drip(&mut connection);
                assert_eq!(
                    (response.status, response.header("connection")),
                    (408, Some("close")),
                    "{path} {content_type}"
                );
                assert!(began.elapsed() >= Duration::from_secs(1), "{path}: {:?}", began.elapsed());
                assert!(connection.read().is_err(), "{path}: the connection is closed");
            });
        }
    });
    assert_eq!(server.get("/health/live").0, 200);
}

/// Sends a byte ten times a second until there is a response.
fn drip(connection: &mut Connection) -> crate::operating::TestResponse {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE);
        let stream = connection.stream();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        match stream.peek(&mut [0]) {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                stream.write_all(b"x").unwrap();
            }
            found => {
                assert_eq!(found.unwrap(), 1, "closed without a response");
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return connection.read().unwrap();
            }
        }
    }
}

#[test]
fn unfinished_uploads_stay_within_the_memory_budget_and_complete_from_disk() {
    const BUDGET: u64 = 8 << 20;
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[("THORAX_MAX_BODY_MEMORY_BYTES", &BUDGET.to_string())]);
    let (_, dataset) = server.send("POST", "/v1/datasets", &json!({"name": "slow"}).to_string());
    let path = format!("/v1/datasets/{}/radiographs", dataset["id"].as_str().unwrap());
    let image = noise(2000);
    let before = server.resident_bytes();
    let (half, rest) = image.split_at(image.len() - 1000);
    let mut uploads: Vec<Connection> = (0..30).map(|_| stalled(&server, &path, &IMAGE, image.len(), half)).collect();
    let spooled = || size_of(&folder.path().join("data/incoming"));
    let all = (30 * half.len()) as u64;
    // What the kernel and hyper buffer is not much beside a body of four megabytes.
    until(spooled, |spooled| *spooled + BUDGET > all - (30 << 16) && *spooled > 0);
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{} MiB more for {} MiB of bodies", grown >> 20, all >> 20);
    assert!(grown < all / 2, "{} MiB more for {} MiB of bodies", grown >> 20, all >> 20);
    for upload in &mut uploads {
        upload.send(rest);
        assert_eq!(upload.read().unwrap().status, 201);
    }
    assert_eq!(until(spooled, |spooled| *spooled == 0), 0, "the files are gone");
}

fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    // A file may go while its folder is listed.
    files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
}

#[test]
fn unread_exports_are_bounded_and_freed() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[("THORAX_READ_PAUSE_SECONDS", "10")]);
    let (_, datasets) = server.get("/v1/datasets");
    let dataset = datasets["items"][0]["id"].as_str().unwrap();
    let path = format!("/v1/datasets/{dataset}/exports/x_train_1024.npy");
    let before = server.resident_bytes();
    let mut unread = Vec::new();
    let refused = loop {
        let mut connection = open(&server);
        connection.send_head("GET", &path, &[], 0);
        let response = connection.read_head().unwrap();
        if response.status != 200 {
            break response;
        }
        unread.push(connection);
    };
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "beside {}", unread.len());
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{} MiB more for {} exports", grown >> 20, unread.len());
    // Each holds some grey images of one mebibyte, and not arrays of twelve.
    assert!(grown < (unread.len() as u64 * 8 + 64) << 20, "{} MiB more for {}", grown >> 20, unread.len());
    let again = || {
        let mut connection = open(&server);
        connection.send_head("GET", &path, &[], 0);
        connection.read_head().unwrap().status
    };
    until(again, |status| *status == 200);
    let mut rest = Vec::new();
    let stream = unread[0].stream();
    let length = stream.read_to_end(&mut rest).map(|_| rest.len());
    assert!(length.is_err() || length.unwrap() < 12 << 20, "it broke off");
}

#[test]
fn a_shutdown_does_not_wait_for_clients_that_stopped() {
    let folder = serving_folder();
    let mut server = Running::start(folder.path(), &[("THORAX_SHUTDOWN_SECONDS", "60"), ("THORAX_DRAIN_SECONDS", "0")]);
    let large = noise(600);
    let _heads: Vec<Connection> = (0..64).map(|_| stalled(&server, PREDICTIONS, &IMAGE, 1000, b"")).collect();
    let _halves: Vec<Connection> =
        (0..16).map(|_| stalled(&server, PREDICTIONS, &IMAGE, large.len(), &large[..100_000])).collect();
    let _beginnings: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(b"POST /v1/predictions HTTP/1.1\r\nhost: ").unwrap();
            stream
        })
        .collect();
    let mut waiting = stalled(&server, "/v1/datasets", &[("content-type", "application/json")], 1000, b"{");
    assert_eq!(server.get("/health/live").0, 200);
    let began = Instant::now();
    server.signal("-TERM");
    let response = waiting.read().unwrap();
    assert_eq!((response.status, response.header("connection")), (503, Some("close")));
    assert!(server.wait().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_key_is_free_again_after_its_client_was_killed_within_the_body() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[]);
    let body = json!({"name": "once"}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "a-key"), ("expect", "100-continue")];
    let mut killed = open(&server);
    killed.send_head("POST", "/v1/datasets", &headers, body.len());
    assert_eq!(killed.read().unwrap().status, 100, "the server reads the body");
    killed.send(&body.as_bytes()[..5]);
    drop(killed);
    let retry = || open(&server).request("POST", "/v1/datasets", &headers[..2], body.as_bytes()).unwrap().status;
    assert_eq!(until(retry, |status| *status != 409), 201);
}

#[tokio::test]
async fn json_has_a_limit_of_its_own() {
    let server = Server::start().await;
    let long = json!({"name": "a", "description": "x".repeat(2 << 20)}).to_string();
    let refused = server.request("POST", "/v1/datasets", "application/json", long.clone().into_bytes()).await;
    refused.assert_problem(413, "/v1/datasets");
    assert!(refused.text("/detail").contains("1048576"), "{refused:?}");
    let chunks: Vec<_> = long.into_bytes().chunks(5000).map(|chunk| Ok::<_, axum::Error>(chunk.to_vec())).collect();
    let request = Request::post("/v1/datasets").header("content-type", "application/json");
    let refused = server.send(request.body(Body::from_stream(stream::iter(chunks))).unwrap()).await;
    refused.assert_problem(413, "/v1/datasets");
    // Below the limit, and long enough to be parsed on another thread.
    let body = json!({"name": "a", "description": "x".repeat(9000), "refuse": vec!["inverted"; 20_000]}).to_string();
    assert!(body.len() > 100_000);
    let created = server.request("POST", "/v1/datasets", "application/json", body.into_bytes()).await;
    assert!([201, 422].contains(&created.status), "{created:?}");
}

#[tokio::test]
async fn a_form_of_too_many_parts_is_refused_and_stores_nothing() {
    let server = Server::with(|state, folder| {
        let limits = thorax::http::TransferLimits { max_form_parts: 20, ..transfer_limits() };
        state.transfers = thorax::http::Transfers::new(limits, Arc::from(folder));
    })
    .await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("many").await;
    let image = png(48, 48, 1);
    let (content_type, body) = multipart(&(0..21).map(|_| Part::File("a.png", &image)).collect::<Vec<_>>());
    for path in [format!("/v1/datasets/{dataset}/radiographs"), PREDICTIONS.to_owned()] {
        let refused = server.request("POST", &path, &content_type, body.clone()).await;
        refused.assert_problem(413, &path);
        assert!(refused.text("/detail").contains("20 parts"), "{refused:?}");
    }
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs")).await.items(), 0);
}

#[tokio::test]
async fn the_head_of_a_part_and_a_text_field_are_limited() {
    let server = Server::start().await;
    let dataset = server.dataset("heads").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let chunked = |body: Vec<u8>| {
        let chunks: Vec<_> =
            body.chunks(4096).map(|chunk| Ok::<_, axum::Error>(Bytes::copy_from_slice(chunk))).collect();
        let request = Request::post(&path).header("content-type", "multipart/form-data; boundary=edge");
        request.body(Body::from_stream(stream::iter(chunks))).unwrap()
    };
    let long = "x".repeat(MAX_UPLOAD_BYTES / 2);
    let head = format!("--edge\r\ncontent-disposition: form-data; name=file; filename={long}");
    for body in [head.into_bytes(), long.clone().into_bytes()] {
        let refused = server.send(chunked(body)).await;
        refused.assert_problem(400, &path);
        assert!(refused.text("/detail").contains("head of a part"), "{refused:?}");
    }
    let text = format!("--edge\r\ncontent-disposition: form-data; name=source\r\n\r\n{long}\r\n--edge--\r\n");
    let refused = server.send(chunked(text.into_bytes())).await;
    assert_eq!((refused.status, refused.pointers()), (422, vec!["/source".into()]), "{refused:?}");
}

#[tokio::test]
async fn an_export_of_missing_or_damaged_images_names_their_radiographs() {
    let server = Server::start().await;
    let dataset = server.dataset("broken").await;
    let mut stored = Vec::new();
    for shade in 0..3 {
        let image = png(48, 48, shade);
        let parts = [Part::Text("label", "normal"), Part::Text("split", "train"), Part::File("a.png", &image)];
        let uploaded = server.upload(&dataset, &parts).await;
        let sha256 = uploaded.text("/items/0/radiograph/sha256");
        let blob = server.folder.path().join("data/blobs").join(&sha256[..2]).join(&sha256[2..]);
        stored.push((uploaded.text("/items/0/radiograph/id"), blob));
    }
    std::fs::remove_file(&stored[0].1).unwrap();
    let mut bytes = std::fs::read(&stored[1].1).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&stored[1].1, bytes).unwrap();
    let path = format!("/v1/datasets/{dataset}/exports/x_train_64.npy");
    let refused = server.get(&path).await;
    refused.assert_problem(409, &path);
    let detail = refused.text("/detail");
    assert!(
        detail.contains(&stored[0].0) && detail.contains(&stored[1].0) && !detail.contains(&stored[2].0),
        "{detail}"
    );
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/exports/train_split.txt")).await.status, 200);
}

#[test]
fn a_request_over_the_limit_of_json_is_refused_before_its_body() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[]);
    let mut connection = open(&server);
    let headers = [("content-type", "application/json"), ("expect", "100-continue")];
    connection.send_head("POST", "/v1/datasets", &headers, 60_000_000);
    assert_eq!(connection.read().unwrap().status, 413);
}
