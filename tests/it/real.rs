//! Tests on real radiographs, where they are available: an import of all of them, and a prediction for every original file.

use std::{path::PathBuf, time::Duration};

use serde_json::json;

use crate::{
    fixtures::shared_folder,
    support::{Part, Server, TestResponse, model},
};

#[tokio::test]
async fn imports_the_whole_covidx_folder_and_a_repeated_import_adds_nothing() {
    let Some(root) = shared_folder("") else { return };
    let server = Server::with(|state, _| state.intake.import_root = Some(root)).await;
    let dataset = server.dataset("covidx").await;
    let first = import(&server, &dataset).await;
    assert_eq!(
        (first.at("/created"), first.at("/duplicates"), first.at("/rejected")),
        (json!(1531), json!(0), json!(0))
    );
    let again = import(&server, &dataset).await;
    assert_eq!(
        (again.at("/created"), again.at("/duplicates"), again.at("/rejected")),
        (json!(0), json!(1531), json!(0))
    );
    let images = server.get(&format!("/v1/datasets/{dataset}")).await.at("/distribution/images");
    assert_eq!(images["train"], json!({"normal": 349, "pneumonia": 294, "COVID-19": 708}));
    assert_eq!(images["test"], json!({"normal": 62, "pneumonia": 49, "COVID-19": 69}));
}

#[tokio::test]
async fn the_report_on_the_covidx_folder_shows_its_confounders_and_no_leakage() {
    let Some(root) = shared_folder("") else { return };
    let server = Server::with(|state, _| state.intake.import_root = Some(root)).await;
    let dataset = server.dataset("covidx").await;
    import(&server, &dataset).await;
    let report = server.get(&format!("/v1/datasets/{dataset}/report")).await;
    assert_eq!((report.at("/leakage"), report.at("/duplicates/compared")), (json!([]), json!(1531)));
    assert_eq!(report.at("/duplicates/unreadable"), json!(0));
    // One exposure occurs twice, the second time mirrored and with its marker on the other side.
    assert_eq!((report.at("/duplicates/groups/count"), report.at("/duplicates/across_splits")), (json!(1), json!(0)));
    assert_eq!(report.at("/duplicates/groups/items/0/mirrored"), json!(true));
    let shortcuts = report.at("/shortcuts").as_array().cloned().unwrap();
    for name in ["source", "collection", "file", "original", "thumbnail"] {
        let shortcut = shortcuts.iter().find(|shortcut| shortcut["name"] == name).unwrap();
        let value = |of: &str, end: &str| shortcut["cross_validated"][of][end].as_f64().unwrap();
        assert!((value("majority", "value") - 0.5075).abs() < 0.001, "{shortcut}");
        assert!(value("accuracy", "low") > value("majority", "high"), "{shortcut}");
    }
    let known: Vec<_> = report.at("/attributes").as_array().unwrap().iter().map(|one| one["known"].clone()).collect();
    let names: Vec<_> =
        report.at("/attributes").as_array().unwrap().iter().map(|one| one["attribute"].clone()).collect();
    assert_eq!(names[..5], [json!("source"), json!("collection"), json!("view"), json!("sex"), json!("age")]);
    // From sources.csv: 151 images without a view, 102 without a sex, 340 without an age, and four whose age is not a number.
    assert_eq!(known[..5], [json!(1531), json!(1531), json!(1380), json!(1429), json!(1187)]);
}

#[tokio::test]
async fn uploads_and_classifies_every_original() {
    let Some(root) = shared_folder("") else { return };
    let server = Server::with(|state, _| {
        state.limits.max_upload_bytes = 64 << 20;
        state.limits.max_pixels = 50_000_000;
    })
    .await;
    let dataset = server.dataset("originals").await;
    server.promote(model::small(64, 1)).await;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("originals")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "png" || kind == "jpg" || kind == "jpeg"));
    files.sort();
    assert!(files.len() > 50, "{}", files.len());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let kept = server.upload(&dataset, &[Part::Text("label", "normal"), Part::File(name, &bytes)]).await;
        assert_eq!((kept.status, kept.text("/items/0/status")), (201, "created".into()), "{name}: {kept:?}");
        let content_type = if name.ends_with("png") { "image/png" } else { "image/jpeg" };
        let response = server.request("POST", "/v1/predictions", content_type, bytes).await;
        assert_eq!(response.status, 200, "{name}: {response:?}");
    }
}

async fn import(server: &Server, dataset: &str) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "radiographs"})).await;
    assert_eq!(started.status, 202, "{started:?}");
    loop {
        let import = server.get(started.header("location")).await;
        if import.text("/status") != "running" {
            return import;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
