//! Names of DICOM files, which often contain the patient's name: no part of them is stored, in any encoding and by any way of intake.

use std::{io::Write, path::Path};

use axum::{body::Body, http::Request};
use dicom_dictionary_std::tags;
use serde_json::json;

use crate::{
    fixtures::shared_folder,
    http_dicom::{found_below, push, put_bytes, radiograph},
    process::{Running, succeeds, thorax},
    support::{Part, Server, dicom::file, model, multipart, png},
};

/// A file, its name without extension, and the texts that must not be stored.
struct TestFile {
    name: String,
    bytes: Vec<u8>,
    parts: Vec<String>,
}

/// A generated radiograph of a patient.
fn named(shade: u16, name: &str, character_set: &str, patient: &[u8]) -> TestFile {
    let mut object = radiograph(shade);
    put_bytes(&mut object, tags::SPECIFIC_CHARACTER_SET, character_set.as_bytes());
    put_bytes(&mut object, tags::PATIENT_NAME, patient);
    let parts = name.split(['_', ' ', '.']).map(str::to_owned).collect();
    TestFile { name: name.into(), bytes: file(object), parts }
}

/// Files with names outside ASCII, decomposed (as macOS writes them), short, and different from the header. No part occurs in another word.
fn generated_files() -> Vec<TestFile> {
    vec![
        named(1, "Prüfzyx_Größqo", "ISO_IR 100", b"Pr\xfcfzyx^Gr\xf6\xdfqo"),
        named(2, "Pru\u{308}fzyw_Gro\u{308}ßqe", "ISO_IR 192", "Prüfzyw^Größqe".as_bytes()),
        named(3, "検査試_胸部験", "ISO_IR 192", "検査試^胸部験".as_bytes()),
        named(4, "Zyxwander_Quirinus", "ISO_IR 6", b"Zyxwander^Quirinus"),
        named(5, "Nichtim_Kopfteil", "", b"Another^Patient"),
    ]
}

fn zip(files: &[(String, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Writes folders to import: class folders with the files (also damaged, nested and without extension), and label files that name them.
fn write_folders(root: &Path, files: &[TestFile]) {
    let class = root.join("classes/normal");
    for TestFile { name, bytes, .. } in files {
        std::fs::create_dir_all(class.join(name)).unwrap();
        std::fs::write(class.join(format!("{name}.dcm")), bytes).unwrap();
        std::fs::write(class.join(format!("{name}-cut.dcm")), &bytes[..bytes.len() / 2]).unwrap();
        std::fs::write(class.join(format!("{name}-no-dicom")), b"no radiograph").unwrap();
        std::fs::write(class.join(name).join("IM0001"), &bytes[..bytes.len() / 3]).unwrap();
    }
    let labelled = root.join("labelled");
    std::fs::create_dir_all(labelled.join("train")).unwrap();
    let mut rows = String::new();
    for (number, TestFile { name, bytes, .. }) in files.iter().enumerate() {
        let name = name.replace(' ', "");
        std::fs::write(labelled.join(format!("train/{name}.dcm")), bytes).unwrap();
        std::fs::write(labelled.join(format!("train/{name}-stray.dcm")), bytes).unwrap();
        rows += &format!("p{number} {name}.dcm normal drawn\n");
        rows += &format!("p{number} {name}.dcm pneumonia drawn\n");
        rows += &format!("p{number} {name}-missing.dcm normal drawn\n");
        rows += &format!("p{number} ../{name}.dcm normal drawn\n");
    }
    std::fs::write(labelled.join("train_split.txt"), rows).unwrap();
}

/// Sends the files in every way, and searches the data folder.
async fn assert_not_stored(files: Vec<TestFile>) {
    let server = Server::with(|state, folder| {
        write_folders(&folder.join("root"), &files);
        state.intake.import_root = Some(folder.join("root"));
        // The same holds where the names of other files are stored.
        state.intake.keep_file_names = true;
    })
    .await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("chests").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    for TestFile { name, bytes, .. } in &files {
        let sent = format!("{name}.dcm");
        let (content_type, body) = multipart(&[Part::Text("label", "normal"), Part::File(&sent, bytes)]);
        let request = Request::post(&path)
            .header("content-type", content_type)
            .header("idempotency-key", &sent.replace(|c: char| !c.is_ascii(), "x"));
        let stored = server.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!((stored.status, stored.text("/items/0/file_name")), (201, sent.clone()), "{stored:?}");
        let shown = stored.text("/items/0/radiograph/file_name");
        let sha256 = stored.text("/items/0/radiograph/sha256");
        assert_eq!(shown, format!("radiograph-{}.dcm", &sha256[..12]));
        // A refused file: its name is in the response and nowhere else.
        server.upload(&dataset, &[Part::File(&sent, &bytes[..bytes.len() / 2])]).await;
        let predicted = server.request("POST", "/v1/predictions", "application/dicom", bytes.clone()).await;
        assert_eq!(predicted.status, 200, "{predicted:?}");
        let (content_type, form) = multipart(&[Part::File(&sent, bytes), Part::File(&sent, b"none")]);
        let several = server.request("POST", "/v1/predictions", &content_type, form).await;
        assert_eq!((several.status, several.text("/items/0/file_name")), (200, sent));
        assert_eq!(push(&server, "/dicomweb/studies", std::slice::from_ref(bytes)).await.status, 200);
    }
    for (folder, created) in [("classes", files.len()), ("labelled", files.len())] {
        let into = server.dataset(folder).await;
        let started = server.post(&format!("/v1/datasets/{into}/imports"), json!({ "path": folder })).await;
        server.settle().await;
        let ended = server.get(started.header("location")).await;
        // Files with different names may contain the same image.
        let imported = ended.at("/created").as_u64().unwrap() + ended.at("/duplicates").as_u64().unwrap();
        assert_eq!(ended.text("/status"), "succeeded");
        assert!(imported >= created as u64, "{ended:?}");
        assert!(ended.at("/rejected").as_u64().unwrap() >= 3 * files.len() as u64, "{ended:?}");
        let text = String::from_utf8(ended.bytes.clone()).unwrap();
        assert!(text.contains("SHA-256"), "{text}");
        assert_none(&files, &text);
    }
    let archived: Vec<(String, &[u8])> = files
        .iter()
        .flat_map(|file| {
            [(format!("{}/IM1", file.name), &file.bytes[..]), (format!("{}.dcm", file.name), &file.bytes[..900])]
        })
        .collect();
    let job = server.request("POST", "/v1/prediction-jobs", "application/zip", zip(&archived)).await;
    assert_eq!(job.status, 202, "{job:?}");
    server.settle().await;
    let results = server.get_as(&format!("{}/results", job.header("location")), "text/csv").await;
    let results = String::from_utf8(results.bytes).unwrap();
    assert!(results.contains("\n0,,file-0.dcm,"), "{results}");
    assert_none(&files, &results);
    let data = server.folder.path().join("data");
    let parts: Vec<&str> = files.iter().flat_map(|file| file.parts.iter().map(String::as_str)).collect();
    assert_eq!(found_below(&data, &parts), Vec::<String>::new(), "while the server runs, with its write-ahead log");
    server.state.stores.db.close().await;
    assert_eq!(found_below(&data, &parts), Vec::<String>::new());
}

#[track_caller]
fn assert_none(files: &[TestFile], text: &str) {
    for part in files.iter().flat_map(|file| &file.parts) {
        assert!(!text.contains(part.as_str()), "{part} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_a_generated_name_reaches_the_data_folder() {
    assert_not_stored(generated_files()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_the_name_of_a_real_file_reaches_the_data_folder() {
    let Some(folder) = shared_folder("reports/names") else { return };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // Two letters occur in hashes and images by chance; `Phantom` and `Example` do not occur in the tests' own texts.
        let parts = name.split('_').filter(|part| part.len() > 3).map(str::to_owned).chain([name.clone()]).collect();
        files.push(TestFile { bytes: std::fs::read(&path).unwrap(), name, parts });
    }
    assert_eq!(files.len(), 4);
    assert_not_stored(files).await;
}

#[tokio::test]
async fn uploaded_names_are_replaced_unless_the_server_is_configured_to_store_them() {
    for keep in [false, true] {
        let server = Server::with(|state, _| state.intake.keep_file_names = keep).await;
        server.promote(model::small(32, 1)).await;
        let dataset = server.dataset("named").await;
        let image = png(48, 48, 7);
        let stored = server.upload(&dataset, &[Part::File("folder/Zyxwander.png", &image)]).await;
        let neutral = format!("radiograph-{}.png", &stored.text("/items/0/radiograph/sha256")[..12]);
        let expected = if keep { "Zyxwander.png" } else { &neutral };
        assert_eq!(stored.text("/items/0/radiograph/file_name"), expected);
        assert_eq!(stored.text("/items/0/file_name"), "folder/Zyxwander.png", "the response echoes it");
        let archive = zip(&[("folder/Zyxwander.png".into(), &image), ("Zyxwander.dcm".into(), &file(radiograph(1)))]);
        let job = server.request("POST", "/v1/prediction-jobs", "application/zip", archive).await;
        server.settle().await;
        let results = server.get_as(&format!("{}/results", job.header("location")), "text/csv").await;
        let results = String::from_utf8(results.bytes).unwrap();
        let first = if keep { "folder/Zyxwander.png" } else { "file-0.png" };
        assert!(results.contains(&format!("\n0,,{first},")) && results.contains("\n1,,file-1.dcm,"), "{results}");
        let (content_type, form) = multipart(&[Part::File("other.png", &png(48, 48, 9))]);
        let prediction = server.request("POST", "/v1/predictions", &content_type, form).await.text("/id");
        let image = png(48, 48, 9);
        let parts =
            [Part::Text("label", "normal"), Part::Text("dataset_id", &dataset), Part::File("other.png", &image)];
        let (content_type, form) = multipart(&parts);
        let feedback =
            server.request("PUT", &format!("/v1/predictions/{prediction}/feedback"), &content_type, form).await;
        assert_eq!(feedback.status, 200, "{feedback:?}");
        let listed = server.get(&format!("/v1/datasets/{dataset}/radiographs")).await;
        assert_eq!(listed.text("/items/1/file_name") == "other.png", keep);
        server.state.stores.db.close().await;
        assert_eq!(found_below(&server.folder.path().join("data"), &["Zyxwander"]).is_empty(), !keep);
    }
}

/// Names of PNG files in an imported folder are stored, because label files refer to them.
#[tokio::test]
async fn imported_names_of_png_files_are_stored_and_those_of_dicom_files_are_not() {
    let server = Server::with(|state, folder| {
        let class = folder.join("root/set/normal");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join("a.png"), png(48, 48, 1)).unwrap();
        std::fs::write(class.join("b.png"), file(radiograph(1))).unwrap();
        std::fs::write(class.join("notes.txt"), "no image").unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("set").await;
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({ "path": "set" })).await;
    server.settle().await;
    let listed = server.get(&format!("/v1/datasets/{dataset}/radiographs")).await;
    let mut names = [listed.text("/items/0/file_name"), listed.text("/items/1/file_name")];
    names.sort();
    assert!(names[0] == "a.png" && names[1].starts_with("radiograph-"), "{names:?}");
    let ended = server.get(started.header("location")).await;
    assert_eq!(ended.text("/rejections/0/file"), "normal/notes.txt");
}

/// Not even at the most detailed level.
#[test]
fn the_log_names_no_dicom_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = generated_files();
    write_folders(&folder.path().join("root"), &files);
    let variables = [("THORAX_LOG", "trace"), ("THORAX_IMPORT_ROOT", "root"), ("THORAX_DEVICE", "cpu")];
    let mut server = Running::start(folder.path(), &variables);
    for set in ["classes", "labelled"] {
        let (_, dataset) = server.send("POST", "/v1/datasets", &json!({ "name": set }).to_string());
        let path = format!("/v1/datasets/{}/imports", dataset["id"].as_str().unwrap());
        let (status, import) = server.send("POST", &path, &json!({ "path": set }).to_string());
        assert_eq!(status, 202, "{import}");
        let path = format!("/v1/imports/{}", import["id"].as_str().unwrap());
        server.wait_for(&path, |import| import["status"] == "succeeded");
    }
    assert!(server.end("-TERM").success());
    assert_none(&files, &server.standard_error());
    succeeds(thorax(folder.path()).args(["import", "--dataset", "again", "root/classes"]));
    let parts: Vec<&str> = files.iter().flat_map(|file| file.parts.iter().map(String::as_str)).collect();
    assert_eq!(found_below(&folder.path().join("data"), &parts), Vec::<String>::new());
}
