//! The program itself: how it starts, what it refuses, and how it ends while a run trains.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn it_starts_empty_says_what_to_do_next_and_ends_on_a_signal() {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Running::start(folder.path(), &[]);
        assert!(folder.path().join("data/thorax.sqlite").is_file());
        for path in ["/", "/docs/", "/openapi.json", "/health/live", "/v1/training-runs", "/v1/admin/devices"] {
            assert_eq!(server.get(path).0, 200, "{path}");
        }
        assert_eq!(server.get("/health/ready").0, 503);
        assert!(server.end(signal).success());
        let said = server.standard_error();
        assert!(said.contains("thorax import") && said.contains("thorax demo"), "{said}");
    }
}

#[test]
fn a_second_server_of_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Running::start(folder.path(), &[]);
    let second = refused(folder.path(), "127.0.0.1:0");
    assert!(second.contains("another"), "{second}");
}

#[test]
fn without_a_key_only_this_machine_is_served_and_with_one_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = refused(folder.path(), "0.0.0.0:0");
    assert!(open.contains("THORAX_ADMIN_KEY"), "{open}");
    let server = Running::start(folder.path(), &[("THORAX_ADMIN_KEY", "a-key-of-the-tests")]);
    assert_eq!((server.get("/v1/datasets").0, server.get("/health/live").0), (401, 200));
}

#[test]
fn a_run_that_the_end_of_the_server_interrupts_is_recorded_as_failed() {
    for signal in ["-TERM", "-KILL"] {
        let folder = with_phantoms();
        let mut server = Running::start(folder.path(), &[]);
        let run = server.start_training();
        assert_eq!(server.end(signal).success(), signal == "-TERM");
        let server = Running::start(folder.path(), &[]);
        let (_, shown) = server.get(&format!("/v1/training-runs/{run}"));
        assert_eq!(shown["status"], "failed", "{shown}");
        assert!(shown["error"].as_str().unwrap().contains("interrupted"), "{shown}");
    }
}

#[test]
fn a_run_that_is_being_watched_does_not_hold_the_server_back() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    let run = server.start_training();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /v1/training-runs/{run}/events HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).unwrap();
    let mut told = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("event: batch") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "the stream ends early");
    }
    let started = Instant::now();
    assert!(server.end("-TERM").success());
    // It would wait half a minute for open answers.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream is cut and not ended: {rest}");
}

#[test]
fn a_finished_run_leaves_its_decoded_images_and_a_start_clears_away_what_was_not_finished() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    server.start_training();
    let cache = folder.path().join("data/cache");
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let dataset = cache.join(&names(&cache)[0]);
    let made = names(&dataset);
    assert!(made.len() == 1 && made[0].starts_with("128-") && made[0].ends_with(".grey"), "{made:?}");
    server.end("-KILL");
    std::fs::write(dataset.join(".tmpkilled.partial"), "half").unwrap();
    std::fs::create_dir(cache.join("01890a5d-ac96-774b-bcce-b302099a8057")).unwrap();
    let _server = Running::start(folder.path(), &[]);
    assert_eq!((names(&cache).len(), names(&dataset)), (1, made));
}

#[test]
fn a_running_run_is_cancelled_while_the_server_goes_on_answering() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[]);
    let path = format!("/v1/training-runs/{}", server.start_training());
    assert_eq!(server.send("POST", &format!("{path}/cancel"), "").0, 202);
    server.wait_for(&path, |run| run["status"] == "cancelled");
    assert_eq!(server.get("/health/live").0, 200);
}

/// A server in a process of its own; killed when dropped.
struct Running {
    process: Child,
    address: String,
}

impl Running {
    fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = thorax(folder);
        let command = command.env("THORAX_LISTEN", "127.0.0.1:0").envs(variables.iter().copied()).arg("serve");
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("thorax is ready at http://").map(str::to_owned);
        Self { address: address.unwrap_or_else(|| panic!("not ready: {line:?}")), process }
    }

    /// Submits a run that would take hours, and waits until it trains; its identifier.
    fn start_training(&self) -> String {
        let (_, datasets) = self.get("/v1/datasets");
        let step = json!({"scope": "all", "learning_rate": 1e-3, "epochs": 200});
        let plan = json!({"stages": [{"image_size": 128, "steps": [step]}]});
        let body = json!({"dataset_id": datasets["items"][0]["id"], "recipe": "simple-cnn", "plan": plan});
        let (status, run) = self.send("POST", "/v1/training-runs", &body.to_string());
        assert_eq!(status, 202, "{run}");
        let id = run["id"].as_str().unwrap().to_owned();
        self.wait_for(&format!("/v1/training-runs/{id}"), |run| run["progress"]["batch"].as_u64() > Some(0));
        id
    }

    fn wait_for(&self, path: &str, holds: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        loop {
            let (_, shown) = self.get(path);
            if holds(&shown) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "")
    }

    /// Status and body; null when it is not JSON.
    fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = "connection: close\r\ncontent-type: application/json\r\n";
        write!(stream, "{method} {path} HTTP/1.0\r\nhost: {host}\r\n{head}content-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Sends the signal and waits for the end.
    fn end(&mut self, signal: &str) -> ExitStatus {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it goes on after {signal}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that it said; once it has ended.
    fn standard_error(&mut self) -> String {
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A folder whose data set holds thirty drawn phantoms.
fn with_phantoms() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeeds(thorax(folder.path()).args(["phantoms", "--out", "phantoms", "--count", "30", "--seed", "7"]));
    succeeds(thorax(folder.path()).args(["import", "--dataset", "phantoms", "phantoms"]));
    folder
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What `serve` says when it refuses to start.
fn refused(folder: &Path, listen: &str) -> String {
    let Output { status, stderr, .. } = thorax(folder).env("THORAX_LISTEN", listen).arg("serve").output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

/// The program in `folder`, on the CPU, with no other variable of its own.
fn thorax(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thorax"));
    let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("THORAX_"));
    for name in ours {
        command.env_remove(name);
    }
    command.current_dir(folder).env("THORAX_DEVICE", "cpu").stdin(Stdio::null());
    command
}
