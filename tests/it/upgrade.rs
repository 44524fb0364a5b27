//! Data folders of earlier versions work with this one.

use std::{
    fs::{self, File, FileTimes},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use crate::process::{PATIENCE, Running};

/// Fields that are not data: texts for people, and intervals, whose method may improve.
const NOT_COMPARED: [&str; 5] = ["notice", "note", "caveat", "low", "high"];

/// The folder was written by `tests/fixtures/make-0.1.0.sh`. Its `expected.json` holds the responses of version 0.1.0.
#[test]
fn a_data_folder_of_version_0_1_0_keeps_its_content_and_its_model_predicts_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let archive = include_bytes!("../fixtures/data-0.1.0.tar.gz");
    tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice())).unpack(&data).unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(data.join("expected.json")).unwrap()).unwrap();
    let orphan = old_orphan(&data);
    let server = Running::start(folder.path(), &[("THORAX_DEVICE", "cpu:f32")]);

    let resources = [
        ("/v1/datasets", "dataset"),
        ("/v1/imports", "import"),
        ("/v1/training-runs", "run"),
        ("/v1/models", "model"),
        ("/v1/prediction-jobs", "job"),
        ("/v1/predictions", "prediction"),
    ];
    for (path, name) in resources {
        let id = expected[name]["id"].as_str().unwrap();
        let (status, shown) = server.get(&format!("{path}/{id}"));
        assert_eq!(status, 200, "{name}: {shown}");
        assert_contains(&shown, &expected[name], name);
        if !["import", "prediction"].contains(&name) {
            let (_, list) = server.get(path);
            assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["id"]), (1, &expected[name]["id"]));
        }
    }

    let results = expected["results"].as_array().unwrap();
    let image = fs::read(blob(&data, &results[0]["sha256"])).unwrap();
    let prediction = predict(&server, &image);
    assert_eq!(prediction["prediction"], results[0]["prediction"], "{prediction}");
    for (class, probability) in results[0]["probabilities"].as_object().unwrap() {
        let (now, then) = (prediction["probabilities"][class].as_f64().unwrap(), probability.as_f64().unwrap());
        assert!((now - then).abs() < 1e-4, "{class}: {now}, and {then} in 0.1.0");
    }

    // The sweep at the start removes blobs that no row names, and nothing else.
    let started = Instant::now();
    while orphan.exists() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    // Scores that version 0.1.0 did not have are computed in the background.
    let evaluations = format!("/v1/training-runs/{}/evaluations", expected["run"]["id"].as_str().unwrap());
    let scored =
        |found: &Value| found["items"].as_array().unwrap().iter().all(|evaluation| !evaluation["scores"].is_null());
    for evaluation in server.wait_for(&evaluations, scored)["items"].as_array().unwrap() {
        let accuracy = &evaluation["scores"]["accuracy"];
        assert_eq!((&accuracy["value"], &accuracy["n"]), (&evaluation["accuracy"]["value"], &evaluation["n"]));
        assert!(accuracy["patients"].as_u64().unwrap() > 0, "{accuracy}");
    }
    for hash in results.iter().map(|result| &result["sha256"]).chain([&expected["model"]["sha256"]]) {
        assert!(blob(&data, hash).is_file(), "{hash}");
    }
}

fn blob(data: &Path, hash: &Value) -> PathBuf {
    let (folder, name) = hash.as_str().unwrap().split_at(2);
    data.join("blobs").join(folder).join(name)
}

/// A blob without a row, written a day ago.
fn old_orphan(data: &Path) -> PathBuf {
    let path = blob(data, &Value::from("0".repeat(64)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(&path).unwrap();
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    file.set_times(FileTimes::new().set_modified(yesterday)).unwrap();
    path
}

fn predict(server: &Running, image: &[u8]) -> Value {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = image.len();
    let head = format!(
        "POST /v1/predictions HTTP/1.0\r\nhost: {}\r\ncontent-type: image/png\r\ncontent-length: {length}\r\n\r\n",
        server.address
    );
    stream.write_all(&[head.as_bytes(), image].concat()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Each field of `expected` has the same value in `found`, which may have more fields.
fn assert_contains(found: &Value, expected: &Value, path: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, value) in expected.iter().filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str())) {
                let path = format!("{path}/{name}");
                assert_contains(found.get(name).unwrap_or_else(|| panic!("{path} is missing")), value, &path);
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{path}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_contains(found, expected, &format!("{path}/{index}"));
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{path}: {found}, not {expected}");
        }
        _ => assert_eq!(found, expected, "{path}"),
    }
}
