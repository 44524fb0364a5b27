//! Operation: logs, traces, draining on shutdown, memory under load.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{PATIENCE, Running, with_phantoms},
    support::model,
};

const PREDICTIONS: &str = "/v1/predictions";
const READY: &str = "/health/ready";

#[test]
fn each_log_line_is_a_json_object_with_request_id_and_trace_id() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[("THORAX_LOG_FORMAT", "json")]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("x-request-id", "a-request-of-the-tests"), ("traceparent", &parent), ("content-type", "image/png")];
    let mut connection = Connection::open(&server.address).unwrap();
    let response = connection.request("POST", PREDICTIONS, &headers, b"no image").unwrap();
    assert_eq!(response.header("x-request-id"), Some("a-request-of-the-tests"));
    let traced = response.header("traceresponse").unwrap();
    assert!(traced.starts_with(&format!("00-{trace}-")) && traced != parent, "{traced}");
    let begun = connection.request("GET", "/health/live", &[], b"").unwrap();
    assert_eq!(begun.header("traceresponse").map(str::len), Some(traced.len()), "a trace of its own");
    assert!(server.end("-TERM").success());
    let lines: Vec<Value> = server
        .standard_error()
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let line = lines.iter().find(|line| line["message"] == "request completed").unwrap_or_else(|| panic!("{lines:?}"));
    let span = json!({
        "name": "request", "method": "POST", "path": PREDICTIONS, "request_id": "a-request-of-the-tests",
        "trace_id": trace, "span_id": traced[36..52], "client": "127.0.0.1",
    });
    assert_eq!((&line["span"], &line["status"], &line["level"]), (&span, &json!(response.status), &json!("INFO")));
    assert!(line["milliseconds"].as_f64().unwrap() > 0.0 && line["timestamp"].is_string());
}

#[test]
fn each_request_exports_a_span_in_the_trace_of_its_client() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let received = thread::spawn(move || collected(&collector));
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[("THORAX_OTLP_ENDPOINT", &endpoint)]);
    let mut connection = Connection::open(&server.address).unwrap();
    let (trace, unwanted) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
    let mut request = |trace: &str, flags: &str| {
        let parent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        let response = connection.request("GET", "/v1/models", &[("traceparent", &parent)], b"").unwrap();
        response.header("traceresponse").unwrap().to_owned()
    };
    let (sent, not_sent) = (request(trace, "01"), request(unwanted, "00"));
    assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with("-01"), "{sent}");
    assert!(not_sent.starts_with(&format!("00-{unwanted}-")) && not_sent.ends_with("-00"), "{not_sent}");
    assert!(server.end("-TERM").success(), "what is left is sent at the end");
    let (head, body) = received.join().unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("application/x-protobuf"), "{head}");
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    assert!(holds(b"GET /v1/models") && holds(b"http.response.status_code") && holds(b"thorax"));
    assert!(
        holds(&hexadecimal(trace)) && holds(&hexadecimal("00f067aa0ba902b7")) && holds(&hexadecimal(&sent[36..52]))
    );
    assert!(!holds(&hexadecimal(unwanted)), "its client did not want it");
}

/// Head and body of the first request that the server receives.
fn collected(collector: &TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = collector.accept().unwrap();
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        assert!(from.read_line(&mut line).unwrap() > 0);
        if let Some(number) = line.to_lowercase().strip_prefix("content-length: ") {
            length = number.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    (head, body)
}

fn hexadecimal(digits: &str) -> Vec<u8> {
    digits.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn a_draining_server_completes_requests_in_flight_and_refuses_new_ones() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[("THORAX_DRAIN_SECONDS", "2")]);
    let run = server.start_training();
    let open = || Connection::open(&server.address).unwrap();
    let (mut kept_alive, mut checker, mut slow) = (open(), open(), open());
    assert_eq!(kept_alive.request("GET", "/v1/models", &[], b"").unwrap().status, 200);
    assert_eq!(checker.request("GET", "/health/live", &[], b"").unwrap().status, 200);
    // In flight: the head and the first half of the body were sent. The server has read them once it requests more.
    let body = json!({"name": "in flight"}).to_string();
    let (first, second) = body.split_at(9);
    slow.send_head(
        "POST",
        "/v1/datasets",
        &[("content-type", "application/json"), ("expect", "100-continue")],
        body.len(),
    );
    assert_eq!(slow.read().unwrap().status, 100);
    slow.send(first.as_bytes());
    server.signal("-TERM");
    let ready = until(
        || checker.request("GET", READY, &[], b"").unwrap(),
        |response| response.header("connection") == Some("close"),
    );
    assert_eq!((ready.status, ready.header("retry-after")), (503, Some("1")));
    // A body larger than any buffer: the client must still be able to read the response.
    let large = vec![0; 4 << 20];
    let refused = kept_alive.request("POST", PREDICTIONS, &[("content-type", "image/png")], &large).unwrap();
    assert_eq!(
        (refused.status, refused.header("retry-after"), refused.header("connection")),
        (503, Some("1"), Some("close"))
    );
    assert_eq!(open().request("GET", "/v1/models", &[], b"").unwrap().status, 503, "a new connection");
    assert_eq!(open().request("GET", "/health/live", &[], b"").unwrap().status, 200);
    slow.send(second.as_bytes());
    let answered = slow.read().unwrap();
    assert_eq!((answered.status, answered.header("connection")), (201, Some("close")));
    assert!(server.wait().success());
    let again = Running::start(folder.path(), &[]);
    let shown = again.get(&format!("/v1/training-runs/{run}")).1;
    assert!(
        ["queued", "running"].contains(&shown["status"].as_str().unwrap()),
        "the run resumes from its checkpoint: {shown}"
    );
    assert_eq!(again.get("/v1/datasets").1["items"].as_array().unwrap().len(), 2);
}

#[test]
fn shutdown_waits_for_a_long_request_until_its_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[("THORAX_SHUTDOWN_SECONDS", "3"), ("THORAX_DRAIN_SECONDS", "0")]);
    let mut long = Connection::open(&server.address).unwrap();
    let headers = [("content-type", "application/octet-stream"), ("expect", "100-continue")];
    long.send_head("POST", "/v1/models", &headers, 200 << 20);
    assert_eq!(long.read().unwrap().status, 100);
    let began = Instant::now();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Fast enough to be waited for, and too slow to end within the timeout.
            while !ended.load(Ordering::Relaxed) && long.0.get_mut().write_all(&[0; 100_000]).is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let _ended = StopWhenDropped(&ended);
        assert!(server.end("-TERM").success());
    });
    let took = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

#[test]
fn a_rolling_replacement_under_load_fails_no_request() {
    let folders = [serving_folder(), serving_folder()];
    let mut servers = folders.each_ref().map(|folder| Running::start(folder.path(), &[]));
    let balancer = Balancer::over(&servers);
    thread::scope(|scope| {
        let _stop = StopWhenDropped(&balancer.stopped);
        scope.spawn(|| balancer.check());
        for _ in 0..4 {
            scope.spawn(|| balancer.load());
        }
        balancer.wait_for_answers([30, 30]);
        for at in 0..servers.len() {
            assert!(servers[at].end("-TERM").success());
            servers[at] = Running::start(folders[at].path(), &[]);
            balancer.replace(at, &servers[at].address);
            balancer.wait_for_answers([30, 30]);
        }
    });
    let failures = balancer.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {:?} failed: {:?}", failures.len(), balancer.answered, failures);
    assert!(balancer.sent_on.into_inner() > 0, "the load never met a server that was ending: this test showed nothing");
}

#[test]
fn under_ten_times_the_load_each_request_is_served_or_refused_with_retry_after() {
    const QUEUE: usize = 4;
    let folder = serving_folder();
    let server =
        Running::start(folder.path(), &[("THORAX_MAX_CONCURRENT_REQUESTS", "4"), ("THORAX_MAX_BATCH_SIZE", "4")]);
    let (answered, refused) = under_load(&server, 10 * QUEUE, 10, &noise(2000));
    assert_eq!(answered + refused, 100 * QUEUE);
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
}

#[test]
fn refused_requests_do_not_add_their_bodies_to_memory() {
    const QUEUE: usize = 4;
    let folder = serving_folder();
    let server =
        Running::start(folder.path(), &[("THORAX_MAX_CONCURRENT_REQUESTS", "4"), ("THORAX_MAX_BATCH_SIZE", "4")]);
    let image = noise(2000);
    under_load(&server, QUEUE, 20, &image);
    let plateau = peak_memory(&server, || under_load(&server, QUEUE, 20, &image));
    let flooded = peak_memory(&server, || under_load(&server, 10 * QUEUE, 20, &image));
    // At any time nine of ten clients are over the limit. A server that read their bodies would need as much more memory. Half of that
    // as the bound allows for the noise of the allocator, which a bound of a few per cent would measure.
    let bodies = 9 * QUEUE * image.len();
    println!("at peak {} MiB at the limit, {} MiB at ten times the load", plateau >> 20, flooded >> 20);
    assert!(
        flooded <= plateau + bodies as u64 / 2,
        "{} MiB at ten times the load of {} MiB",
        flooded >> 20,
        plateau >> 20
    );
}

/// Peak memory of the server during an action, in bytes.
fn peak_memory(server: &Running, work: impl FnOnce() -> (usize, usize)) -> u64 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(server.resident_bytes());
                thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        let stop = StopWhenDropped(&done);
        let (answered, _) = work();
        drop(stop);
        assert!(answered > 0);
        watcher.join().unwrap()
    })
}

/// Has each of a number of clients send the image `times` times. Returns how many requests succeeded and how many were refused.
fn under_load(server: &Running, clients: usize, times: usize, image: &[u8]) -> (usize, usize) {
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let client = || {
        for _ in 0..times {
            let mut connection = Connection::open(&server.address).unwrap();
            let response = connection.request("POST", PREDICTIONS, &[("content-type", "image/png")], image).unwrap();
            match response.status {
                200 => answered.fetch_add(1, Ordering::Relaxed),
                429 => {
                    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=120).contains(&seconds));
                    refused.fetch_add(1, Ordering::Relaxed)
                }
                other => panic!("{other}"),
            };
        }
    };
    thread::scope(|scope| (0..clients).for_each(|_| drop(scope.spawn(client))));
    (answered.into_inner(), refused.into_inner())
}

/// Two servers behind a load balancer.
struct Balancer {
    addresses: [Mutex<String>; 2],
    ready: [AtomicBool; 2],
    answered: [AtomicUsize; 2],
    /// Responses since the last change of the servers.
    since: [AtomicUsize; 2],
    sent_on: AtomicUsize,
    failures: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Balancer {
    fn over(servers: &[Running; 2]) -> Self {
        Self {
            addresses: servers.each_ref().map(|server| Mutex::new(server.address.clone())),
            ready: Default::default(),
            answered: Default::default(),
            since: Default::default(),
            sent_on: AtomicUsize::new(0),
            failures: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    fn address(&self, at: usize) -> String {
        self.addresses[at].lock().unwrap().clone()
    }

    fn replace(&self, at: usize, address: &str) {
        address.clone_into(&mut self.addresses[at].lock().unwrap());
        self.since.iter().for_each(|since| since.store(0, Ordering::Relaxed));
    }

    /// Checks the readiness of both servers in turn. A server is removed after two failed checks, so a server that shuts down still gets
    /// requests between two checks.
    fn check(&self) {
        let mut failed = [2; 2];
        while !self.stopped.load(Ordering::Relaxed) {
            for (at, failed) in failed.iter_mut().enumerate() {
                let response =
                    Connection::open(&self.address(at)).and_then(|mut one| one.request("GET", READY, &[], b""));
                *failed = if response.is_ok_and(|response| response.status == 200) { 0 } else { *failed + 1 };
                self.ready[at].store(*failed < 2, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A client that keeps its connections and sends requests to the servers in turn.
    fn load(&self) {
        let image = noise(64);
        let mut connections: BTreeMap<String, Connection> = BTreeMap::new();
        for turn in 0.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let at = turn % 2;
            if !self.ready[at].load(Ordering::Relaxed) {
                connections.remove(&self.address(at));
                continue;
            }
            self.request(at, &mut connections, &image);
        }
    }

    /// Sends a request; if the server refuses it, the next one goes to the other server.
    fn request(&self, at: usize, connections: &mut BTreeMap<String, Connection>, image: &[u8]) {
        let address = self.address(at);
        let mut connection = match connections.remove(&address).map_or_else(|| Connection::open(&address), Ok) {
            Ok(connection) => connection,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.sent_on.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => return self.failures.lock().unwrap().push(format!("connecting: {error}")),
        };
        match connection.request("POST", PREDICTIONS, &[("content-type", "image/png")], image) {
            Ok(response) if response.status == 200 => {
                self.answered[at].fetch_add(1, Ordering::Relaxed);
                self.since[at].fetch_add(1, Ordering::Relaxed);
                if response.header("connection") != Some("close") {
                    connections.insert(address, connection);
                }
            }
            Ok(response) if response.status == 503 && response.header("retry-after").is_some() => {
                self.sent_on.fetch_add(1, Ordering::Relaxed);
            }
            Ok(response) => self.failures.lock().unwrap().push(format!("status {}", response.status)),
            Err(error) => self.failures.lock().unwrap().push(format!("no response: {error}")),
        }
    }

    fn wait_for_answers(&self, wanted: [usize; 2]) {
        let began = Instant::now();
        while (0..2).any(|at| self.since[at].load(Ordering::Relaxed) < wanted[at]) {
            assert!(began.elapsed() < PATIENCE, "{:?} of {wanted:?}; {:?}", self.since, self.failures);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Also when the test fails, because its threads would run forever.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A keep-alive connection.
pub struct Connection(BufReader<TcpStream>);

#[derive(Debug)]
pub struct TestResponse {
    pub status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl TestResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Connection {
    pub fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<TestResponse> {
        let head = self.head(method, path, headers, body.len())?;
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        self.read()
    }

    pub fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) {
        let head = self.head(method, path, headers, length).unwrap();
        self.send(head.as_bytes());
    }

    /// A request head that names the server by its address.
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> io::Result<String> {
        let host = self.0.get_ref().peer_addr()?;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Ok(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n"))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The socket, of which nothing must have been read ahead.
    pub fn stream(&mut self) -> &mut TcpStream {
        assert!(self.0.buffer().is_empty() || self.0.buffer().len() < 16 << 10);
        self.0.get_mut()
    }

    pub fn read(&mut self) -> io::Result<TestResponse> {
        let mut response = self.read_head()?;
        let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        response.body.resize(length, 0);
        self.0.read_exact(&mut response.body)?;
        Ok(response)
    }

    /// A response without its body, which is left unread.
    pub fn read_head(&mut self) -> io::Result<TestResponse> {
        let status = self.line()?;
        let bad = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| bad(&status))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Ok(TestResponse { status, headers, body: Vec::new() })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// The first result of `poll` that satisfies the condition.
pub fn until<T>(mut poll: impl FnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let found = poll();
        if holds(&found) {
            return found;
        }
        assert!(began.elapsed() < PATIENCE);
    }
}

/// A data folder whose champion is a small network with random weights.
pub fn serving_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[("THORAX_DRAIN_SECONDS", "0")]);
    let mut connection = Connection::open(&server.address).unwrap();
    let made = connection
        .request("POST", "/v1/models", &[("content-type", "application/octet-stream")], &model::small(32, 1))
        .unwrap();
    let id = serde_json::from_slice::<Value>(&made.body).unwrap()["id"].clone();
    let champion = json!({ "model_id": id }).to_string();
    assert_eq!(server.send("PUT", "/v1/models/aliases/champion", &champion).0, 200);
    assert!(server.end("-TERM").success());
    assert!(Path::new(folder.path()).join("data/thorax.sqlite").is_file());
    folder
}

/// A square PNG of incompressible noise.
pub fn noise(side: u32) -> Vec<u8> {
    let mut pixels = vec![0; (side * side) as usize];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut pixels);
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(&pixels, side, side, ExtendedColorType::L8).unwrap();
    bytes
}
