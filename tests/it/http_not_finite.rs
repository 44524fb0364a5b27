//! Models whose weights or results are not finite numbers: refused when they are uploaded, loaded or promoted, and never a prediction.

use std::time::Duration;

use serde_json::{Value, json};
use thorax::{
    domain::{ModelId, Sha256},
    store::{self, Model},
};

use crate::support::{Part, Server, TestResponse, encode, model, multipart, png};

const PREDICTIONS: &str = "/v1/predictions";
const MODELS: &str = "/v1/models";
const CHAMPION: &str = "/v1/models/aliases/champion";

async fn upload(server: &Server, file: Vec<u8>) -> TestResponse {
    server.request("POST", MODELS, "application/octet-stream", file).await
}

async fn put(server: &Server, alias: &str, model: &str) -> TestResponse {
    let body = json!({ "model_id": model }).to_string().into();
    server.request("PUT", &format!("/v1/models/aliases/{alias}"), "application/json", body).await
}

async fn classify(server: &Server, query: &str, image: Vec<u8>) -> TestResponse {
    server.request("POST", &format!("{PREDICTIONS}{query}"), "image/png", image).await
}

/// Files that are refused, with words of the reason.
fn unusable() -> [(Vec<u8>, &'static str); 4] {
    let (file, last) = (model::small(32, 1), "head.linear.1.weight");
    [
        (model::with_tensor(&file, "body.conv.1.bias", |_| f32::NAN), "tensor body.conv.1.bias has the value NaN"),
        (model::with_tensor(&file, last, |index| if index == 7 { f32::INFINITY } else { 0.1 }), last),
        (model::with_tensor(&file, last, |_| f32::NEG_INFINITY), last),
        // Finite weights whose products are not.
        (model::with_tensor(&file, "body.conv.0.weight", |index| f32::MAX / (1 + index % 3) as f32), "generated image"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_not_finite_is_refused_at_upload_with_the_tensor() {
    let server = Server::start().await;
    for (file, reason) in unusable() {
        let refused = upload(&server, file).await;
        refused.assert_problem(422, MODELS);
        assert!(refused.text("/detail").contains(reason), "{reason}: {}", refused.text("/detail"));
    }
    assert_eq!(server.get(MODELS).await.items(), 0);
    assert_eq!(upload(&server, model::small(32, 1)).await.status, 201);
}

/// Stores a model as a version without a self-test did.
async fn stored(server: &Server, file: Vec<u8>) -> String {
    let known = upload(server, model::small(32, 3)).await.text("/id").parse::<ModelId>().unwrap();
    let known = store::models::get(&server.state.stores.db, known).await.unwrap().unwrap();
    let blob = server.state.stores.blobs.put(file).await.unwrap();
    let model = Model { id: ModelId::new(), sha256: blob.sha256().clone(), ..known };
    store::models::create(&server.state.stores.db, &model, &[]).await.unwrap();
    model.id.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_model_that_is_not_finite_is_neither_promoted_nor_loaded() {
    let server = Server::start().await;
    let champion = server.promote(model::small(32, 1)).await;
    for (file, reason) in unusable() {
        let model = stored(&server, file).await;
        for alias in ["champion", "challenger"] {
            let refused = put(&server, alias, &model).await;
            refused.assert_problem(422, &format!("/v1/models/aliases/{alias}"));
            assert!(refused.text("/detail").contains(reason), "{reason}: {}", refused.text("/detail"));
        }
        classify(&server, &format!("?model={model}"), png(32, 32, 1)).await.assert_problem(422, PREDICTIONS);
        let loaded = server.post(&format!("/v2/repository/models/{model}/load"), json!({})).await;
        assert_eq!(loaded.status, 422, "{loaded:?}");
    }
    assert_eq!(server.get(CHAMPION).await.text("/id"), champion);
    assert_eq!(classify(&server, "", png(32, 32, 1)).await.text("/model/id"), champion);
}

/// The value of a counter.
async fn counted(server: &Server, name: &str) -> u64 {
    let text = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the counter is exposed");
    line.parse().unwrap()
}

const NOT_FINITE: &str = "thorax_predictions_not_finite_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_not_finite_is_a_500_and_never_a_prediction() {
    let server = Server::start().await;
    server.promote(model::overflowing_on_chequers()).await;
    let (good, bad) = (png(32, 32, 1), encode(32, 32, &model::chequers()));
    assert_eq!(classify(&server, "", good.clone()).await.status, 200);
    for query in ["", "?explain=true", "?model=champion"] {
        let failed = classify(&server, query, bad.clone()).await;
        failed.assert_problem(500, PREDICTIONS);
        assert!(failed.at("/probabilities").is_null() && failed.at("/prediction").is_null(), "{failed:?}");
    }
    assert_eq!(counted(&server, NOT_FINITE).await, 3);

    // Beside others in a form, and in a batch.
    let (content_type, form) = multipart(&[Part::File("a", &good), Part::File("b", &bad), Part::File("c", &good)]);
    let several = server.request("POST", PREDICTIONS, &content_type, form).await;
    assert_eq!(several.status, 200, "{several:?}");
    assert_eq!(several.at("/items/1/problem/status"), json!(500), "{several:?}");
    assert!(several.at("/items/1/prediction").is_null());
    for item in ["/items/0/prediction", "/items/2/prediction"] {
        assert!(several.at(item).is_object(), "{several:?}");
    }

    // The Open Inference Protocol.
    let input = json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 1, 32, 32], "data": model::chequers()});
    let inferred = server.post("/v2/models/champion/infer", json!({ "inputs": [input] })).await;
    assert_eq!((inferred.status, inferred.at("/outputs")), (500, Value::Null), "{inferred:?}");

    // A prediction job.
    let dataset = server.dataset("drawn").await;
    for file in [&good, &bad] {
        assert_eq!(server.upload(&dataset, &[Part::File("a.png", file)]).await.status, 201);
    }
    let job = server.post("/v1/prediction-jobs", json!({ "dataset_id": dataset })).await;
    let job = ended(&server, job.header("location")).await;
    assert_eq!((job.text("/status"), job.at("/answered"), job.at("/failed")), ("succeeded".into(), json!(1), json!(1)));
    let results = server.get(&format!("/v1/prediction-jobs/{}/results", job.text("/id"))).await;
    let lines = String::from_utf8(results.bytes).unwrap();
    let failed: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&failed["prediction"], &failed["probabilities"]), (&Value::Null, &Value::Null), "{failed}");
    assert!(failed["problem"].as_str().unwrap().contains("no finite result"), "{failed}");
    assert_eq!(failed["sha256"], json!(Sha256::of(&bad).to_string()));

    assert_eq!(counted(&server, NOT_FINITE).await, 6);
    server.state.serving.log.flush().await;
    assert_eq!(server.get(PREDICTIONS).await.items(), 3, "one alone, two of the form");
}

async fn ended(server: &Server, job: &str) -> TestResponse {
    for _ in 0..600 {
        let shown = server.get(job).await;
        if shown.at("/finished_at").is_string() {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{job} did not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_the_challenger_that_is_not_finite_is_counted_and_not_compared() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let challenger = upload(&server, model::overflowing_on_chequers()).await.text("/id");
    assert_eq!(put(&server, "challenger", &challenger).await.status, 200);
    assert_eq!(classify(&server, "", encode(32, 32, &model::chequers())).await.status, 200);
    assert_eq!(classify(&server, "", png(32, 32, 1)).await.status, 200);
    let path = format!("/v1/models/{challenger}/live");
    for _ in 0..200 {
        if server.get(&path).await.at("/shadow/compared") == json!(1) {
            assert_eq!(counted(&server, NOT_FINITE).await, 1);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the challenger never compared the other image: {:?}", server.get(&path).await);
}
