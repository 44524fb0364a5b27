//! Comparison and repetition of runs over HTTP, with a worker that trains the small network at 32 px on generated radiographs.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use thorax::{
    domain::{BlockVariant, RunId, Sha256},
    store::{Weights, runs, weights},
};

use crate::support::{Server, TestResponse};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const PATIENCE: Duration = Duration::from_secs(120);
const TEST_IMAGES: u64 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compares_runs_in_the_requested_order_with_their_differences() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let worker = server.train();
    let short = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    let long = trained(&server, &dataset, 2, json!({"dropout": 0.25, "stages": [stage(1), stage(2)]})).await;
    worker.shutdown().await;
    let waiting = submit(&server, &dataset, 3, json!({"stages": [stage(1)]})).await;

    let compared = server.get(&compare(&[&long, &short, &waiting])).await;
    assert_eq!((compared.status, compared.items()), (200, 3), "{compared:?}");
    let ids: Vec<String> = (0..3).map(|place| compared.text(&format!("/items/{place}/id"))).collect();
    assert_eq!(ids, [long.clone(), short.clone(), waiting]);
    assert_eq!((compared.text("/split"), compared.at("/stage")), ("test".into(), json!(null)));
    let differences = compared.at("/plan_differences");
    let of = |pointer: &str| {
        let all = differences.as_array().unwrap();
        all.iter().find(|one| one["pointer"] == pointer).map(|one| one["values"].clone())
    };
    assert_eq!(of("/dropout"), Some(json!([0.25, 0.5, 0.5])));
    assert_eq!(of("/stages/1/image_size"), Some(json!([32, null, null])));
    assert_eq!(of("/batch_size"), None);

    // The model of the last stage, unless the request names another.
    assert_eq!(compared.at("/items/0/model/stage"), json!(2));
    let first_stage = server.get(&format!("{}&stage=1", compare(&[&long, &short]))).await;
    assert_eq!((first_stage.at("/items/0/model/stage"), first_stage.at("/stage")), (json!(1), json!(1)));
    let second_stage = server.get(&format!("{}&stage=2", compare(&[&long, &short]))).await;
    assert_eq!(second_stage.at("/items/1/model"), json!(null));
    assert!(second_stage.text("/items/1/paired_reason").contains("no model of that stage"));

    assert_eq!((compared.text("/items/1/architecture"), compared.at("/items/1/seed")), ("simple-cnn".into(), json!(1)));
    let evaluations = server.get(&format!("/v1/training-runs/{short}/evaluations?split=test")).await;
    for score in ["/n", "/accuracy", "/macro_f1", "/per_class/normal/f1", "/per_class/normal/f1_interval"] {
        let shown = compared.at(&format!("/items/1/scores{score}"));
        assert_eq!(shown, evaluations.at(&format!("/items/0{score}")), "{score}");
    }
    let model = server.get(&format!("/v1/models/{}", compared.text("/items/1/model/id"))).await;
    assert_eq!(compared.at("/items/1/model/byte_length"), model.at("/byte_length"));
    // Three 3 x 3 convolutions, then dense layers from 7 x 7 x 64 features to 128 and to 3.
    let body = 3 * 32 * 9 + 32 + 32 * 32 * 9 + 32 + 32 * 64 * 9 + 64;
    assert_eq!(compared.at("/items/1/model/parameters"), json!(body + 64 * 49 * 128 + 128 + 128 * 3 + 3));
    assert!(compared.at("/items/1/training_seconds").as_f64().unwrap() > 0.0);

    assert_eq!(compared.at("/items/0/epochs").as_array().unwrap().len(), 3);
    let epochs = server.get(&format!("/v1/training-runs/{long}/epochs")).await;
    assert_eq!(compared.at("/items/0/epochs/2/loss"), epochs.at("/items/2/selection/loss"));
    assert_eq!(compared.at("/items/0/epochs/2/macro_f1"), epochs.at("/items/2/selection/macro_f1"));

    for nothing in ["model", "scores", "training_seconds", "paired"] {
        assert_eq!(compared.at(&format!("/items/2/{nothing}")), json!(null), "{nothing}");
    }
    assert_eq!((compared.text("/items/2/status"), compared.at("/items/2/epochs")), ("queued".into(), json!([])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_model_is_tested_against_the_first_on_their_common_images() {
    let server = Server::start().await;
    let (dataset, other) = (generated_dataset(&server, "drawn").await, server.dataset("other").await);
    server.fill(&other, "train", 200, 4).await;
    server.fill(&other, "test", 240, 3).await;
    let _worker = server.train();
    let first = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    let same_images = trained(&server, &dataset, 2, json!({"stages": [stage(3)]})).await;
    let other_images = trained(&server, &other, 1, json!({"stages": [stage(1)]})).await;

    let compared = server.get(&compare(&[&first, &same_images, &other_images])).await;
    assert_eq!(compared.at("/items/0/paired"), json!(null));
    let test = |field: &str| compared.at(&format!("/items/1/paired/{field}")).as_u64().unwrap();
    let counts = ["both_correct", "only_first_correct", "only_this_correct", "neither_correct"].map(test);
    assert_eq!((test("n"), counts.iter().sum::<u64>()), (TEST_IMAGES, TEST_IMAGES));
    let correct = |place: usize| {
        let accuracy = compared.at(&format!("/items/{place}/scores/accuracy/value")).as_f64().unwrap();
        (accuracy * TEST_IMAGES as f64).round() as u64
    };
    assert_eq!((counts[0] + counts[1], counts[0] + counts[2]), (correct(0), correct(1)));
    let p = compared.at("/items/1/paired/mcnemar_exact_p").as_f64().unwrap();
    assert!(p > 0.0 && p <= 1.0, "{p}");
    let [low, value, high] =
        ["low", "value", "high"].map(|end| compared.at(&format!("/items/1/paired/macro_f1_difference/{end}")));
    assert!(low.as_f64() <= value.as_f64() && value.as_f64() <= high.as_f64(), "{low} {value} {high}");
    let gain = compared.at("/items/1/scores/macro_f1/value").as_f64().unwrap()
        - compared.at("/items/0/scores/macro_f1/value").as_f64().unwrap();
    assert!((value.as_f64().unwrap() - gain).abs() < 1e-12);

    assert_eq!(compared.at("/items/2/paired"), json!(null));
    assert!(compared.text("/items/2/paired_reason").contains("different images"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluation_lists_the_prediction_for_each_image() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let _worker = server.train();
    let run = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    let evaluation = server.get(&format!("/v1/training-runs/{run}/evaluations?split=test")).await;
    let path = format!("/v1/evaluations/{}/outcomes", evaluation.text("/items/0/id"));
    let outcomes = server.get(&path).await;
    assert_eq!(outcomes.items() as u64, TEST_IMAGES);
    let mut counted = [[0; 3]; 3];
    let place = |class: &Value| ["normal", "pneumonia", "COVID-19"].iter().position(|name| class == name).unwrap();
    for outcome in outcomes.at("/items").as_array().unwrap() {
        counted[place(&outcome["truth"])][place(&outcome["predicted"])] += 1;
        let probabilities = outcome["probabilities"].as_object().unwrap();
        assert!((probabilities.values().map(|share| share.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    assert_eq!(evaluation.at("/items/0/confusion_matrix"), json!(counted));
    assert_eq!(hashes(&server, &path, 4).await.len() as u64, TEST_IMAGES);
    let nowhere = format!("/v1/evaluations/{NOBODY}/outcomes");
    server.get(&nowhere).await.assert_problem(404, &nowhere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_is_available_as_markdown_and_csv_and_in_no_other_type() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let worker = server.train();
    let run = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    worker.shutdown().await;
    let waiting = submit(&server, &dataset, 2, json!({})).await;
    let path = compare(&[&run, &waiting]);

    let markdown = server.get_as(&path, "text/markdown").await;
    assert_eq!((markdown.status, markdown.header("content-type")), (200, "text/markdown; charset=utf-8"));
    let text = String::from_utf8(markdown.bytes).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for head in ["F1 normal", "F1 pneumonia", "F1 COVID-19", "Macro F1", "Training time", "Parameters"] {
        assert!(lines[0].contains(head), "{head}: {text}");
    }
    let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(cells(lines[2]).starts_with("| seed 1 | simple-cnn | 9 | "), "{text}");
    assert!(cells(lines[3]).starts_with("| seed 2 | simple-cnn | – |"), "{text}");

    let csv = server.get_as(&path, "text/csv, */*;q=0.1").await;
    assert_eq!((csv.header("content-type"), csv.header("vary")), ("text/csv; charset=utf-8", "accept"));
    let text = String::from_utf8(csv.bytes).unwrap();
    let rows: Vec<Vec<&str>> = text.split_terminator("\r\n").map(|line| line.split(',').collect()).collect();
    let column = rows[0].iter().position(|head| *head == "macro_f1").unwrap();
    let json = server.get_as(&path, "application/json").await;
    assert_eq!(rows[1][column].parse::<f64>().unwrap(), json.at("/items/0/scores/macro_f1/value").as_f64().unwrap());
    assert_eq!((rows[2].len(), rows[2][column]), (rows[0].len(), ""));

    let printed = Command::new(env!("CARGO_BIN_EXE_thorax"))
        .args(["runs", "compare", &run, &waiting, "--format", "csv", "--data-dir"])
        .arg(server.folder.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), text, "{}", String::from_utf8_lossy(&printed.stderr));

    let refused = server.get_as(&path, "application/pdf").await;
    refused.assert_problem(406, "/v1/training-runs/compare");
    assert!(refused.text("/detail").contains("text/markdown"));
}

#[tokio::test]
async fn rejects_an_invalid_comparison_with_all_invalid_fields() {
    let server = Server::start().await;
    let run = submit(&server, &generated_dataset(&server, "drawn").await, 1, json!({})).await;
    let pointers = async |query: &str| {
        let response = server.get(&format!("/v1/training-runs/compare?{query}")).await;
        response.assert_problem(422, "/v1/training-runs/compare");
        response.pointers()
    };
    assert_eq!(pointers("split=test").await, ["/ids"]);
    assert_eq!(pointers(&format!("ids={run}")).await, ["/ids"]);
    assert_eq!(
        pointers(&format!("ids={run},7,{run}&split=some&stage=0")).await,
        ["/ids/1", "/ids/2", "/split", "/stage"]
    );
    assert_eq!(pointers(&format!("ids={run},{NOBODY}")).await, ["/ids/1"]);
    let many: Vec<String> = (0..21).map(|_| RunId::new().to_string()).collect();
    assert_eq!(pointers(&format!("ids={}", many.join(","))).await, ["/ids"]);
    assert_eq!(pointers(&format!("ids={}", many[..20].join(","))).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_records_its_data_code_and_device() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let worker = server.train();
    let run = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    let path = format!("/v1/training-runs/{run}");
    let shown = server.get(&path).await;
    // One of four training images of each class is split off for validation.
    assert_eq!(shown.at("/provenance/images"), json!({"train": 9, "validation": 3, "test": 9}));
    assert_eq!((shown.text("/provenance/device"), shown.text("/provenance/version")), ("cpu".into(), "0.1.0".into()));
    assert!(!shown.text("/provenance/device_description").is_empty());
    assert_eq!((shown.at("/initial_weights_sha256"), shown.at("/repeats")), (json!(null), json!(null)));
    let commit = shown.at("/provenance/git_commit");
    assert!(commit.is_null() || commit.as_str().is_some_and(|commit| commit.len() >= 40), "{commit}");

    let validation = server.get(&format!("{path}/images?split=validation")).await;
    let labels: BTreeSet<String> = (0..3).map(|i| validation.text(&format!("/items/{i}/label"))).collect();
    assert_eq!((validation.items(), labels.len()), (3, 3));
    let listed = hashes(&server, &format!("{path}/images"), 10).await;
    let uploaded = hashes(&server, &format!("/v1/datasets/{dataset}/radiographs"), 50).await;
    assert_eq!(listed, uploaded);
    worker.shutdown().await;
    let waiting = submit(&server, &dataset, 2, json!({})).await;
    let path = format!("/v1/training-runs/{waiting}");
    assert_eq!(server.get(&path).await.at("/provenance"), json!(null));
    assert_eq!(server.get(&format!("{path}/images")).await.items(), 0);
    let nowhere = format!("/v1/training-runs/{NOBODY}/images");
    server.get(&nowhere).await.assert_problem(404, &nowhere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_run_gives_the_same_numbers() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let _worker = server.train();
    let first = trained(&server, &dataset, 5, json!({"batch_size": 5, "stages": [stage(2)]})).await;
    let again = repeat(&server, &first).await;
    assert_eq!((again.status, again.text("/status"), again.text("/repeats")), (202, "queued".into(), first.clone()));
    assert_eq!((again.at("/seed"), again.at("/plan/batch_size")), (json!(5), json!(5)));
    assert_eq!(again.header("location"), format!("/v1/training-runs/{}", again.text("/id")));
    let again = again.text("/id");
    assert_eq!(ended(&server, &again).await.text("/status"), "succeeded");

    let losses = async |run: &str| {
        let epochs = server.get(&format!("/v1/training-runs/{run}/epochs")).await;
        let scores = |i: usize| [epochs.at(&format!("/items/{i}/train")), epochs.at(&format!("/items/{i}/selection"))];
        (0..2).map(scores).collect::<Vec<_>>()
    };
    assert_eq!(losses(&first).await, losses(&again).await);
    let compared = server.get(&compare(&[&first, &again])).await;
    assert_eq!(compared.at("/plan_differences"), json!([]));
    assert_eq!(compared.at("/items/1/paired/mcnemar_exact_p"), json!(1.0));
    let difference = compared.at("/items/1/paired/macro_f1_difference");
    assert_eq!(difference, json!({"value": 0.0, "low": 0.0, "high": 0.0}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_not_repeat_a_run_whose_data_changed() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let run = submit(&server, &dataset, 1, json!({})).await;
    server.post(&format!("/v1/training-runs/{run}/cancel"), json!({})).await;
    let path = format!("/v1/training-runs/{run}/repeat");
    let fingerprint = server.get(&format!("/v1/training-runs/{run}")).await.text("/dataset_fingerprint");
    server.fill(&dataset, "train", 180, 1).await;
    let refused = server.post(&path, json!({})).await;
    refused.assert_problem(409, &path);
    assert!(refused.text("/detail").contains(&fingerprint), "{}", refused.text("/detail"));
    server.delete(&format!("/v1/datasets/{dataset}")).await;
    let refused = server.post(&path, json!({})).await;
    refused.assert_problem(409, &path);
    assert!(refused.text("/detail").contains("removed"));
    let nowhere = format!("/v1/training-runs/{NOBODY}/repeat");
    server.post(&nowhere, json!({})).await.assert_problem(404, &nowhere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_with_different_validation_images_fails_with_the_reason() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let _worker = server.train();
    let first = trained(&server, &dataset, 1, json!({"stages": [stage(1)]})).await;
    // The fingerprint does not cover patients, but the validation split is by patient: now each patient has two images.
    let radiographs = server.get(&format!("/v1/datasets/{dataset}/radiographs?split=train")).await;
    for place in 0..radiographs.items() {
        let path = format!("/v1/radiographs/{}", radiographs.text(&format!("/items/{place}/id")));
        assert_eq!(server.patch(&path, json!({"patient_id": format!("patient {}", place / 2)})).await.status, 200);
    }
    let again = repeat(&server, &first).await;
    assert_eq!(again.status, 202, "{again:?}");
    let again = ended(&server, &again.text("/id")).await;
    assert_eq!(again.text("/status"), "failed");
    assert!(again.text("/error").contains("patient ids have changed"), "{}", again.text("/error"));
}

#[tokio::test]
async fn a_repetition_needs_the_initial_weights_of_its_run() {
    let server = Server::start().await;
    let dataset = generated_dataset(&server, "drawn").await;
    let (old, new) = (import_weights(&server, b"old").await, import_weights(&server, b"new").await);
    let run =
        server.post("/v1/training-runs", json!({"dataset_id": dataset, "recipe": "covid-resnet"})).await.text("/id");
    let id: RunId = run.parse().unwrap();
    // The state of a run that started when only the old weights existed.
    let started = runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    let unknown = repeat(&server, &run).await;
    assert_eq!(unknown.status, 409);
    assert!(unknown.text("/detail").contains("before its initial weights were recorded"));
    let environment = thorax::store::RunEnvironment {
        device: "cpu".into(),
        device_backend: "flex".into(),
        device_description: "a processor".into(),
        device_driver: None,
        version: "0.1.0".into(),
        git_commit: None,
        recorded_at: started.started_at.unwrap(),
    };
    thorax::store::provenance::record(&server.state.stores.db, id, &environment, Some(&old), &[]).await.unwrap();
    let again = repeat(&server, &run).await;
    assert_eq!((again.status, again.text("/initial_weights_sha256")), (202, old.to_string()));
    assert_ne!(old, new);
    std::fs::remove_file(server.state.stores.blobs.path(&old)).unwrap();
    let refused = repeat(&server, &run).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text("/detail").contains(old.as_str()) && refused.text("/detail").contains("gone"));
}

/// Four training and three test images of each class.
async fn generated_dataset(server: &Server, name: &str) -> String {
    let dataset = server.dataset(name).await;
    server.fill(&dataset, "train", 0, 4).await;
    server.fill(&dataset, "test", 100, 3).await;
    dataset
}

fn stage(epochs: u32) -> Value {
    json!({"image_size": 32, "steps": [{"scope": "all", "learning_rate": 0.001, "epochs": epochs}]})
}

fn compare(runs: &[&str]) -> String {
    format!("/v1/training-runs/compare?ids={}", runs.join(","))
}

async fn submit(server: &Server, dataset: &str, seed: u32, plan: Value) -> String {
    let name = format!("seed {seed}");
    let body = json!({"dataset_id": dataset, "recipe": "simple-cnn", "name": name, "seed": seed, "plan": plan});
    let run = server.post("/v1/training-runs", body).await;
    assert_eq!(run.status, 202, "{run:?}");
    run.text("/id")
}

async fn trained(server: &Server, dataset: &str, seed: u32, plan: Value) -> String {
    let run = submit(server, dataset, seed, plan).await;
    let ended = ended(server, &run).await;
    assert_eq!(ended.text("/status"), "succeeded", "{}", ended.json());
    run
}

/// Waits for the end of the run and returns it.
async fn ended(server: &Server, run: &str) -> TestResponse {
    let began = Instant::now();
    loop {
        let shown = server.get(&format!("/v1/training-runs/{run}")).await;
        if ["succeeded", "failed", "cancelled"].contains(&shown.text("/status").as_str()) {
            return shown;
        }
        assert!(began.elapsed() < PATIENCE, "{}", shown.json());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn repeat(server: &Server, run: &str) -> TestResponse {
    server.post(&format!("/v1/training-runs/{run}/repeat"), json!({})).await
}

/// The values at a JSON pointer of all items of a list, page by page.
async fn hashes(server: &Server, path: &str, limit: usize) -> BTreeSet<String> {
    let mut hashes = BTreeSet::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("{path}?limit={limit}{after}")).await;
        assert!(page.items() <= limit);
        hashes.extend((0..page.items()).map(|place| page.text(&format!("/items/{place}/sha256"))));
        match page.at("/next").as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return hashes,
        }
    }
}

async fn import_weights(server: &Server, content: &[u8]) -> Sha256 {
    let stored = server.state.stores.blobs.put(content.to_vec()).await.unwrap();
    let sha256 = stored.sha256().clone();
    let (variant, byte_length) = (BlockVariant::V1, content.len() as u64);
    let row = Weights { sha256, variant, origin: "a test".into(), byte_length, created_at: Timestamp::now() };
    weights::create(&server.state.stores.db, &row).await.unwrap();
    row.sha256
}
