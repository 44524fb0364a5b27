//! `thorax serve`: start, refusals, and shutdown while a run trains.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::process::{PATIENCE, Running, succeeds, thorax, with_phantoms};

#[test]
fn starts_empty_prints_the_next_steps_and_stops_on_a_signal() {
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
fn reads_deprecated_variables_and_logs_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[("THORAX_MAX_QUEUE", "7")]);
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("THORAX_MAX_QUEUE is deprecated: use THORAX_MAX_CONCURRENT_REQUESTS"), "{log}");
    let start = |variables: &[(&str, &str)]| {
        let mut command = thorax(folder.path());
        let output = command.envs(variables.iter().copied()).arg("serve").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let invalid = start(&[("THORAX_MAX_QUEUE", "0")]);
    assert!(invalid.contains("'0'") && invalid.contains("--max-concurrent-requests"), "{invalid}");
    let current = start(&[("THORAX_MAX_QUEUE", "7"), ("THORAX_MAX_CONCURRENT_REQUESTS", "-1")]);
    assert!(current.contains("'-1'"), "the current name takes precedence: {current}");
}

#[test]
fn accepts_the_old_names_of_renamed_flags() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = thorax(folder.path());
    command.args([
        "serve",
        "--max-queue",
        "7",
        "--max-yield-ms",
        "0",
        "--prediction-days",
        "0",
        "--listen",
        "0.0.0.0:0",
    ]);
    let error = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(error.contains("THORAX_ADMIN_KEY"), "only the address is wrong: {error}");
}

#[test]
fn refuses_a_second_server_on_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Running::start(folder.path(), &[]);
    let second = refused(folder.path(), "127.0.0.1:0");
    assert!(second.contains("another"), "{second}");
}

#[test]
fn without_an_admin_key_only_loopback_is_allowed_and_with_one_it_is_required() {
    let folder = tempfile::tempdir().unwrap();
    let open = refused(folder.path(), "0.0.0.0:0");
    assert!(open.contains("THORAX_ADMIN_KEY"), "{open}");
    let server = Running::start(folder.path(), &[("THORAX_ADMIN_KEY", "a-key-of-the-tests")]);
    assert_eq!((server.get("/v1/datasets").0, server.get("/health/live").0), (401, 200));
}

#[test]
fn an_open_event_stream_does_not_delay_shutdown() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    let run = server.start_training();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /v1/training-runs/{run}/events HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).unwrap();
    let mut events = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("event: batch") {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "the stream ends early");
    }
    let started = Instant::now();
    assert!(server.end("-TERM").success());
    // The shutdown would otherwise wait half a minute for open responses.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream is cut and not ended: {rest}");
}

#[test]
fn a_finished_run_leaves_its_image_cache_and_a_start_deletes_unfinished_files() {
    let folder = with_phantoms();
    let mut server = Running::start(folder.path(), &[]);
    server.start_training();
    let cache = folder.path().join("data/cache");
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // The leakage that the submission found is cached next to the images.
        names.filter(|name| !name.starts_with("leakage-")).collect()
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
fn a_running_run_is_cancelled_while_the_server_keeps_serving() {
    let folder = with_phantoms();
    let server = Running::start(folder.path(), &[]);
    let path = format!("/v1/training-runs/{}", server.start_training());
    assert_eq!(server.send("POST", &format!("{path}/cancel"), "").0, 202);
    server.wait_for(&path, |run| run["status"] == "cancelled");
    assert_eq!(server.get("/health/live").0, 200);
}

/// Standard error of `serve` when it refuses to start.
fn refused(folder: &Path, listen: &str) -> String {
    let Output { status, stderr, .. } = thorax(folder).env("THORAX_LISTEN", listen).arg("serve").output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn an_import_resumes_at_the_next_start_after_a_kill_and_after_a_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(thorax(folder.path()).args(["phantoms", "--out", "root/set", "--count", "900", "--seed", "7"]));
    for signal in ["-KILL", "-TERM"] {
        let mut server = Running::start(folder.path(), &[("THORAX_IMPORT_ROOT", "root")]);
        let (_, dataset) = server.send("POST", "/v1/datasets", &json!({ "name": signal }).to_string());
        let dataset = format!("/v1/datasets/{}", dataset["id"].as_str().unwrap());
        let (status, import) = server.send("POST", &format!("{dataset}/imports"), r#"{"path": "set"}"#);
        assert_eq!(status, 202, "{import}");
        let import = format!("/v1/imports/{}", import["id"].as_str().unwrap());
        let radiographs = format!("{dataset}/radiographs?limit=1");
        server.wait_for(&radiographs, |listed| listed["items"].as_array().is_some_and(|items| !items.is_empty()));
        server.end(signal);
        let server = Running::start(folder.path(), &[("THORAX_IMPORT_ROOT", "root")]);
        let ended = server.wait_for(&import, |import| import["status"] != "running");
        assert_eq!(
            (&ended["status"], &ended["total"], &ended["rejected"]),
            (&json!("succeeded"), &json!(900), &json!(0))
        );
        assert!(ended["duplicates"].as_u64() > Some(0), "images were stored before the interruption: {ended}");
        let (_, whole) = server.get(&dataset);
        let images = whole["distribution"]["images"].as_object().unwrap().values();
        let count: u64 = images.flat_map(|split| split.as_object().unwrap().values()).filter_map(|n| n.as_u64()).sum();
        assert_eq!(count, 900);
    }
}

#[test]
fn the_demo_says_when_it_is_ready_to_predict() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = thorax(folder.path());
    command.env("THORAX_LISTEN", "127.0.0.1:0").arg("demo").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut demo = command.spawn().unwrap();
    let mut output = Vec::new();
    for line in BufReader::new(demo.stderr.take().unwrap()).lines() {
        output.push(line.unwrap());
        if output.last().is_some_and(|line| line.starts_with("The demo's model is loaded")) {
            break;
        }
    }
    demo.kill().unwrap();
    demo.wait().unwrap();
    let at = |text: &str| {
        output.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {output:#?}"))
    };
    assert!(at("A model is being trained") < at("champion loaded"), "{output:#?}");
    assert!(at("champion loaded") <= at("The demo's model is loaded"), "{output:#?}");
    assert!(!output.iter().any(|line| line.contains("no champion model yet")), "{output:#?}");
}
