//! Connections of the program: HTTP/2, TLS, Unix sockets, proxies, and limits on connections.

mod client;
mod limits;
mod tls;

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use axum::http::Version;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    process::{PATIENCE, Running, thorax, with_phantoms},
    transport::client::Client,
};

#[tokio::test(flavor = "multi_thread")]
async fn http2_by_prior_knowledge_serves_concurrent_predictions_and_errors_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[]);
    let mut client = Client::http2(&server.address).await;
    client.promote().await;
    let predictions = (0..20).map(|shade| {
        let mut client = client.clone();
        async move { client.predict(shade).await }
    });
    for reply in join_all(predictions).await {
        assert_eq!((reply.status, reply.version), (200, Version::HTTP_2), "{reply:?}");
        assert!(reply.json()["prediction"].is_string(), "{reply:?}");
    }
    let missing = client.get("/v1/nothing").await;
    assert_eq!((missing.status, missing.json()["instance"].as_str()), (404, Some("/v1/nothing")));
    let head = client.get_with("/v1/models", &[("x-large", &"x".repeat(20_000))]).await;
    assert_eq!((head.status, head.json()["type"].as_str()), (431, Some("/problems/head-too-large")));
    assert_eq!(client.get("/health/ready").await.status, 200, "the connection is still in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_event_streams_of_http2_in_order() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    let run = server.start_training();
    let mut client = Client::http2(&server.address).await;
    let mut stream = client.stream(&format!("/v1/training-runs/{run}/events")).await;
    let mut seen = String::new();
    while !seen.contains("event: batch") {
        let frame = stream.frame().await.expect("an endless stream").unwrap();
        seen.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    let started = Instant::now();
    let ended = tokio::task::spawn_blocking(move || server.end("-TERM"));
    while let Some(frame) = stream.frame().await {
        frame.expect("the stream is ended, not cut");
    }
    assert!(ended.await.unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_needs_no_key_and_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thorax.socket");
    let listen = format!("unix:{}", path.display());
    let mut server = Running::start(folder.path(), &[("THORAX_LISTEN", &listen)]);
    assert_eq!((server.address.as_str(), mode(&path)), (listen.as_str(), 0o600));
    let stream = || async { tokio::net::UnixStream::connect(&path).await.unwrap() };
    let mut client = Client::http1_on(stream().await, "localhost").await;
    client.promote().await;
    assert_eq!(client.predict(1).await.status, 200);
    let mut http2 = Client::http2_on(stream().await, "localhost").await;
    assert_eq!(http2.predict(2).await.status, 200);

    let other = tempfile::tempdir().unwrap();
    let second = thorax(other.path()).env("THORAX_LISTEN", &listen).arg("serve").output().unwrap();
    let refused = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && refused.contains("another process listens"), "{refused}");
    assert_eq!(client.get("/health/ready").await.status, 200, "and takes nothing from the first");

    server.end("-KILL");
    assert!(path.exists());
    let variables = [("THORAX_LISTEN", listen.as_str()), ("THORAX_UNIX_SOCKET_MODE", "660")];
    let mut server = Running::start(folder.path(), &variables);
    assert_eq!(mode(&path), 0o660, "replaces the socket of a server that was killed");
    assert!(server.end("-TERM").success() && !path.exists());
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_log_names_the_client_that_a_trusted_proxy_names_and_no_other() {
    let client = |variables: &[(&str, &str)], headers: &str| {
        let folder = tempfile::tempdir().unwrap();
        let variables = [&[("THORAX_LOG_FORMAT", "json")], variables].concat();
        let mut server = Running::start(folder.path(), &variables);
        let reply =
            exchange(&server.address, &format!("GET /v1/nothing HTTP/1.1\r\nhost: {}\r\n{headers}", server.address));
        assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
        server.end("-TERM");
        let log = server.standard_error();
        let line = log.lines().find(|line| line.contains("request completed")).unwrap_or_else(|| panic!("{log}"));
        let line: Value = serde_json::from_str(line).unwrap();
        line["span"]["client"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
    };
    let claim = "x-forwarded-for: 198.51.100.1, 203.0.113.9\r\nforwarded: for=198.51.100.2\r\n";
    assert_eq!(client(&[], claim), "127.0.0.1");
    assert_eq!(client(&[("THORAX_TRUSTED_PROXIES", "10.0.0.0/8")], claim), "127.0.0.1");
    assert_eq!(client(&[("THORAX_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1")], claim), "203.0.113.9");
    let forwarded = [("THORAX_TRUSTED_PROXIES", "127.0.0.0/8"), ("THORAX_FORWARDED_HEADER", "forwarded")];
    assert_eq!(client(&forwarded, claim), "198.51.100.2");
}

/// Sends the lines of a head as the last request of a connection, and reads all responses.
fn exchange(address: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head}connection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}
