//! Data sets, uploads, radiographs and imports over HTTP.

use std::{path::Path, time::Duration};

use serde_json::json;
use thorax::store::Stores;

use crate::support::{MAX_UPLOAD_BYTES, Part, Server, TestResponse, bomb, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn creates_lists_shows_and_deletes_a_data_set() {
    let server = Server::start().await;
    let made = server.post("/v1/datasets", json!({"name": "chests", "description": "of a test"})).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.at("/classes"), json!(["normal", "pneumonia", "COVID-19"]));
    let place = made.header("location").to_owned();
    assert_eq!(place, format!("/v1/datasets/{}", made.text("/id")));
    assert_eq!(server.get("/v1/datasets").await.text("/items/0/name"), "chests");
    let shown = server.get(&place).await;
    assert_eq!((shown.status, shown.text("/description")), (200, "of a test".into()));
    assert_eq!(server.delete(&place).await.status, 204);
    server.get(&place).await.assert_problem(404, &place);
    server.delete(&place).await.assert_problem(404, &place);
}

#[tokio::test]
async fn rejects_an_invalid_data_set_with_every_invalid_field() {
    let server = Server::start().await;
    let body = json!({"name": " ", "classes": ["one"], "description": 3, "colour": "blue"});
    let response = server.post("/v1/datasets", body).await;
    response.assert_problem(422, "/v1/datasets");
    assert_eq!(response.pointers(), ["/name", "/classes", "/description", "/colour"]);
    let response = server.post("/v1/datasets", json!({})).await;
    assert_eq!((response.status, response.pointers()), (422, vec!["/name".to_owned()]));
    assert_eq!(server.post("/v1/datasets", json!([])).await.status, 422);
}

#[tokio::test]
async fn a_class_name_has_up_to_64_letters_of_any_script() {
    let server = Server::start().await;
    let create = async |name: &str, length: usize| {
        server.post("/v1/datasets", json!({"name": name, "classes": ["é".repeat(length), "normal"]})).await.status
    };
    assert_eq!((create("short", 64).await, create("long", 65).await), (201, 422));
}

#[tokio::test]
async fn data_set_names_are_unique() {
    let server = Server::start().await;
    server.dataset("chests").await;
    server.post("/v1/datasets", json!({"name": "chests"})).await.assert_problem(409, "/v1/datasets");
}

#[tokio::test]
async fn rejects_malformed_json_with_400_and_other_media_types_with_415() {
    let server = Server::start().await;
    let malformed = server.request("POST", "/v1/datasets", "application/json", b"{\"name\": ".to_vec()).await;
    malformed.assert_problem(400, "/v1/datasets");
    let unsupported = server.request("POST", "/v1/datasets", "text/plain", b"{}".to_vec()).await;
    unsupported.assert_problem(415, "/v1/datasets");
}

#[tokio::test]
async fn unknown_ids_invalid_ids_and_wrong_methods_return_problem_documents() {
    let server = Server::start().await;
    for path in ["/v1/datasets", "/v1/radiographs", "/v1/imports"] {
        for id in [NOBODY, "17", "not-an-id"] {
            let path = format!("{path}/{id}");
            server.get(&path).await.assert_problem(404, &path);
        }
    }
    assert_eq!(server.request("PUT", "/v1/datasets", "", Vec::new()).await.status, 405);
    assert_eq!(server.get("/v1/nothing").await.status, 404);
}

#[tokio::test]
async fn a_list_continues_after_its_cursor() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.dataset(name).await;
    }
    let first = server.get("/v1/datasets?limit=2").await;
    assert_eq!((first.items(), first.text("/items/1/name")), (2, "b".into()));
    let second = server.get(&format!("/v1/datasets?limit=2&after={}", first.text("/next"))).await;
    assert_eq!((second.items(), second.text("/items/0/name"), second.at("/next")), (1, "c".into(), json!(null)));
    for limit in ["0", "201", "many"] {
        server.get(&format!("/v1/datasets?limit={limit}")).await.assert_problem(400, "/v1/datasets");
    }
}

#[tokio::test]
async fn an_upload_accepts_its_fields_in_any_order() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let image = png(64, 48, 1);
    let parts = [
        Part::Text("label", "COVID-19"),
        Part::File("one.png", &image),
        Part::Text("patient_id", "patient 7"),
        Part::Text("split", "test"),
        Part::Text("source", "drawn"),
        Part::Text("view", "PA"),
    ];
    let response = server.upload(&dataset, &parts).await;
    assert_eq!((response.status, response.text("/items/0/status")), (201, "created".into()));
    let radiograph = response.at("/items/0/radiograph");
    assert_eq!(radiograph["label"], "COVID-19");
    assert_eq!((&radiograph["width"], &radiograph["height"]), (&json!(64), &json!(48)));
    let hash = server.state.intake.patient_ids.stored("patient 7");
    assert_eq!((&radiograph["patient_id"], &radiograph["split"]), (&json!(hash), &json!("test")));
    assert_eq!((&radiograph["source"], &radiograph["view"]), (&json!("drawn"), &json!("PA")));
    let place = format!("/v1/radiographs/{}", response.text("/items/0/radiograph/id"));
    assert_eq!(server.get(&place).await.json(), radiograph);
}

#[tokio::test]
async fn the_same_bytes_again_are_a_duplicate_and_change_nothing() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let image = png(48, 48, 1);
    let first = server.upload(&dataset, &[Part::File("a.png", &image), Part::Text("label", "normal")]).await;
    let again = server.upload(&dataset, &[Part::File("b.png", &image), Part::Text("label", "pneumonia")]).await;
    assert_eq!((again.status, again.text("/items/0/status")), (201, "duplicate".into()));
    assert_eq!(again.at("/items/0/radiograph"), first.at("/items/0/radiograph"));
    let other = server.dataset("other").await;
    assert_eq!(server.upload(&other, &[Part::File("a.png", &image)]).await.text("/items/0/status"), "created");
}

#[tokio::test]
async fn each_file_of_a_batch_upload_has_its_own_result() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let (image, bomb) = (png(48, 48, 1), bomb(60_000, 60_000));
    let parts = [
        Part::File("good.png", &image),
        Part::File("text.png", b"not an image at all"),
        Part::File("bomb.png", &bomb),
        Part::File("cut.png", &image[..60]),
    ];
    let response = server.upload(&dataset, &parts).await;
    assert_eq!(response.status, 201);
    let outcome =
        |i: usize| (response.text(&format!("/items/{i}/status")), response.at(&format!("/items/{i}/problem/status")));
    assert_eq!(outcome(0), ("created".into(), json!(null)));
    assert_eq!(outcome(1), ("rejected".into(), json!(415)));
    assert_eq!(outcome(2), ("rejected".into(), json!(413)));
    assert_eq!(outcome(3), ("rejected".into(), json!(422)));
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs")).await.items(), 1);
}

#[tokio::test]
async fn a_single_file_upload_returns_the_status_of_the_file() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let whole = png(48, 48, 1);
    let cases: [(&[u8], u16); 4] =
        [(b"a text named .png", 415), (&bomb(60_000, 60_000), 413), (&whole[..60], 422), (&png(1001, 1000, 0), 413)];
    for (bytes, status) in cases {
        server.upload(&dataset, &[Part::File("x.png", bytes)]).await.assert_problem(status, &path);
    }
}

#[tokio::test]
async fn rejects_an_invalid_form_with_each_invalid_part() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let image = png(48, 48, 1);
    let parts = [
        Part::Text("label", "broken leg"),
        Part::Text("split", "holdout"),
        Part::Text("colour", "blue"),
        Part::File("a.png", &image),
    ];
    let response = server.upload(&dataset, &parts).await;
    response.assert_problem(422, &format!("/v1/datasets/{dataset}/radiographs"));
    assert_eq!(response.pointers(), ["/label", "/split", "/colour"]);
    assert!(response.text("/errors/0/detail").contains("COVID-19"), "names the classes");
    assert_eq!(server.upload(&dataset, &[Part::Text("label", "normal")]).await.pointers(), ["/file"]);
}

#[tokio::test]
async fn rejects_bodies_over_the_limit_and_bodies_of_other_types() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let large = vec![0; MAX_UPLOAD_BYTES + 1];
    server.upload(&dataset, &[Part::File("large.png", &large)]).await.assert_problem(413, &path);
    server.request("POST", &path, "text/plain", png(48, 48, 1)).await.assert_problem(415, &path);
    let nowhere = format!("/v1/datasets/{NOBODY}/radiographs");
    server.upload(NOBODY, &[Part::File("a.png", &png(48, 48, 1))]).await.assert_problem(404, &nowhere);
}

#[tokio::test]
async fn patient_ids_are_stored_as_keyed_hashes() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let response =
        server.upload(&dataset, &[Part::File("a.png", &png(48, 48, 1)), Part::Text("patient_id", "Jane")]).await;
    let stored = response.text("/items/0/radiograph/patient_id");
    assert!(!stored.contains("Jane") && stored.len() == 32, "{stored}");
    let place = format!("/v1/radiographs/{}", response.text("/items/0/radiograph/id"));
    assert_eq!(server.patch(&place, json!({"patient_id": "Jane"})).await.text("/patient_id"), stored);
}

#[tokio::test]
async fn radiographs_are_filtered_and_paged() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    server.fill(&dataset, "train", 0, 3).await;
    server.fill(&dataset, "test", 100, 1).await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    for (query, count) in
        [("", 12), ("?split=test", 3), ("?label=normal", 4), ("?split=train&label=COVID-19", 3), ("?source=none", 0)]
    {
        assert_eq!(server.get(&format!("{path}{query}")).await.items(), count, "{query}");
    }
    let first = server.get(&format!("{path}?limit=7&split=train")).await;
    let second = server.get(&format!("{path}?limit=7&split=train&after={}", first.text("/next"))).await;
    assert_eq!((first.items(), second.items(), second.at("/next")), (7, 2, json!(null)));
    server.get(&format!("{path}?split=holdout")).await.assert_problem(400, &path);
}

#[tokio::test]
async fn updates_single_fields_of_a_radiograph() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let response = server.upload(&dataset, &[Part::File("a.png", &png(48, 48, 1)), Part::Text("view", "AP")]).await;
    let place = format!("/v1/radiographs/{}", response.text("/items/0/radiograph/id"));
    let changed = server.patch(&place, json!({"label": "normal", "split": "validation"})).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.at("/label"), json!("normal"));
    assert_eq!((changed.at("/split"), changed.at("/view")), (json!("validation"), json!("AP")));
    let wrong = server.patch(&place, json!({"label": "leg", "split": "none", "width": 3})).await;
    wrong.assert_problem(422, &place);
    let mut pointers = wrong.pointers();
    pointers.sort();
    assert_eq!(pointers, ["/label", "/split", "/width"]);
    assert_eq!(server.get(&place).await.json(), changed.json());
}

#[tokio::test]
async fn returns_the_image_as_stored_or_resized() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let image = png(64, 48, 1);
    let id = server.upload(&dataset, &[Part::File("a.png", &image)]).await.text("/items/0/radiograph/id");
    let path = format!("/v1/radiographs/{id}/image");
    let sent = server.get(&path).await;
    assert_eq!((sent.status, sent.header("content-type"), &sent.bytes), (200, "image/png", &image));
    let small = server.get(&format!("{path}?size=32")).await;
    assert_eq!((small.status, small.header("content-type")), (200, "image/png"));
    let decoded = image::load_from_memory(&small.bytes).unwrap();
    assert_eq!((decoded.width(), decoded.height()), (32, 32));
    for size in ["0", "1025", "big"] {
        server.get(&format!("{path}?size={size}")).await.assert_problem(400, &path);
    }
}

#[tokio::test]
async fn the_decoded_image_cache_is_deleted_when_the_data_set_changes() {
    let server = Server::start().await;
    let (one, two) = (server.dataset("one").await, server.dataset("two").await);
    let folder = |dataset: &str| server.state.stores.caches.folder(dataset.parse().unwrap());
    let cached = || {
        for dataset in [&one, &two] {
            std::fs::create_dir_all(folder(dataset)).unwrap();
            std::fs::write(folder(dataset).join("128-a.grey"), "pixels").unwrap();
        }
    };
    let kept = server.upload(&one, &[Part::File("a.png", &png(48, 48, 1))]).await;
    cached();
    let radiograph = kept.text("/items/0/radiograph/id");
    assert_eq!(server.delete(&format!("/v1/radiographs/{radiograph}")).await.status, 204);
    assert!(!folder(&one).exists() && folder(&two).exists());
    cached();
    assert_eq!(server.delete(&format!("/v1/datasets/{one}")).await.status, 204);
    assert!(!folder(&one).exists() && folder(&two).exists());
}

#[tokio::test]
async fn a_sweep_removes_an_image_after_the_last_radiograph_that_names_it() {
    let server = Server::start().await;
    let (one, two) = (server.dataset("one").await, server.dataset("two").await);
    let image = png(48, 48, 1);
    let first = server.upload(&one, &[Part::File("a.png", &image)]).await.text("/items/0/radiograph/id");
    let second = server.upload(&two, &[Part::File("a.png", &image)]).await.text("/items/0/radiograph/id");
    let Stores { blobs, db, .. } = &server.state.stores;
    let sweep = async || blobs.sweep(db, Duration::ZERO).await.unwrap().removed;
    assert_eq!(server.delete(&format!("/v1/radiographs/{first}")).await.status, 204);
    assert_eq!(sweep().await, 0);
    assert_eq!(server.get(&format!("/v1/radiographs/{second}/image")).await.status, 200);
    assert_eq!(server.delete(&format!("/v1/datasets/{two}")).await.status, 204);
    assert_eq!(sweep().await, 1);
    let hash = thorax::domain::Sha256::of(&image);
    assert!(!blobs.path(&hash).exists());
}

#[tokio::test]
async fn a_data_set_reports_image_counts_patient_counts_and_leakage() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let place = format!("/v1/datasets/{dataset}");
    let empty = server.get(&place).await;
    server.fill(&dataset, "train", 0, 2).await;
    let filled = server.get(&place).await;
    assert_eq!(filled.at("/distribution/images/train/normal"), json!(2));
    assert_eq!(filled.at("/distribution/patients/train/pneumonia"), json!(2));
    assert_eq!(filled.at("/leakage/patients_in_several_splits"), json!([]));
    assert_ne!(empty.text("/fingerprint"), filled.text("/fingerprint"));
    let parts = [
        Part::File("a.png", &png(48, 48, 200)),
        Part::Text("split", "test"),
        Part::Text("patient_id", "train-normal-patient-0"),
    ];
    server.upload(&dataset, &parts).await;
    let leaking = server.get(&place).await;
    let patient = server.state.intake.patient_ids.stored("train-normal-patient-0");
    assert_eq!(leaking.text("/leakage/patients_in_several_splits/0/patient_id"), patient);
    assert_eq!(leaking.at("/leakage/patients_in_several_splits/0/splits"), json!(["train", "test"]));
    assert!(leaking.text("/leakage/note").contains("optimistic"));
}

#[tokio::test]
async fn splits_by_patient_and_deterministically_by_seed() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    server.fill(&dataset, "train", 0, 10).await;
    let path = format!("/v1/datasets/{dataset}/split");
    let first = server.post(&path, json!({"test_fraction": 0.2, "validation_fraction": 0.1, "seed": 1})).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.at("/distribution/images/test/normal"), json!(2));
    assert_eq!(first.at("/distribution/images/validation/COVID-19"), json!(1));
    let other = server.post(&path, json!({"test_fraction": 0.2, "validation_fraction": 0.1, "seed": 2})).await;
    assert_ne!(first.text("/fingerprint"), other.text("/fingerprint"));
    let again = server.post(&path, json!({"test_fraction": 0.2, "validation_fraction": 0.1, "seed": 1})).await;
    assert_eq!(first.text("/fingerprint"), again.text("/fingerprint"));
    let wrong = server.post(&path, json!({"test_fraction": 1, "validation_fraction": -0.5, "seed": "x"})).await;
    wrong.assert_problem(422, &path);
    assert_eq!(wrong.pointers(), ["/test_fraction", "/validation_fraction", "/seed"]);
}

#[tokio::test]
async fn an_import_runs_in_the_background_and_reports_rejected_files() {
    let server = Server::with(|state, folder| {
        draw_covidx(&folder.join("root/set"));
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("chests").await;
    let first = import(&server, &dataset).await;
    assert_eq!(first.text("/status"), "succeeded", "{first:?}");
    assert_eq!((first.at("/created"), first.at("/rejected")), (json!(2), json!(2)));
    assert_eq!(first.text("/path"), "set");
    let rejections = first.at("/rejections");
    assert_eq!(rejections.as_array().unwrap().len(), 2, "{rejections}");
    assert!(rejections[0]["line"].is_u64() && !rejections[0]["reason"].as_str().unwrap().is_empty());
    let again = import(&server, &dataset).await;
    assert_eq!((again.at("/created"), again.at("/duplicates")), (json!(0), json!(2)));
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs?split=test")).await.items(), 1);
}

/// A folder like COVIDx CXR-4: classes that the data set does not have, a split named `val`, and a folder of masks.
#[tokio::test]
async fn an_import_maps_classes_and_counts_what_it_leaves_out() {
    let server = Server::with(|state, folder| {
        let set = folder.join("root/set");
        for (number, name) in [(1, "train/a.png"), (2, "train/b.png"), (3, "val/c.png"), (4, "masks/a.png")] {
            std::fs::create_dir_all(set.join(name).parent().unwrap()).unwrap();
            std::fs::write(set.join(name), png(48, 48, number)).unwrap();
        }
        std::fs::write(set.join("train.txt"), "p1 a.png negative rsna\np2 b.png positive cohen\n").unwrap();
        std::fs::write(set.join("val.txt"), "p3 c.png positive ricord\n").unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("chests").await;
    let path = format!("/v1/datasets/{dataset}/imports");
    let unmapped = import(&server, &dataset).await;
    assert_eq!(unmapped.text("/status"), "failed");
    assert!(unmapped.text("/error").contains("class_mapping"), "{unmapped:?}");
    let wrong = server.post(&path, json!({"path": "set", "class_mapping": {"positive": "covid", "a/b": "x"}})).await;
    wrong.assert_problem(422, &path);
    assert_eq!(wrong.pointers(), ["/class_mapping/a~1b", "/class_mapping/positive"]);
    let mapping = json!({"positive": "COVID-19", "negative": null});
    let started = server.post(&path, json!({"path": "set", "class_mapping": mapping})).await;
    server.settle().await;
    let ended = server.get(started.header("location")).await;
    assert_eq!(
        (ended.text("/status"), ended.at("/created"), ended.at("/rejected")),
        ("succeeded".into(), json!(2), json!(0))
    );
    assert_eq!(
        ended.at("/passed_over"),
        json!([
            {"source": "train.txt", "reason": "the class mapping leaves \"negative\" out", "rows": 1},
            {"source": "masks", "reason": "segmentation mask", "rows": 1}
        ])
    );
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs?split=validation")).await.items(), 1);
}

#[tokio::test]
async fn an_import_stays_below_the_import_root() {
    let server = Server::with(|state, folder| {
        std::fs::create_dir(folder.join("root")).unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let path = format!("/v1/datasets/{}/imports", server.dataset("chests").await);
    for outside in ["..", "../data", "/etc", "missing"] {
        let response = server.post(&path, json!({"path": outside})).await;
        response.assert_problem(422, &path);
        assert_eq!(response.pointers(), ["/path"], "{outside}");
    }
    assert_eq!(server.post(&path, json!({"test_split": 1})).await.pointers(), ["/path", "/test_split"]);
}

#[tokio::test]
async fn without_an_import_root_imports_are_forbidden() {
    let server = Server::start().await;
    let path = format!("/v1/datasets/{}/imports", server.dataset("chests").await);
    server.post(&path, json!({"path": "set"})).await.assert_problem(403, &path);
}

/// Imports the folder `set` and waits for the end.
async fn import(server: &Server, dataset: &str) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "set"})).await;
    assert_eq!((started.status, started.text("/status")), (202, "running".into()), "{started:?}");
    server.settle().await;
    server.get(started.header("location")).await
}

/// A folder with two valid rows, one row without a class, and a text file in place of an image.
fn draw_covidx(folder: &Path) {
    for split in ["train", "test"] {
        std::fs::create_dir_all(folder.join(split)).unwrap();
    }
    std::fs::write(folder.join("train/a.png"), png(48, 48, 1)).unwrap();
    std::fs::write(folder.join("train/b.png"), b"a text").unwrap();
    std::fs::write(folder.join("test/c.png"), png(48, 48, 2)).unwrap();
    let rows = "p1 a.png normal drawn\np2 b.png pneumonia drawn\np3 x.png\n";
    std::fs::write(folder.join("train_split.txt"), rows).unwrap();
    std::fs::write(folder.join("test_split.txt"), "p4 c.png COVID-19 drawn\n").unwrap();
}
