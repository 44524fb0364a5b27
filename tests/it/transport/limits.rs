//! Limits on connections: few descriptors, slow heads, idle connections, and responses that nobody reads.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{client::Client, exchange};
use crate::process::{PATIENCE, Running, thorax_after, with_phantoms};

/// Descriptors of a server that has few.
const FEW: &str = "ulimit -n 64";

/// A server after a line of a shell.
fn start_after(line: &str, folder: &std::path::Path, variables: &[(&str, &str)]) -> Running {
    let mut command = thorax_after(line, folder);
    Running::spawn(command.env("THORAX_LISTEN", "127.0.0.1:0").envs(variables.iter().copied()).arg("serve"))
}

/// The value of a metric.
async fn metric(address: &str, name: &str) -> f64 {
    let text = Client::http1(address).await.get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_64_descriptors_idle_connections_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_after(FEW, folder.path(), &[]);
    Client::http1(&server.address).await.promote().await;
    let mut held = Vec::new();
    for beginning in ["", "POST /v1/predictions HTTP/1.1\r\nhost:"] {
        for _ in 0..100 {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            // The server may have closed it already.
            drop(stream.write_all(beginning.as_bytes()));
            held.push(stream);
        }
        for shade in 0..10 {
            let mut client = Client::http1(&server.address).await;
            assert_eq!(client.get("/health/ready").await.status, 200);
            let prediction = client.predict(shade).await;
            assert_eq!(prediction.status, 200, "{prediction:?}");
            assert_eq!(Client::http2(&server.address).await.predict(shade).await.status, 200);
        }
    }
    assert!(metric(&server.address, "thorax_connections_closed_total{reason=\"evicted\"}").await > 100.0);
    assert!(metric(&server.address, "thorax_connections").await <= 64.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_64_descriptors_and_every_connection_busy_probes_are_answered_and_other_requests_get_503() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_after(FEW, folder.path(), &[("THORAX_BODY_PAUSE_SECONDS", "60")]);
    let max = metric(&server.address, "thorax_connections_max").await;
    assert!((4.0..40.0).contains(&max), "{max}");
    // Each request waits for the rest of its body.
    let head = format!("POST /v1/datasets HTTP/1.1\r\nhost: {}\r\n", server.address);
    let head = format!("{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{");
    let mut busy = Vec::new();
    let started = Instant::now();
    while metric(&server.address, "thorax_connections_reserved_total").await == 0.0 {
        assert!(started.elapsed() < PATIENCE, "{} connections are not too many", busy.len());
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        busy.push(stream);
    }
    for _ in 0..5 {
        let probe = exchange(&server.address, &format!("GET /health/live HTTP/1.1\r\nhost: {}\r\n", server.address));
        assert!(probe.starts_with("HTTP/1.1 200"), "{probe}");
        let mut client = Client::http1(&server.address).await;
        let refused = client.get("/v1/models").await;
        assert_eq!((refused.status, &refused.headers["connection"]), (503, &"close".parse().unwrap()), "{refused:?}");
        assert_eq!(refused.headers["content-type"], "application/problem+json");
        assert!(refused.headers.contains_key("retry-after"));
        assert!(client.try_get("/health/live").await.is_err(), "a single exchange");
    }
    drop(busy);
    let started = Instant::now();
    while Client::http1(&server.address).await.get("/v1/models").await.status != 200 {
        assert!(started.elapsed() < PATIENCE, "the connections are not free again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_after("ulimit -S -n 64", folder.path(), &[]);
    assert!(metric(&server.address, "thorax_connections_max").await > 64.0);
    drop(server);
    let output = thorax_after("ulimit -n 32", folder.path()).env("THORAX_LISTEN", "127.0.0.1:0").arg("serve").output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.contains("the limit of 32 open files is too low"), "{error}");
}

#[test]
fn a_head_has_a_deadline_and_the_time_between_requests_has_another() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("THORAX_HEAD_SECONDS", "1"), ("THORAX_KEEP_ALIVE_SECONDS", "5")];
    let server = Running::start(folder.path(), &variables);
    let slow = |first: &str| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let started = Instant::now();
        stream.write_all(first.as_bytes()).unwrap();
        // A byte now and then does not extend the deadline.
        let mut received = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => received.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if !first.is_empty() && received.is_empty() && stream.write_all(b"a").is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
            assert!(started.elapsed() < PATIENCE, "{first:?}");
        }
        (started.elapsed().as_secs_f64(), String::from_utf8(received).unwrap())
    };
    for beginning in ["", "GET /health/live HTTP/1.1\r\nx-slow: "] {
        let (seconds, received) = slow(beginning);
        assert!((0.9..4.5).contains(&seconds) && received.is_empty(), "{seconds} s, {received:?}");
    }
    let (seconds, received) = slow(&format!("GET /health/live HTTP/1.1\r\nhost: {}\r\n\r\n", server.address));
    assert!(seconds > 4.5 && received.starts_with("HTTP/1.1 200"), "{seconds} s, {received:?}");
    let large = "x".repeat(20_000);
    let reply =
        exchange(&server.address, &format!("GET / HTTP/1.1\r\nhost: {}\r\nx-large: {large}\r\n", server.address));
    assert!(reply.starts_with("HTTP/1.1 431") && reply.contains("/problems/head-too-large"), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_that_takes_nothing_of_its_response_loses_the_connection() {
    let folder = with_phantoms();
    let variables = [("THORAX_READ_PAUSE_SECONDS", "1"), ("THORAX_MIN_BYTES_PER_SECOND", "1048576")];
    let server = Running::start(folder.path(), &variables);
    let (_, datasets) = server.get("/v1/datasets");
    let export = format!("/v1/datasets/{}/exports/x_train_480.npy", datasets["items"][0]["id"].as_str().unwrap());
    let mut client = Client::http2_with_window(&server.address, 4096).await;
    let unread = client.stream(&export).await;
    let started = Instant::now();
    // Its other requests are answered meanwhile: the socket is read.
    while client.try_get("/health/live").await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "the response is held for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(unread);
    assert_eq!(metric(&server.address, "thorax_connections_closed_total{reason=\"unread\"}").await, 1.0);
    let mut client = Client::http2(&server.address).await;
    assert_eq!(client.get(&export).await.status, 200, "and one that reads gets it");
}
