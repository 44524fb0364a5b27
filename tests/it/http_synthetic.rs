//! The mark of synthetic phantoms, which no model may lose, through HTTP.

use std::path::Path;

use serde_json::{Value, json};
use thorax::imaging::{
    GreyImage,
    phantom::{self, Appearance},
};

use crate::support::{Part, Server, TestResponse, encode, model, png};

const MODELS: &str = "/v1/models";

async fn upload_model(server: &Server, query: &str, file: Vec<u8>) -> TestResponse {
    server.request("POST", &format!("{MODELS}{query}"), "application/octet-stream", file).await
}

#[tokio::test]
async fn a_synthetic_model_is_synthetic_after_a_download_and_an_upload() {
    let server = Server::start().await;
    let file = model::small(32, 1);
    let plain = upload_model(&server, "", file.clone()).await;
    assert_eq!((plain.status, plain.at("/synthetic")), (201, json!(false)));
    let marked = upload_model(&server, "?synthetic=true", file.clone()).await;
    assert_eq!((marked.status, marked.at("/synthetic")), (201, json!(true)));
    let download = async |model: &TestResponse| server.get(&format!("{MODELS}/{}/weights", model.text("/id"))).await;
    assert_eq!(download(&plain).await.bytes, file);
    let downloaded = download(&marked).await;
    assert_eq!(downloaded.header("etag"), format!("\"{}\"", marked.text("/sha256")));
    for query in ["", "?synthetic=false", "?synthetic=true"] {
        let again = upload_model(&server, query, downloaded.bytes.clone()).await;
        assert_eq!((again.status, again.at("/synthetic")), (201, json!(true)), "{query}");
        assert_eq!(again.at("/sha256"), marked.at("/sha256"));
        assert_ne!(again.at("/id"), Value::Null);
    }
}

/// A phantom as `thorax phantoms` writes it.
fn phantom(seed: u64) -> Vec<u8> {
    phantom::encode_png(&phantom::generate(Appearance::ALL[seed as usize % 3], seed, 48))
}

/// A folder as `thorax phantoms` writes it, with two images of each class in each split.
fn write_phantoms(folder: &Path) {
    for (split, first) in [("train", 0), ("test", 6)] {
        std::fs::create_dir_all(folder.join(split)).unwrap();
        let mut rows = String::new();
        for seed in first..first + 6 {
            let class = Appearance::ALL[seed as usize % 3].class();
            std::fs::write(folder.join(split).join(format!("{seed}.png")), phantom(seed)).unwrap();
            rows += &format!("patient-{seed} {seed}.png {class} anywhere\n");
        }
        std::fs::write(folder.join(format!("{split}_split.txt")), rows).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_phantoms_mark_the_data_set_its_runs_and_their_models() {
    let server = Server::with(|state, folder| {
        write_phantoms(&folder.join("root/phantoms"));
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("tour").await;
    let shown = format!("/v1/datasets/{dataset}");
    assert_eq!(server.get(&shown).await.at("/synthetic"), json!(false), "nothing in it yet");
    let started = server.post(&format!("{shown}/imports"), json!({"path": "phantoms"})).await;
    server.settle().await;
    assert_eq!(server.get(started.header("location")).await.at("/created"), json!(12));
    assert_eq!(server.get(&shown).await.at("/synthetic"), json!(true));
    assert_eq!(server.get("/v1/datasets").await.at("/items/0/synthetic"), json!(true));

    let stages = json!([{"image_size": 32, "steps": [{"scope": "all", "learning_rate": 0.01, "epochs": 1}]}]);
    let plan = json!({"batch_size": 2, "selection": {"split": "test", "metric": "accuracy"}, "stages": stages});
    let run =
        server.post("/v1/training-runs", json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": plan})).await;
    assert_eq!((run.status, run.at("/synthetic")), (202, json!(true)), "{run:?}");
    let worker = server.train();
    let model = server.model_of(run.header("location")).await;
    worker.shutdown().await;
    let model = server.get(&format!("{MODELS}/{model}")).await;
    assert_eq!(model.at("/synthetic"), json!(true));
    let file = server.get(&format!("{MODELS}/{}/weights", model.text("/id"))).await;
    assert_eq!(thorax::domain::Sha256::of(&file.bytes).to_string(), model.text("/sha256"));
    assert_eq!(upload_model(&server, "", file.bytes).await.at("/synthetic"), json!(true));
    // The run outlives its data set, with its mark.
    assert_eq!(server.delete(&shown).await.status, 204);
    assert_eq!(server.get(run.header("location")).await.at("/synthetic"), json!(true));
}

#[tokio::test]
async fn an_uploaded_phantom_marks_its_data_set_while_it_is_there() {
    let server = Server::start().await;
    let dataset = server.dataset("uploads").await;
    let synthetic = async || server.get(&format!("/v1/datasets/{dataset}")).await.at("/synthetic");
    assert_eq!(server.upload(&dataset, &[Part::File("a.png", &png(48, 48, 1))]).await.status, 201);
    assert_eq!(synthetic().await, json!(false));
    let added = server.upload(&dataset, &[Part::File("b.png", &phantom(1))]).await;
    assert_eq!(added.at("/items/0/radiograph/synthetic"), json!(true));
    assert_eq!(synthetic().await, json!(true));
    // The stored file keeps the mark.
    let radiograph = added.text("/items/0/radiograph/id");
    let image = server.get(&format!("/v1/radiographs/{radiograph}/image")).await.bytes;
    assert_eq!(image, phantom(1));
    assert_eq!(server.delete(&format!("/v1/radiographs/{radiograph}")).await.status, 204);
    assert_eq!(synthetic().await, json!(false));
    // The same pixels without the mark are no phantom.
    let GreyImage { width, height, pixels } = phantom::generate(Appearance::ALL[1], 1, 48);
    let plain = server.upload(&dataset, &[Part::File("c.png", &encode(width, height, &pixels))]).await;
    assert_eq!(plain.at("/items/0/radiograph/synthetic"), json!(false));
}
