//! Generation of a COVIDx-like data set from its five sources. The test generates small ones with the columns, names and quirks of the real
//! ones.

use std::path::Path;

use axum::extract::FromRef;
use serde_json::{Value, json};
use thorax::{
    dataset::Rules,
    service::Imports,
    store::{Import, imports},
};

use crate::support::{Server, TestResponse, png, sources};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn server() -> Server {
    Server::with(|state, folder| {
        sources::draw(&folder.join("root"));
        state.intake.import_root = Some(folder.join("root"));
    })
    .await
}

/// A request with all five sources.
fn all() -> Value {
    json!({"cohen": "cohen", "fig1": "fig1", "actmed": "actmed", "radiography": "radiography", "rsna": "rsna"})
}

/// Starts a generation and waits for its end.
async fn generate(server: &Server, dataset: &str, body: Value) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/generate"), body).await;
    assert_eq!((started.status, started.text("/status")), (202, "running".into()), "{started:?}");
    server.settle().await;
    server.get(started.header("location")).await
}

/// The lines of an exported label file without the patient ids, which are hashes.
async fn label_file(server: &Server, dataset: &str, split: &str) -> Vec<String> {
    let response = server.get(&format!("/v1/datasets/{dataset}/exports/{split}_split.txt")).await;
    assert_eq!(response.status, 200, "{response:?}");
    String::from_utf8(response.bytes).unwrap().lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Exclusions: source, reason and number of rows.
fn passed_over(import: &TestResponse) -> Vec<(String, String, u64)> {
    let list: Vec<Value> = import.at("/passed_over").as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(|one| (text(&one["source"]), text(&one["reason"]), one["rows"].as_u64().unwrap())).collect()
}

/// Rejections: kind, file, line and reason.
fn rejections(import: &TestResponse) -> Vec<(String, String, u64, String)> {
    let list: Vec<Value> = import.at("/rejections").as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|one| (text(&one["kind"]), text(&one["file"]), one["line"].as_u64().unwrap(), text(&one["reason"])))
        .collect()
}

#[tokio::test]
async fn the_rules_of_covidx_v7a_choose_images_classes_and_splits() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let import = generate(&server, &dataset, all()).await;
    assert_eq!((import.text("/status"), import.at("/error")), ("succeeded".into(), json!(null)), "{import:?}");
    assert_eq!(import.text("/path"), "cohen=cohen fig1=fig1 actmed=actmed radiography=radiography rsna=rsna");

    let test = label_file(&server, &dataset, "test").await;
    let (sampled, listed): (Vec<String>, Vec<String>) = test.into_iter().partition(|line| line.ends_with(" rsna"));
    assert_eq!(
        listed,
        [
            "b.JPG COVID-19 cohen",
            "SARS-Fig5-day9.jpeg pneumonia cohen",
            "COVID-00025.png COVID-19 fig1",
            "CR.1.2.840.4.png COVID-19 actmed",
            "COVID(70).png COVID-19 sirm",
        ]
    );
    let classes: Vec<&str> = sampled.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(classes, ["normal", "pneumonia"], "a tenth of ten and of two images, at least one each");
    let train = label_file(&server, &dataset, "train").await;
    let others: Vec<&str> = train.iter().map(String::as_str).filter(|line| !line.ends_with(" rsna")).collect();
    assert_eq!(
        others,
        [
            "auntminnie-a.jpeg COVID-19 cohen",
            "e-coli.jpeg pneumonia cohen",
            "COVID-00001.jpg COVID-19 fig1",
            "COVID-00003a.jpg COVID-19 fig1",
            "CR.1.2.840.1.png COVID-19 actmed",
            "COVID(1).png COVID-19 sirm",
        ]
    );
    assert_eq!(train.len() - others.len(), 9 + 1);

    let row = |source: &str, reason: &str, rows| (source.to_owned(), reason.to_owned(), rows);
    assert_eq!(
        passed_over(&import),
        [
            row("cohen", "finding \"COVID-19, ARDS\"", 1),
            row("cohen", "finding \"Pneumonia\"", 1),
            row("cohen", "listed before", 1),
            row("cohen", "view \"Axial\"", 1),
            row("cohen", "view \"L\"", 1),
            row("fig1", "finding \"\"", 1),
            row("actmed", "finding \"\"", 1),
            row("actmed", "finding \"No finding\"", 1),
            row("sirm", "an image of cohen has the same URL", 1),
            row("sirm", "excluded by its name", 1),
            row("rsna", "Target 0 in stage_2_train_labels.csv", 11),
            row("rsna", "class \"Lung Opacity\" in stage_2_detailed_class_info.csv", 3),
            row("rsna", "class \"No Lung Opacity / Not Normal\" in stage_2_detailed_class_info.csv", 1),
            row("rsna", "listed before", 1),
        ]
    );
    let rejected = rejections(&import);
    let places: Vec<_> = rejected.iter().map(|(kind, file, line, _)| (kind.as_str(), file.as_str(), *line)).collect();
    assert_eq!(
        places,
        [
            ("row-without-file", "cohen/metadata.csv", 10),
            ("row-without-file", "sirm/COVID.metadata.xlsx", 6),
            ("unusable", "rsna/stage_2_detailed_class_info.csv", 12),
        ]
    );
    assert!(rejected[0].3.contains("missing.png") && rejected[1].3.contains("COVID 9.png"), "{rejected:?}");
}

#[tokio::test]
async fn the_same_sources_give_the_same_data_set_and_a_repeated_import_adds_nothing() {
    let server = server().await;
    let (first, second) = (server.dataset("first").await, server.dataset("second").await);
    let created = generate(&server, &first, all()).await.at("/created");
    assert_eq!(created, json!(5 + 6 + 12));
    generate(&server, &second, all()).await;
    for split in ["train", "test"] {
        assert_eq!(label_file(&server, &first, split).await, label_file(&server, &second, split).await);
    }
    let again = generate(&server, &first, all()).await;
    assert_eq!((again.at("/created"), again.at("/duplicates")), (json!(0), created));
    // A DICOM file becomes the PNG file of COVIDx, with the same pixels and name.
    let rsna = server.get(&format!("/v1/datasets/{first}/radiographs?source=rsna")).await;
    assert_eq!((rsna.text("/items/0/format"), rsna.items()), ("png".into(), 12));
    let files: Vec<String> = (0..12).map(|at| rsna.text(&format!("/items/{at}/file_name"))).collect();
    let at = files.iter().position(|name| name == "n01.png").unwrap();
    let image = server.get(&format!("/v1/radiographs/{}/image", rsna.text(&format!("/items/{at}/id")))).await;
    let pixels = image::load_from_memory(&image.bytes).unwrap().to_luma8();
    assert_eq!((pixels.dimensions(), pixels.as_raw()[..3].to_vec()), ((64, 64), vec![0, 3, 6]));
    let shown = server.get(&format!("/v1/datasets/{first}/radiographs?source=cohen")).await;
    let mut views: Vec<String> = (0..shown.items()).map(|at| shown.text(&format!("/items/{at}/view"))).collect();
    views.sort();
    assert_eq!(views, ["AP", "AP Supine", "PA", "PA"]);
}

#[tokio::test]
async fn sections_of_the_rules_replace_the_built_in_ones() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let body = json!({"cohen": "cohen", "radiography": "radiography", "rules": {
        "classes": {"Pneumonia": "pneumonia"},
        "cohen": {"views": [], "exclude_urls": ["wikipedia"], "test_fraction": 0.0},
        "radiography": {"folders": {"Viral Pneumonia": "pneumonia"}, "exclude_urls_of_cohen": false, "exclude_names": [], "test_fraction": 0.5}
    }});
    let import = generate(&server, &dataset, body).await;
    assert_eq!(import.text("/status"), "succeeded", "{import:?}");
    // Nothing of cohen remains: its only row with that finding has an excluded address.
    assert_eq!(label_file(&server, &dataset, "train").await.len(), 1);
    assert_eq!(label_file(&server, &dataset, "test").await.len(), 1);
    assert!(passed_over(&import).iter().any(|(_, reason, rows)| (reason.as_str(), *rows) == ("url with wikipedia", 1)));
}

#[tokio::test]
async fn published_label_files_are_matched_by_name_and_missing_images_reported() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let mut body = all();
    let train = [
        "COVID 1 COVID(1).png COVID-19 sirm",
        "2 auntminnie-a.jpeg COVID-19 cohen",
        "19 B.JPEG COVID-19 cohen",
        "n01 n01.png normal rsna",
        "zz zz.png normal rsna",
        "MIDRC-1 MIDRC-RICORD-1.png COVID-19 ricord",
        "COVID-00025 covid-00025.PNG COVID-19 fig1",
    ];
    let test = ["n02 n02.png normal", "nobody nowhere.png normal", "o1 o1.png pneumonia", "a line of another kind"];
    let root = server.folder.path().join("root");
    std::fs::write(root.join("train_V7A.txt"), train.join("\n") + "\n").unwrap();
    std::fs::write(root.join("test_V7A.txt"), test.join("\n") + "\n").unwrap();
    body["train_labels"] = json!("train_V7A.txt");
    body["test_labels"] = json!("test_V7A.txt");
    let import = generate(&server, &dataset, body).await;
    assert_eq!((import.at("/total"), import.at("/created")), (json!(11), json!(7)), "{import:?}");
    let kept = [
        "COVID(1).png COVID-19 sirm",
        "auntminnie-a.jpeg COVID-19 cohen",
        "B.JPEG COVID-19 cohen",
        "n01.png normal rsna",
    ];
    let kept = [&kept[..], &["covid-00025.PNG COVID-19 fig1"]].concat();
    assert_eq!(label_file(&server, &dataset, "train").await, kept);
    assert_eq!(label_file(&server, &dataset, "test").await, ["n02.png normal", "o1.png pneumonia"]);
    let rejected = rejections(&import);
    let places: Vec<_> = rejected.iter().map(|(kind, file, line, _)| (kind.as_str(), file.as_str(), *line)).collect();
    assert_eq!(
        places,
        [
            ("row-without-file", "train_V7A.txt", 5),
            ("row-without-file", "train_V7A.txt", 6),
            ("row-without-file", "test_V7A.txt", 2),
            ("unusable", "test_V7A.txt", 4),
        ]
    );
    assert!(rejected[1].3.contains("source ricord is not given"), "{rejected:?}");
}

#[tokio::test]
async fn an_unreadable_source_fails_the_generation_and_is_named() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let root = server.folder.path().join("root");
    std::fs::write(root.join("cohen/metadata.csv"), "patientid,finding\n1,COVID-19\n").unwrap();
    std::fs::write(root.join("radiography/COVID.metadata.xlsx"), "no archive").unwrap();
    std::fs::remove_dir_all(root.join("rsna/stage_2_train_images")).unwrap();
    for (source, why) in [
        ("cohen", "view"),
        ("radiography", "COVID.metadata.xlsx"),
        ("rsna", "stage_2_train_images"),
        ("fig1/images", ""),
    ] {
        let named = source.split('/').next().unwrap();
        let import = generate(&server, &dataset, json!({ named: source })).await;
        assert_eq!((import.text("/status"), import.at("/created")), ("failed".into(), json!(0)));
        assert!(import.text("/error").contains(why), "{import:?}");
    }
}

#[tokio::test]
async fn rejects_an_invalid_generation_with_each_invalid_field() {
    let server = server().await;
    let path = format!("/v1/datasets/{}/generate", server.dataset("covidx").await);
    for (body, pointers) in [
        (json!({}), vec![""]),
        (json!({"cohen": 1, "nih": "x"}), vec!["/cohen", "/nih"]),
        (json!({"cohen": "cohen", "rules": {"nih": {}}}), vec!["/rules"]),
        (json!({"cohen": "cohen", "rules": {"classes": {"SARS": "sars"}}}), vec!["/rules"]),
        (json!({"cohen": "cohen", "rules": {}, "train_labels": "x.txt"}), vec!["/rules"]),
        (json!({"cohen": ".."}), vec!["/cohen"]),
        (json!({"cohen": "cohen", "rsna": "/etc"}), vec!["/rsna"]),
        (json!({"fig1": "missing"}), vec!["/fig1"]),
        (json!({"cohen": "cohen", "test_labels": "../../secret.txt"}), vec!["/test_labels"]),
    ] {
        let response = server.post(&path, body.clone()).await;
        response.assert_problem(422, &path);
        assert_eq!(response.pointers(), pointers, "{body}");
    }
    let nowhere = format!("/v1/datasets/{NOBODY}/generate");
    server.post(&nowhere, all()).await.assert_problem(404, &nowhere);
    server.request("POST", &path, "application/json", b"{".to_vec()).await.assert_problem(400, &path);
    let closed = Server::start().await;
    let path = format!("/v1/datasets/{}/generate", closed.dataset("covidx").await);
    closed.post(&path, all()).await.assert_problem(403, &path);
}

#[cfg(unix)]
#[tokio::test]
async fn links_do_not_lead_out_of_the_import_root_or_of_a_source() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let (root, secret) = (server.folder.path().join("root"), server.folder.path().join("secret"));
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("a.png"), png(48, 48, 250)).unwrap();
    std::os::unix::fs::symlink(&secret, root.join("out")).unwrap();
    let path = format!("/v1/datasets/{dataset}/generate");
    assert_eq!(server.post(&path, json!({"cohen": "out"})).await.pointers(), ["/cohen"]);
    replace_by_link(&root.join("fig1/images/COVID-00001.jpg"), &secret.join("a.png"));
    let import = generate(&server, &dataset, json!({"fig1": "fig1"})).await;
    assert_eq!((import.at("/created"), import.at("/rejected")), (json!(2), json!(1)), "{import:?}");
    assert!(rejections(&import)[0].3.contains("outside"), "{import:?}");
}

fn replace_by_link(file: &Path, target: &Path) {
    std::fs::remove_file(file).unwrap();
    std::os::unix::fs::symlink(target, file).unwrap();
}

#[tokio::test]
async fn an_interrupted_generation_resumes_with_its_rules() {
    let server = server().await;
    let dataset = server.dataset("covidx").await;
    let submitted = json!({"fig1": "fig1", "rules": {"classes": {"COVID-19": "pneumonia"}}});
    // The stored form: absent fields as null, and the complete rules.
    let mut rules = serde_json::to_value(Rules::default()).unwrap();
    rules["classes"] = submitted["rules"]["classes"].clone();
    let kept = json!({"cohen": null, "fig1": "fig1", "rules": rules, "train_labels": null});
    let import = Import::started(dataset.parse().unwrap(), "fig1=fig1".into());
    imports::create(&server.state.stores.db, &import, Some(&kept)).await.unwrap();
    Imports::from_ref(&server.state).resume().await.unwrap();
    server.settle().await;
    let ended = server.get(&format!("/v1/imports/{}", import.id)).await;
    assert_eq!((ended.text("/status"), ended.at("/created")), ("succeeded".into(), json!(3)), "{ended:?}");
    let started = generate(&server, &dataset, submitted).await;
    assert_eq!(
        (started.at("/duplicates"), started.at("/rejected")),
        (json!(3), json!(0)),
        "the same rules: {started:?}"
    );
    let shown = server.get(&format!("/v1/datasets/{dataset}/radiographs")).await;
    assert_eq!((shown.items(), shown.text("/items/0/label")), (3, "pneumonia".into()));
}
