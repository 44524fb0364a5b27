//! Limits on connections: few descriptors, slow heads, idle connections, and responses that nobody reads.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use super::{client::Client, exchange};
use crate::{
    fixtures::skip_unsupported,
    operating::Connection,
    process::{PATIENCE, Running, thorax_after, with_phantoms},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_holds_its_share_of_connections_keeps_nobody_else_out() {
    // Connects to nothing: a UDP socket only looks up the address from which it would send.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).map(|address| address.ip());
    let Some(own) = own.ok().filter(|address| !address.is_loopback() && !address.is_unspecified()) else {
        return skip_unsupported("no IPv4 address other than loopback");
    };
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("THORAX_LISTEN", "0.0.0.0:0"),
        ("THORAX_ADMIN_KEY", "a-key-of-the-tests"),
        ("THORAX_MAX_CONNECTIONS_PER_ADDRESS", "8"),
        ("THORAX_BODY_PAUSE_SECONDS", "60"),
    ];
    let server = Running::start(folder.path(), &variables);
    let port = server.address.rsplit_once(':').unwrap().1;
    let (local, far) = (format!("127.0.0.1:{port}"), format!("{own}:{port}"));
    let key = [("authorization", "Bearer a-key-of-the-tests")];
    // Each request waits for the rest of its body, so that its connection cannot be evicted.
    let headers = [key[0], ("content-type", "application/json"), ("expect", "100-continue")];
    let held: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = Connection::open(&far).unwrap();
            connection.send_head("POST", "/v1/datasets", &headers, 100);
            assert_eq!(connection.read().unwrap().status, 100);
            connection
        })
        .collect();
    for _ in 0..20 {
        let refused = Connection::open(&far).unwrap().request("GET", "/v1/models", &key, b"").unwrap();
        assert_eq!((refused.status, refused.header("connection")), (503, Some("close")), "one more of the address");
    }
    for _ in 0..20 {
        let reply = Client::http1(&local).await.get_with("/v1/models", &key).await;
        assert_eq!(reply.status, 200, "a client of another address is served: {reply:?}");
    }
    drop(held);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_and_resets_requests_rapidly_loses_its_connection_and_delays_nobody() {
    let (headers, rst_stream, settings, goaway) = (1, 3, 4, 7);
    let enhance_your_calm = 11;
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[]);
    let mut other = Client::http2(&server.address).await;
    other.promote().await;
    // GET / by the static table, and the authority as a literal (RFC 7541, 6.1 and 6.2.2).
    let host = server.address.as_bytes();
    let fields = [&[0x82, 0x86, 0x84, 0x01, u8::try_from(host.len()).unwrap()], host].concat();
    let mut flood = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(settings, 0, 0, &[])].concat();
    for stream in (1..20_000).step_by(2) {
        // END_STREAM and END_HEADERS; then CANCEL.
        flood.extend(frame(headers, 5, stream, &fields));
        flood.extend(frame(rst_stream, 0, stream, &8u32.to_be_bytes()));
    }
    for round in 0..20 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may close the connection before it has read all.
        let mut writer = stream.try_clone().unwrap();
        let flood = flood.clone();
        let writing = std::thread::spawn(move || drop(writer.write_all(&flood)));
        let (mut reason, mut head) = (None, [0; 9]);
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if stream.read_exact(&mut payload).is_err() {
                break;
            }
            if head[3] == goaway {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        writing.join().unwrap();
        // The notice is lost if the server closed the connection while it had unread bytes.
        assert!(reason.is_none_or(|reason| reason == enhance_your_calm), "{reason:?}");
        let prediction = other.predict(round).await;
        assert_eq!(prediction.status, 200, "{prediction:?}");
    }
    let started = Instant::now();
    while metric(&server.address, "thorax_http_requests_in_flight").await > 1.0 {
        assert!(started.elapsed() < PATIENCE, "reset requests are still in flight");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
