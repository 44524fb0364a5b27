//! Durability: runs that are killed or paused, or that lose checkpoints or disk space, end with the numbers of an undisturbed run.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fixtures::skip_unsupported,
    process::{PATIENCE, Running, with_phantoms},
};

/// Points of a run at which its server is killed, in this order; each is counted from the previous start of the server. They cover the
/// claim of a run, its first batch, an epoch without its checkpoint, a checkpoint, a half-written checkpoint, and the end of a stage.
const KILL_POINTS: [KillPoint; 15] = {
    use KillPoint::{After, WhileCheckpointIsWritten};
    [
        After("status"),
        After("batch"),
        After("epoch"),
        After("checkpoint"),
        WhileCheckpointIsWritten,
        After("status"),
        After("batch"),
        WhileCheckpointIsWritten,
        After("checkpoint"),
        After("stage"),
        After("status"),
        After("batch"),
        After("epoch"),
        WhileCheckpointIsWritten,
        After("checkpoint"),
    ]
};

/// Number of kills at random times, before those at named points.
const RANDOM_KILLS: usize = 5;

/// Prefix of the names of files that fill a disk.
const FILLER: &str = "filler";

/// A plan with everything that has a state (two stages, head and whole network, dropout), and with checkpoints within its epochs.
fn plan() -> Value {
    let step = |scope, epochs| json!({"scope": scope, "learning_rate": 1e-3, "epochs": epochs});
    json!({
        "batch_size": 4,
        "checkpoint_minutes": 0.002,
        "stages": [
            {"image_size": 160, "steps": [step("head", 5), step("all", 25)]},
            {"image_size": 192, "steps": [step("all", 15)]},
        ]
    })
}

/// Results of an undisturbed run.
fn undisturbed() -> &'static Value {
    static NUMBERS: OnceLock<Value> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let folder = with_phantoms();
        let server = Running::start(folder.path(), &[]);
        let run = server.submit("simple-cnn", &plan());
        numbers_at_the_end(&server, &run)
    })
}

/// Everything that the API returns about the outcome of a run, except times and identifiers.
fn numbers_at_the_end(server: &Running, run: &str) -> Value {
    let path = format!("/v1/training-runs/{run}");
    let ended = server.wait_for(&path, |run| ["succeeded", "failed"].contains(&run["status"].as_str().unwrap()));
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let pick = |items: Value, names: &[&str]| -> Vec<Value> {
        let pick = |item: &Value| names.iter().map(|name| item[name].clone()).collect();
        items["items"].as_array().unwrap().iter().map(pick).collect()
    };
    let epochs = server.get(&format!("{path}/epochs?limit=200")).1;
    let evaluations = server.get(&format!("{path}/evaluations")).1;
    let models = server.get(&format!("/v1/models?run_id={run}")).1;
    json!({
        "epochs": pick(epochs, &["sequence", "stage", "step", "epoch", "train", "selection"]),
        "evaluations": pick(evaluations, &["stage", "split", "confusion_matrix", "loss", "scores"]),
        "models": pick(models, &["stage", "name", "sha256"]),
    })
}

fn status(server: &Running, run: &str) -> String {
    server.get(&format!("/v1/training-runs/{run}")).1["status"].as_str().unwrap().to_owned()
}

fn request(server: &Running, run: &str, action: &str) -> (u16, Value) {
    server.send("POST", &format!("/v1/training-runs/{run}/{action}"), "")
}

fn wait_until_it_trains(server: &Running, run: &str) {
    server.wait_for(&format!("/v1/training-runs/{run}"), |run| run["progress"]["epoch"].as_u64() > Some(1));
}

/// Checkpoints of the only run, the newest last.
fn checkpoints(folder: &TempDir, run: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path().join("data/runs").join(run)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    paths
}

/// A point of a run that is visible from outside.
#[derive(Clone, Copy, Debug)]
enum KillPoint {
    /// The next event of this kind.
    After(&'static str),
    /// The temporary file of a checkpoint exists.
    WhileCheckpointIsWritten,
}

impl KillPoint {
    /// Waits until the run reaches the point. `last_event` is the id of the newest event that was seen, over all servers.
    fn wait(self, server: &Running, folder: &TempDir, run: &str, last_event: &mut u64) {
        match self {
            Self::After(kind) => wait_for_event(server, run, kind, last_event),
            Self::WhileCheckpointIsWritten => {
                let began = Instant::now();
                let checkpoints = folder.path().join("data/runs").join(run);
                let is_partial = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "partial");
                let partial = || fs::read_dir(&checkpoints).is_ok_and(|files| files.flatten().any(is_partial));
                while !partial() {
                    assert!(began.elapsed() < PATIENCE, "no checkpoint is written");
                    thread::yield_now();
                }
            }
        }
    }
}

/// Reads the event stream of a run until an event of this kind that is newer than `last_event`.
fn wait_for_event(server: &Running, run: &str, kind: &str, last_event: &mut u64) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = format!("/v1/training-runs/{run}/events");
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {}\r\nlast-event-id: {last_event}\r\n\r\n", server.address).unwrap();
    let mut found = false;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(id) = line.strip_prefix("id: ") {
            *last_event = id.parse().unwrap();
        }
        found |= line.strip_prefix("event: ") == Some(kind);
        // A blank line ends an event.
        if found && line.is_empty() {
            return;
        }
    }
    panic!("the stream ended before an event of kind {kind}");
}

#[test]
fn a_run_whose_server_is_killed_at_each_kind_of_point_ends_with_the_same_numbers() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    let restart = |mut server: Running, point: &str| {
        let status = status(&server, &run);
        assert!(["queued", "running"].contains(&status.as_str()), "at the kill {point} the run is {status}");
        server.end("-KILL");
        Running::start(folder.path(), &[])
    };
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..RANDOM_KILLS {
        let milliseconds = rng.random_range(0..500);
        thread::sleep(Duration::from_millis(milliseconds));
        server = restart(server, &format!("after {milliseconds} ms"));
    }
    let mut last_event = 0;
    for point in KILL_POINTS {
        point.wait(&server, &folder, &run, &mut last_event);
        server = restart(server, &format!("{point:?}"));
    }
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
    assert_eq!(checkpoints(&folder, &run).len(), 2, "the last two are kept");
}

#[test]
fn a_run_resumes_after_a_graceful_shutdown() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    wait_until_it_trains(&server, &run);
    assert!(server.end("-TERM").success());
    let server = Running::start(folder.path(), &[]);
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
}

#[test]
fn a_torn_checkpoint_is_detected_and_the_previous_one_used_or_else_the_run_restarts() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    server.wait_for(&format!("/v1/training-runs/{run}"), |run| run["progress"]["epoch"].as_u64() > Some(3));
    for torn in [1, 2] {
        pause_and_wait(&server, &run);
        let paths = checkpoints(&folder, &run);
        assert_eq!(paths.len(), 2);
        for path in &paths[2 - torn..] {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }
        assert_eq!(request(&server, &run, "resume").0, 202);
        wait_until_it_trains(&server, &run);
    }
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
}

/// Pauses a run, and waits until its checkpoint is written and the device is free.
fn pause_and_wait(server: &Running, run: &str) {
    assert_eq!(request(server, run, "pause").0, 202);
    let other = server.submit("simple-cnn", &plan());
    server.wait_for(&format!("/v1/training-runs/{other}"), |run| run["status"] == "running");
    assert_eq!(status(server, run), "paused");
    assert_eq!(request(server, &other, "cancel").0, 202);
    server.wait_for(&format!("/v1/training-runs/{other}"), |run| run["status"] == "cancelled");
}

#[test]
fn a_paused_run_lets_others_train_and_concurrent_resumes_end_with_the_same_numbers() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    wait_until_it_trains(&server, &run);
    pause_and_wait(&server, &run);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for action in ["resume", "pause", "pause", "resume", "resume"].repeat(4) {
                    assert_eq!(request(&server, &run, action).0, 202, "{action}");
                }
            });
        }
    });
    assert_eq!(request(&server, &run, "resume").0, 202);
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
    for action in ["pause", "resume", "cancel"] {
        assert_eq!(request(&server, &run, action).0, 409, "{action} of a run that has succeeded");
    }
    assert_eq!(server.send("DELETE", &format!("/v1/training-runs/{run}"), "").0, 204);
    assert!(!folder.path().join("data/runs").join(&run).exists());
}

#[test]
fn a_run_that_cannot_write_a_checkpoint_waits_until_it_can() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    wait_until_it_trains(&server, &run);
    // A file in place of the folder of checkpoints: nothing can be written there.
    let (place, aside) = (folder.path().join("data/runs").join(&run), folder.path().join("aside"));
    server.wait_for(&format!("/v1/training-runs/{run}"), |_| place.is_dir());
    fs::rename(&place, &aside).unwrap();
    fs::write(&place, "").unwrap();
    assert_no_progress(&server, &run, || ());
    fs::remove_file(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
}

#[test]
fn a_run_outlives_a_full_disk() {
    let folder = with_phantoms();
    let Some(disk) = SmallDisk::under(&folder.path().join("data")) else {
        skip_unsupported("no file system can be mounted here");
        return;
    };
    let server = Running::start(folder.path(), &[]);
    let run = server.submit("simple-cnn", &plan());
    wait_until_it_trains(&server, &run);
    // Several times: each checkpoint that is written deletes the one before the last, which frees space for the next.
    assert_no_progress(&server, &run, || disk.fill());
    disk.free();
    assert_eq!(&numbers_at_the_end(&server, &run), undisturbed());
}

/// Asserts that the run stops making progress and does not fail.
fn assert_no_progress(server: &Running, run: &str, hinder: impl Fn()) {
    let epochs =
        || server.get(&format!("/v1/training-runs/{run}/epochs?limit=200")).1["items"].as_array().unwrap().len();
    let mut known = epochs();
    for _ in 0..100 {
        hinder();
        thread::sleep(Duration::from_secs(1));
        let now = epochs();
        if now == known {
            assert_eq!(status(server, run), "running");
            return;
        }
        known = now;
    }
    panic!("the run continues to write");
}

/// A file system of a few megabytes; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts the file system below a folder and moves all of the folder's files there.
    pub fn under(folder: &Path) -> Option<Self> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(folder).output();
        let disk = mount.is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))?;
        let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(folder).status();
        assert!(copied.unwrap().success());
        Some(disk)
    }

    pub fn fill(&self) {
        let mut size = 96 << 20;
        while size > 0 {
            if fs::write(self.0.join(format!("{FILLER}{size}")), vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    pub fn free(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(FILLER) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still run when a test has failed.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
