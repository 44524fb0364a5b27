//! The audit of a data set, and the refusal of runs on leaking splits, over HTTP; and `thorax dataset check` on the same folder.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use thorax::imaging::{
    self, GreyImage,
    phantom::{self, Appearance},
};

use crate::support::{Part, Server, TestResponse};

const SIDE: u32 = 96;
const CLASSES: [&str; 3] = ["normal", "pneumonia", "COVID-19"];

/// Defect of a generated folder.
#[derive(Clone, Copy, Default)]
struct Planted {
    /// The first patient of train is also in test.
    overlap: bool,
    /// The second image of train is also in test: smaller, darker, and with another patient id.
    copy: bool,
    /// Each class has a source and a brightness of its own.
    shortcut: bool,
    /// Another row for the file of the third image with another class, a row without a file, and a file without a row.
    labels: bool,
}

fn generated_image(number: u32) -> GreyImage {
    phantom::generate(Appearance::ALL[number as usize % 3], 1000 + u64::from(number), SIDE)
}

/// A folder with 45 images of different patients, nine of them in test.
fn draw(folder: &Path, planted: Planted) {
    let (mut train, mut test) = (String::new(), String::new());
    let mut about =
        String::from("split,filename,view,age,sex,original_width,original_height,original_mode,original_format\n");
    for split in ["train", "test"] {
        fs::create_dir_all(folder.join(split)).unwrap();
    }
    for number in 0..45 {
        let class = number as usize % 3;
        let (split, rows) = if number < 36 { ("train", &mut train) } else { ("test", &mut test) };
        let mut image = generated_image(number);
        let mut source = "drawn".to_owned();
        if planted.shortcut {
            source = format!("hospital-{class}");
            image.pixels.iter_mut().for_each(|grey| *grey = *grey / 2 + 40 * class as u8);
        }
        fs::write(folder.join(split).join(format!("{number}.png")), imaging::encode_png(&image)).unwrap();
        let patient = if planted.overlap && number == 36 { 0 } else { number };
        rows.push_str(&format!("patient-{patient} {number}.png {} {source}\n", CLASSES[class]));
        let (age, sex) = (30 + number, if number % 2 == 0 { "F" } else { "male" });
        about.push_str(&format!("{split},{number}.png,AP,{age}.0,{sex},{},2000,L,PNG\n", 900 + 40 * number));
    }
    if planted.copy {
        let mut copy = imaging::resize_square(&generated_image(1), 80);
        copy.pixels.iter_mut().for_each(|grey| *grey = *grey / 4 * 3 + 9);
        fs::write(folder.join("test/copy.png"), imaging::encode_png(&copy)).unwrap();
        test.push_str("somebody-else copy.png COVID-19 drawn\n");
    }
    if planted.labels {
        train.push_str("patient-2 2.png normal drawn\npatient-99 99.png normal drawn\n");
        fs::write(folder.join("train/stray.png"), imaging::encode_png(&generated_image(77))).unwrap();
    }
    fs::write(folder.join("train_split.txt"), train).unwrap();
    fs::write(folder.join("test_split.txt"), test).unwrap();
    fs::write(folder.join("sources.csv"), about).unwrap();
}

/// A server that has imported such a folder, and the identifier of the data set.
async fn imported(planted: Planted) -> (Server, String) {
    let server = Server::with(|state, folder| {
        draw(&folder.join("root/set"), planted);
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("drawn").await;
    import(&server, &dataset).await;
    (server, dataset)
}

async fn import(server: &Server, dataset: &str) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "set"})).await;
    assert_eq!(started.status, 202, "{started:?}");
    server.state.lifecycle.tasks.close();
    server.state.lifecycle.tasks.wait().await;
    server.state.lifecycle.tasks.reopen();
    let ended = server.get(started.header("location")).await;
    assert_eq!(ended.text("/status"), "succeeded");
    ended
}

async fn report(server: &Server, dataset: &str) -> TestResponse {
    let response = server.get(&format!("/v1/datasets/{dataset}/report")).await;
    assert_eq!(response.status, 200, "{response:?}");
    response
}

fn shortcut(report: &TestResponse, name: &str) -> Value {
    let all = report.at("/shortcuts").as_array().cloned().unwrap();
    all.into_iter().find(|shortcut| shortcut["name"] == name).unwrap_or_else(|| panic!("no {name}: {}", report.json()))
}

fn run_on(dataset: &str) -> Value {
    json!({"dataset_id": dataset, "recipe": "simple-cnn"})
}

#[tokio::test]
async fn a_clean_data_set_has_no_findings_and_needs_no_acknowledgement() {
    let (server, dataset) = imported(Planted::default()).await;
    let report = report(&server, &dataset).await;
    assert_eq!((report.at("/leakage"), report.at("/duplicates/groups/count")), (json!([]), json!(0)), "{report:?}");
    assert_eq!((report.at("/images"), report.at("/duplicates/compared")), (json!(45), json!(45)));
    assert_eq!(report.text("/fingerprint"), server.get(&format!("/v1/datasets/{dataset}")).await.text("/fingerprint"));
    assert_eq!(server.post("/v1/training-runs", run_on(&dataset)).await.status, 202);
    let acknowledged = json!({"dataset_id": dataset, "recipe": "simple-cnn", "acknowledge": ["patient-overlap"]});
    assert_eq!(server.post("/v1/training-runs", acknowledged).await.status, 202, "what is not there does no harm");
}

#[tokio::test]
async fn the_tables_have_the_attributes_of_sources_csv() {
    let (server, dataset) = imported(Planted::default()).await;
    let report = report(&server, &dataset).await;
    let attributes = report.at("/attributes").as_array().cloned().unwrap();
    let names: Vec<&str> = attributes.iter().map(|one| one["attribute"].as_str().unwrap()).collect();
    for name in ["sex", "age", "original size"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let sex = attributes.iter().find(|one| one["attribute"] == "sex").unwrap();
    assert_eq!((&sex["known"], &sex["rows"][0]["value"]), (&json!(45), &json!("female")));
    assert!(sex["p"].as_f64().unwrap() > 0.05, "the sex does not depend on the class: {sex}");
    let shown = server.get(&format!("/v1/datasets/{dataset}/radiographs?limit=1")).await;
    assert_eq!(shown.text("/items/0/view"), "AP");
    assert_eq!(shortcut(&report, "original")["cross_validated"]["n"], json!(45));
}

#[tokio::test]
async fn a_patient_in_two_splits_must_be_acknowledged() {
    let (server, dataset) = imported(Planted { overlap: true, ..Planted::default() }).await;
    let found = report(&server, &dataset).await;
    assert_eq!(found.at("/patients_in_several_splits/count"), json!(1));
    assert_eq!(found.at("/patients_in_several_splits/items/0/splits"), json!(["train", "test"]));
    assert_eq!(found.at("/leakage/0/name"), json!("patient-overlap"));

    let refused = server.post("/v1/training-runs", run_on(&dataset)).await;
    refused.assert_problem(409, "/v1/training-runs");
    assert_eq!((refused.at("/findings/0/name"), refused.at("/findings/0/count")), (json!("patient-overlap"), json!(1)));
    assert_eq!(refused.pointers(), ["/acknowledge"]);
    assert_eq!(server.get("/v1/training-runs").await.items(), 0);

    let mut run = run_on(&dataset);
    run["acknowledge"] = json!(["duplicate-across-splits"]);
    assert_eq!(server.post("/v1/training-runs", run.clone()).await.status, 409, "the wrong finding");
    run["acknowledge"] = json!(["patient-overlap", "sunshine"]);
    let unknown = server.post("/v1/training-runs", run.clone()).await;
    assert_eq!((unknown.status, unknown.pointers()), (422, vec!["/acknowledge/1".to_owned()]));
    run["acknowledge"] = json!(["patient-overlap"]);
    let accepted = server.post("/v1/training-runs", run).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let events = format!("/v1/training-runs/{}/events", accepted.text("/id"));
    let events = server.accept(&events, "application/json").await;
    assert!(String::from_utf8_lossy(&events.bytes).contains("acknowledged when the run was submitted"), "{events:?}");

    let again = format!("/v1/training-runs/{}/repeat", accepted.text("/id"));
    assert_eq!(server.post(&again, json!({})).await.status, 202, "a repetition repeats what was acknowledged");
}

#[tokio::test]
async fn a_duplicate_in_another_split_is_found_and_must_be_acknowledged() {
    let (server, dataset) = imported(Planted { copy: true, ..Planted::default() }).await;
    // No report was requested before.
    let refused = server.post("/v1/training-runs", run_on(&dataset)).await;
    refused.assert_problem(409, "/v1/training-runs");
    assert_eq!(refused.at("/findings/0/name"), json!("duplicate-across-splits"));

    let report = report(&server, &dataset).await;
    let duplicates = report.at("/duplicates");
    assert_eq!((&duplicates["across_splits"], &duplicates["with_several_classes"]), (&json!(1), &json!(1)));
    let group = &duplicates["groups"]["items"][0];
    let mut names: Vec<&str> =
        group["images"].as_array().unwrap().iter().map(|image| image["file_name"].as_str().unwrap()).collect();
    names.sort();
    assert_eq!((names, &group["identical"]), (vec!["1.png", "copy.png"], &json!(false)));
    for image in group["images"].as_array().unwrap() {
        let place = format!("/v1/radiographs/{}/image?size=64", image["id"].as_str().unwrap());
        assert_eq!(server.get(&place).await.status, 200);
    }

    let mut run = run_on(&dataset);
    run["acknowledge"] = json!(["duplicate-across-splits"]);
    assert_eq!(server.post("/v1/training-runs", run).await.status, 202);
}

#[tokio::test]
async fn a_planted_shortcut_beats_the_majority_class_baseline() {
    let (server, dataset) = imported(Planted { shortcut: true, ..Planted::default() }).await;
    let report = report(&server, &dataset).await;
    for name in ["source", "thumbnail"] {
        let shortcut = shortcut(&report, name);
        let [accuracy, majority] = ["accuracy", "majority"].map(|of| shortcut["cross_validated"][of].clone());
        assert!(
            accuracy["value"].as_f64() > Some(0.9) && accuracy["low"].as_f64() > majority["high"].as_f64(),
            "{shortcut}"
        );
        assert!(shortcut["on_test"]["accuracy"]["value"].as_f64() > Some(0.8), "{shortcut}");
    }
    let source = report.at("/attributes/0");
    assert_eq!(source["attribute"], json!("source"));
    assert!(source["share_of_class"].as_f64() > Some(0.9) && source["p"].as_f64() <= Some(0.001), "{source}");
    let verdict = report.at("/verdict").to_string();
    assert!(verdict.contains("A network that does not score higher"), "{verdict}");
}

#[tokio::test]
async fn label_problems_are_reported_by_kind_until_they_are_fixed() {
    let (server, dataset) = imported(Planted { labels: true, ..Planted::default() }).await;
    let broken = report(&server, &dataset).await;
    let labels = broken.at("/labels");
    for kind in ["contradictions", "rows_without_file", "files_without_row"] {
        assert_eq!(labels[kind]["count"], json!(1), "{kind}: {labels}");
    }
    assert_eq!(labels["unusable"]["count"], json!(0));
    assert_eq!(labels["files_without_row"]["items"][0]["file"], json!("train/stray.png"));
    assert_eq!(labels["rows_without_file"]["items"][0]["line"], json!(38));
    assert!(labels["contradictions"]["items"][0]["reason"].as_str().unwrap().contains("COVID-19"));

    draw(&server.folder.path().join("root/set"), Planted::default());
    fs::remove_file(server.folder.path().join("root/set/train/stray.png")).unwrap();
    import(&server, &dataset).await;
    let mended = report(&server, &dataset).await.at("/labels");
    for kind in ["contradictions", "rows_without_file", "files_without_row", "unusable"] {
        assert_eq!(mended[kind]["count"], json!(0), "{kind}: {mended}");
    }
}

#[tokio::test]
async fn a_report_is_cached_until_the_data_set_changes() {
    let (server, dataset) = imported(Planted::default()).await;
    let (first, second) = tokio::join!(report(&server, &dataset), report(&server, &dataset));
    assert_eq!(first.at("/made_at"), second.at("/made_at"), "two who ask at once get the same");
    assert_eq!(report(&server, &dataset).await.json(), first.json());
    let folder = server.state.stores.caches.folder(dataset.parse().unwrap());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

    // The fingerprint does not cover patients; the report does.
    let radiograph =
        server.get(&format!("/v1/datasets/{dataset}/radiographs?split=test&limit=1")).await.text("/items/0/id");
    server.patch(&format!("/v1/radiographs/{radiograph}"), json!({"patient_id": "patient-0"})).await;
    let changed = report(&server, &dataset).await;
    assert_eq!(changed.at("/patients_in_several_splits/count"), json!(1));
    assert_eq!(changed.text("/fingerprint"), first.text("/fingerprint"));
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "the previous report is deleted: {files:?}");

    fs::write(&files[0], "{").unwrap();
    assert_eq!(report(&server, &dataset).await.at("/images"), json!(45), "a damaged cache is rebuilt");
}

#[tokio::test]
async fn leakage_is_cached_until_the_data_set_changes_and_a_report_refines_it() {
    let (server, dataset) = imported(Planted { overlap: true, ..Planted::default() }).await;
    let submit = || server.post("/v1/training-runs", run_on(&dataset));
    assert_eq!(submit().await.status, 409);
    let folder = server.state.stores.caches.folder(dataset.parse().unwrap());
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() == 1 && files[0].file_name().unwrap().to_string_lossy().starts_with("leakage-"), "{files:?}");
    fs::write(&files[0], "[]").unwrap();
    assert_eq!(submit().await.status, 202, "what is kept is taken");
    report(&server, &dataset).await;
    assert_eq!(submit().await.status, 409, "the report is taken first");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(submit().await.status, 409);
    fs::write(&files[0], "[").unwrap();
    assert_eq!(submit().await.status, 409, "a damaged cache is rebuilt");
}

#[tokio::test]
async fn a_report_is_available_as_markdown_and_for_an_empty_data_set() {
    let server = Server::start().await;
    let dataset = server.dataset("empty").await;
    let path = format!("/v1/datasets/{dataset}/report");
    let text = server.accept(&path, "text/markdown").await;
    assert_eq!((text.status, text.header("content-type")), (200, "text/markdown; charset=utf-8"));
    assert_eq!(text.header("vary"), "accept");
    let text = String::from_utf8(text.bytes).unwrap();
    assert!(text.starts_with("# Data audit: empty\n") && !text.contains("NaN"), "{text}");
    server.accept(&path, "text/html").await.assert_problem(406, &path);
    let nobody = "/v1/datasets/01890a5d-ac96-774b-bcce-b302099a8057/report";
    server.get(nobody).await.assert_problem(404, nobody);
}

#[tokio::test]
async fn images_without_a_fingerprint_get_one_when_a_report_is_computed() {
    let (server, dataset) = imported(Planted { copy: true, ..Planted::default() }).await;
    let id = server.get(&format!("/v1/datasets/{dataset}/radiographs?limit=1")).await.text("/items/0/id");
    let look = thorax::domain::Fingerprint { hash: None, plane: vec![0; 64 * 64] };
    thorax::store::fingerprints::put(&server.state.stores.db, id.parse().unwrap(), 0, &look).await.unwrap();
    let report = report(&server, &dataset).await;
    assert_eq!((report.at("/duplicates/compared"), report.at("/duplicates/unreadable")), (json!(46), json!(0)));
}

#[tokio::test]
async fn an_upload_that_duplicates_an_image_of_another_split_is_leakage() {
    let server = Server::start().await;
    let dataset = server.dataset("uploaded").await;
    for number in 0..9 {
        // The last three are in test; the last one is a smaller copy of the first image.
        let image = if number == 8 { imaging::resize_square(&generated_image(0), 64) } else { generated_image(number) };
        let (split, bytes) = (if number < 6 { "train" } else { "test" }, imaging::encode_png(&image));
        let label = Part::Text("label", CLASSES[number as usize % 3]);
        let parts = [Part::Text("split", split), label, Part::File("x.png", &bytes)];
        assert_eq!(server.upload(&dataset, &parts).await.status, 201);
    }
    let refused = server.post("/v1/training-runs", run_on(&dataset)).await;
    assert_eq!(
        (refused.status, refused.at("/findings/0/name")),
        (409, json!("duplicate-across-splits")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn dataset_check_prints_the_report_and_fails_on_unacknowledged_leakage() {
    let (server, dataset) = imported(Planted { overlap: true, copy: true, ..Planted::default() }).await;
    let data = server.folder.path().join("data");
    let check = |more: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thorax"));
        command.env("THORAX_LOG", "error").env("THORAX_DATA_DIR", &data).args(["dataset", "check"]).args(more);
        command.output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let failed = check(&["drawn"]);
    assert!(!failed.status.success());
    assert!(text(&failed.stderr).contains("patient-overlap, duplicate-across-splits"), "{}", text(&failed.stderr));
    assert!(text(&failed.stdout).starts_with("# Data audit: drawn\n"), "{}", text(&failed.stdout));
    let accepted = check(&[
        &dataset,
        "--acknowledge",
        "patient-overlap",
        "--acknowledge",
        "duplicate-across-splits",
        "--format",
        "json",
    ]);
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));
    let printed: Value = serde_json::from_slice(&accepted.stdout).unwrap();
    assert_eq!(printed, report(&server, &dataset).await.json(), "the command and the HTTP API share one cached report");
    let missing = check(&["nothing"]);
    assert!(!missing.status.success() && text(&missing.stderr).contains("data set \"nothing\" not found"));
}
