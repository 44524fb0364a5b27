//! Runs the program as a process, in a folder of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Timeout of each wait: several times what the longest takes on a machine with two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A server in a process of its own; killed when dropped.
pub struct Running {
    process: Child,
    /// Reads the log: the server would block on a full pipe.
    log: Option<JoinHandle<String>>,
    pub address: String,
}

impl Running {
    pub fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = thorax(folder);
        Self::spawn(command.env("THORAX_LISTEN", "127.0.0.1:0").envs(variables.iter().copied()).arg("serve"))
    }

    /// Starts a server by a command of its own.
    pub fn spawn(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = std::thread::spawn({
            let mut log = process.stderr.take().unwrap();
            move || {
                let mut said = Vec::new();
                log.read_to_end(&mut said).unwrap();
                String::from_utf8_lossy(&said).into_owned()
            }
        });
        let Some(url) = line.trim().strip_prefix("thorax is ready at ") else {
            panic!("not ready: {line:?} {}", log.join().unwrap());
        };
        let address = url.split_once("://").map_or(url, |(_, address)| address).to_owned();
        Self { address, log: Some(log), process }
    }

    /// Submits a run of the only data set and returns its identifier.
    pub fn submit(&self, recipe: &str, plan: &Value) -> String {
        let (_, datasets) = self.get("/v1/datasets");
        let body = json!({"dataset_id": datasets["items"][0]["id"], "recipe": recipe, "plan": plan});
        let (status, run) = self.send("POST", "/v1/training-runs", &body.to_string());
        assert_eq!(status, 202, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    /// Submits a run that would take hours, waits until it trains, and returns its identifier.
    pub fn start_training(&self) -> String {
        let step = json!({"scope": "all", "learning_rate": 1e-3, "epochs": 1000});
        let id = self.submit("simple-cnn", &json!({"stages": [{"image_size": 128, "steps": [step]}]}));
        self.wait_for(&format!("/v1/training-runs/{id}"), |run| run["progress"]["epoch"].as_u64() > Some(1));
        id
    }

    /// Waits until the resource satisfies the condition and returns it.
    pub fn wait_for(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_within(PATIENCE, path, holds)
    }

    /// The same with another time limit.
    pub fn wait_within(&self, limit: Duration, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let (_, shown) = self.get(path);
            if holds(&shown) {
                return shown;
            }
            assert!(started.elapsed() < limit, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "")
    }

    /// Status and body of a response; null if the body is not JSON.
    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = "connection: close\r\ncontent-type: application/json\r\n";
        write!(stream, "{method} {path} HTTP/1.0\r\nhost: {host}\r\n{head}content-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let response = String::from_utf8_lossy(&response);
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Sends any body with any headers; status, head and body of the response.
    pub fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (host, length) = (&self.address, body.len());
        let head = format!("host: {host}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
        stream.write_all(&[format!("{method} {path} HTTP/1.0\r\n{head}").as_bytes(), body].concat()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&response[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, response.split_off(end + 4))
    }

    /// Posts an image for classification; status and response.
    pub fn predict(&self, image: &[u8]) -> (u16, Value) {
        let (status, _, body) = self.exchange("POST", "/v1/predictions", &[("content-type", "image/png")], image);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Resident memory.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Sends the signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends the signal and waits for the end.
    pub fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the process has not ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The output, after the end of the process.
    pub fn standard_error(&mut self) -> String {
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A folder with a data set of thirty synthetic phantoms.
pub fn with_phantoms() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeeds(thorax(folder.path()).args(["phantoms", "--out", "phantoms", "--count", "30", "--seed", "7"]));
    succeeds(thorax(folder.path()).args(["import", "--dataset", "phantoms", "phantoms"]));
    folder
}

pub fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The program in `folder`, on the CPU, without other configuration variables.
pub fn thorax(folder: &Path) -> Command {
    prepared(Command::new(env!("CARGO_BIN_EXE_thorax")), folder)
}

/// The program after a line of a shell, such as `ulimit -n 64`.
pub fn thorax_after(line: &str, folder: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{line} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_thorax")]);
    prepared(shell, folder)
}

fn prepared(mut command: Command, folder: &Path) -> Command {
    let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("THORAX_"));
    for name in ours {
        command.env_remove(name);
    }
    command.current_dir(folder).env("THORAX_DEVICE", "cpu").stdin(Stdio::null());
    command
}
