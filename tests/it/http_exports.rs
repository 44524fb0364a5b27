//! Exports of a data set over HTTP, which an import reads back.

use std::path::Path;

use serde_json::json;

use crate::support::{Part, Server, TestResponse, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Rows with the difficulties of the published files: a space within the patient id, no source, several images of a patient, an unknown
/// patient.
const TRAIN: &str =
    "COVID 1 COVID(1).png COVID-19 sirm\np2 b.png normal\np2 a.png normal an archive\n- d.png pneumonia x\n";
const TEST: &str = "p3 a.png pneumonia cohen\n";
const VALIDATION: &str = "p4 e.png COVID-19 cohen\n";

const SPLITS: [(&str, &str); 3] = [("train", TRAIN), ("validation", VALIDATION), ("test", TEST)];

#[tokio::test]
async fn exported_label_files_equal_the_imported_ones() {
    let server = Server::with(|state, folder| {
        let root = folder.join("root");
        draw(&root.join("set"));
        state.intake.import_root = Some(root);
    })
    .await;
    let first = server.dataset("first").await;
    assert_eq!(import(&server, &first, "set").await.at("/created"), json!(6));
    let mut exported = Vec::new();
    for (name, text) in SPLITS {
        let response = export(&server, &first, name).await;
        // The export replaces the label file that came with the images.
        std::fs::write(server.folder.path().join(format!("root/set/{name}_split.txt")), &response).unwrap();
        assert_eq!(without_patients(&response), without_patients(text), "{name}");
        exported.push(response);
    }
    let patients: Vec<&str> = exported[0].lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(patients[1] == patients[2] && patients[0] != patients[1] && patients[3] == "-", "{patients:?}");
    let second = server.dataset("second").await;
    let again = import(&server, &second, "set").await;
    assert_eq!((again.at("/created"), again.at("/rejected")), (json!(6), json!(0)), "{again:?}");
    for ((name, _), exported) in SPLITS.into_iter().zip(exported) {
        assert_eq!(export(&server, &second, name).await, exported, "patients and all");
    }
    let place = |id: &str| format!("/v1/datasets/{id}");
    let (first, second) = (server.get(&place(&first)).await, server.get(&place(&second)).await);
    assert_eq!(first.at("/fingerprint"), second.at("/fingerprint"));
    assert_eq!(first.at("/distribution"), second.at("/distribution"));
}

#[tokio::test]
async fn a_label_file_that_cannot_be_written_is_a_conflict() {
    let server = Server::with(|state, _| state.intake.keep_file_names = true).await;
    for (name, files) in [("space", ["a b.png", "c.png"]), ("twice", ["a.png", "a.png"])] {
        let dataset = server.dataset(name).await;
        for (shade, file) in (0u8..).zip(files) {
            let image = png(48, 48, shade);
            let parts = [Part::Text("label", "normal"), Part::Text("split", "train"), Part::File(file, &image)];
            assert_eq!(server.upload(&dataset, &parts).await.status, 201);
        }
        let path = format!("/v1/datasets/{dataset}/exports/train_split.txt");
        let response = server.get(&path).await;
        response.assert_problem(409, &path);
        assert!(response.text("/detail").contains(files[0]), "{response:?}");
    }
}

#[tokio::test]
async fn unknown_exports_return_404() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    for path in [
        format!("/v1/datasets/{NOBODY}/exports/train_split.txt"),
        format!("/v1/datasets/{NOBODY}/distribution"),
        format!("/v1/datasets/{dataset}/exports/holdout_split.txt"),
        format!("/v1/datasets/{dataset}/exports/train.txt"),
    ] {
        server.get(&path).await.assert_problem(404, &path);
    }
    let empty = server.get(&format!("/v1/datasets/{dataset}/exports/train_split.txt")).await;
    assert_eq!((empty.status, empty.bytes.len()), (200, 0));
}

#[tokio::test]
async fn a_distribution_is_available_as_markdown_and_as_text() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    server.fill(&dataset, "train", 0, 2).await;
    server.fill(&dataset, "test", 100, 1).await;
    let path = format!("/v1/datasets/{dataset}/distribution");
    let markdown = server.get(&path).await;
    assert_eq!((markdown.status, markdown.header("content-type")), (200, "text/markdown; charset=utf-8"));
    let text = String::from_utf8(markdown.bytes).unwrap();
    let cells = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in
        ["| images | normal | pneumonia | COVID-19 | total |", "| train | 2 | 2 | 2 | 6 |", "| total | 3 | 3 | 3 | 9 |"]
    {
        assert!(cells.contains(line), "{line} is not in {text}");
    }
    let plain = server.accept(&path, "text/plain").await;
    assert_eq!(plain.header("content-type"), "text/plain; charset=utf-8");
    assert!(String::from_utf8(plain.bytes).unwrap().contains("train        2          2         2      6"));
    server.accept(&path, "application/json").await.assert_problem(406, &path);
}

async fn export(server: &Server, dataset: &str, split: &str) -> String {
    let response = server.get(&format!("/v1/datasets/{dataset}/exports/{split}_split.txt")).await;
    assert_eq!((response.status, response.header("content-type")), (200, "text/plain; charset=utf-8"));
    String::from_utf8(response.bytes).unwrap()
}

/// File name, class and source of each row.
fn without_patients(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| &line[line.find(".png").map_or(0, |end| line[..end].rfind(' ').map_or(0, |at| at + 1))..])
        .collect()
}

/// A folder with six images in the COVIDx layout, with a validation split.
fn draw(folder: &Path) {
    for (split, rows, files) in [
        ("train", TRAIN, &["COVID(1).png", "b.png", "a.png", "d.png"][..]),
        ("validation", VALIDATION, &["e.png"]),
        ("test", TEST, &["a.png"]),
    ] {
        std::fs::create_dir_all(folder.join(split)).unwrap();
        std::fs::write(folder.join(format!("{split}_split.txt")), rows).unwrap();
        for file in files {
            let shade = split.as_bytes()[1].wrapping_mul(3).wrapping_add(file.as_bytes()[0]);
            std::fs::write(folder.join(split).join(file), png(48, 48, shade)).unwrap();
        }
    }
}

/// Imports a folder and waits for the end.
async fn import(server: &Server, dataset: &str, path: &str) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({ "path": path })).await;
    assert_eq!(started.status, 202, "{started:?}");
    server.settle().await;
    server.get(started.header("location")).await
}
