//! Several loaded models, the challenger, live statistics and feedback over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Part, Server, TestResponse, assert_close, model, multipart, png};

const PREDICTIONS: &str = "/v1/predictions";
const CHALLENGER: &str = "/v1/models/aliases/challenger";
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn classify(server: &Server, query: &str, shade: u8) -> TestResponse {
    server.request("POST", &format!("{PREDICTIONS}{query}"), "image/png", png(48, 48, shade)).await
}

async fn upload(server: &Server, seed: u64) -> String {
    server.request("POST", "/v1/models", "application/octet-stream", model::small(32, seed)).await.text("/id")
}

async fn put(server: &Server, path: &str, body: Value) -> TestResponse {
    server.request("PUT", path, "application/json", body.to_string().into()).await
}

async fn live(server: &Server, model: &str) -> TestResponse {
    let response = server.get(&format!("/v1/models/{model}/live")).await;
    assert_eq!(response.status, 200, "{response:?}");
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_a_named_model_alongside_the_champion() {
    let server = Server::start().await;
    let champion = server.promote(model::small(32, 1)).await;
    let others = [upload(&server, 2).await, upload(&server, 3).await];
    let plain = classify(&server, "", 1).await;
    assert_eq!(plain.text("/model/id"), champion);
    // The limit is two loaded models: each of the others evicts the other one and is loaded again.
    for (round, other) in others.iter().cycle().take(4).enumerate() {
        let response = classify(&server, &format!("?model={other}"), 1).await;
        assert_eq!((response.status, response.text("/model/id")), (200, other.clone()), "round {round}");
        assert_ne!(response.at("/probabilities"), plain.at("/probabilities"));
        assert_close(&classify(&server, "?model=champion", 1).await.at("/probabilities"), &plain.at("/probabilities"));
    }
    let loaded = |id: &str| server.state.serving.engine.is_loaded(id.parse().unwrap());
    assert!(loaded(&champion) && loaded(&others[1]) && !loaded(&others[0]));
    // Concurrently: a model that is evicted meanwhile is loaded once more.
    let [one, other] = others.each_ref().map(|id| format!("?model={id}"));
    let (one, other) = tokio::join!(classify(&server, &one, 1), classify(&server, &other, 1));
    assert!([&one, &other].iter().all(|response| matches!(response.status, 200 | 409)), "{one:?} {other:?}");
    assert_eq!(classify(&server, &format!("?model={NOBODY}"), 1).await.status, 404);
    assert_eq!(server.delete(&format!("/v1/models/{}", others[1])).await.status, 204);
    assert!(!loaded(&others[1]), "a model that is removed is let go of");
}

#[tokio::test]
async fn a_damaged_model_file_is_not_loaded_and_the_champion_keeps_serving() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let broken = server.request("POST", "/v1/models", "application/octet-stream", model::small(32, 2)).await;
    std::fs::write(server.state.stores.blobs.path(&broken.text("/sha256").try_into().unwrap()), b"damaged").unwrap();
    assert_eq!(classify(&server, &format!("?model={}", broken.text("/id")), 1).await.status, 500);
    let challenger = put(&server, CHALLENGER, json!({"model_id": broken.text("/id")})).await;
    assert_eq!((challenger.status, server.get(CHALLENGER).await.status), (500, 404));
    assert_eq!(classify(&server, "", 1).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenger_is_compared_with_the_champion_and_disagreement_reported() {
    let server = Server::start().await;
    let champion = server.promote(model::small(32, 1)).await;
    let challenger = upload(&server, 2).await;
    assert_eq!(put(&server, CHALLENGER, json!({"model_id": challenger})).await.status, 200);
    let (mut served, mut own) = (Vec::new(), Vec::new());
    for shade in 0..12 {
        served.push(classify(&server, "", shade).await);
        own.push(classify(&server, &format!("?model={challenger}"), shade).await.text("/prediction"));
    }
    let shadow = compared(&server, &challenger, 12).await;
    let agreed = served.iter().zip(&own).filter(|(served, own)| served.text("/prediction") == **own).count();
    assert_eq!(shadow.at("/shadow/agreed"), json!(agreed));
    let expected = (12 - agreed) as f64 / 12.0;
    assert!((shadow.at("/shadow/disagreement").as_f64().unwrap() - expected).abs() < 1e-9);
    let pairs: u64 =
        shadow.at("/shadow/pairs").as_array().unwrap().iter().map(|pair| pair["count"].as_u64().unwrap()).sum();
    assert_eq!(pairs, 12);
    let newest = shadow.at("/shadow/newest").as_array().unwrap().len();
    assert_eq!(newest, 12 - agreed);
    assert_eq!(live(&server, &champion).await.at("/shadow/compared"), json!(0));
    assert_eq!(live(&server, &challenger).await.at("/predictions"), json!(12), "only the requests of its own clients");

    assert_eq!(server.delete(CHALLENGER).await.status, 204);
    server.delete(CHALLENGER).await.assert_problem(404, CHALLENGER);
    server.delete("/v1/models/aliases/champion").await.assert_problem(409, "/v1/models/aliases/champion");
    classify(&server, "", 99).await;
    // The next challenger's comparison is recorded after any of the removed one, because the engine and the log keep the order.
    let next = upload(&server, 3).await;
    assert_eq!(put(&server, CHALLENGER, json!({"model_id": next})).await.status, 200);
    classify(&server, "", 100).await;
    compared(&server, &next, 1).await;
    assert_eq!(live(&server, &challenger).await.at("/shadow/compared"), json!(12));
}

/// The live statistics once the challenger has classified all images of its share.
async fn compared(server: &Server, challenger: &str, count: u64) -> TestResponse {
    for _ in 0..200 {
        let response = live(server, challenger).await;
        if response.at("/shadow/compared") == json!(count) {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the challenger never caught up: {:?}", live(server, challenger).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_statistics_report_traffic_classes_latency_and_drift_by_the_hour() {
    let server = Server::start().await;
    let run = server.queue(1).await;
    let worker = server.train();
    let trained = server.model_of(&run).await;
    worker.shutdown().await;
    assert_eq!(put(&server, "/v1/models/aliases/champion", json!({"model_id": trained})).await.status, 200);
    let mut classes = std::collections::BTreeMap::<String, u64>::new();
    for shade in 0..20 {
        *classes.entry(classify(&server, "", shade).await.text("/prediction")).or_default() += 1;
    }
    let response = live(&server, &trained).await;
    assert_eq!((response.at("/predictions"), response.at("/classes")), (json!(20), json!(classes)));
    let number = |pointer: &str| response.at(pointer).as_f64().unwrap_or_else(|| panic!("{pointer}: {response:?}"));
    assert!(number("/latency/p50_ms") > 0.0 && number("/latency/p50_ms") <= number("/latency/p99_ms"));
    assert!((1.0 / 3.0 - 0.02..=1.0).contains(&number("/confidence/mean")));
    assert!(number("/confidence/p10") <= number("/confidence/p50"));
    assert_eq!(response.at("/drift/trained_images"), json!(6), "the training images, and no others");
    let drift = response.at("/drift/statistics");
    assert_eq!(drift.as_array().unwrap().len(), 6);
    assert_eq!((&drift[0]["verdict"], &drift[0]["psi"]), (&json!("too-few"), &Value::Null), "{drift}");
    let hours = response.at("/hours").as_array().unwrap().clone();
    assert!((1..=2).contains(&hours.len()));
    assert_eq!(hours.iter().map(|hour| hour["predictions"].as_u64().unwrap()).sum::<u64>(), 20);
    // The statistics of the training images remain when the images are deleted.
    let dataset = server.get(&run).await.text("/dataset_id");
    assert_eq!(server.delete(&format!("/v1/datasets/{dataset}")).await.status, 204);
    assert_eq!(live(&server, &trained).await.at("/drift/trained_images"), json!(6));

    let uploaded = upload(&server, 2).await;
    let unknown = live(&server, &uploaded).await;
    assert_eq!((unknown.at("/predictions"), unknown.at("/latency")), (json!(0), Value::Null));
    assert_eq!((unknown.at("/drift/trained_images"), unknown.at("/drift/statistics")), (json!(0), json!([])));
    let path = format!("/v1/models/{NOBODY}/live");
    server.get(&path).await.assert_problem(404, &path);
    for hours in ["0", "745", "x"] {
        assert_eq!(server.get(&format!("/v1/models/{trained}/live?hours={hours}")).await.status, 400, "{hours}");
    }
}

#[tokio::test]
async fn feedback_is_stored_counted_and_withdrawn() {
    let server = Server::start().await;
    let model = server.promote(model::small(32, 1)).await;
    let served = classify(&server, "", 1).await;
    let path = format!("{PREDICTIONS}/{}", served.text("/id"));
    let feedback = format!("{path}/feedback");
    assert_eq!(server.get(&path).await.at("/feedback"), Value::Null);
    let said = put(&server, &feedback, json!({"label": served.text("/prediction").to_uppercase()})).await;
    assert_eq!((said.status, said.text("/feedback")), (200, served.text("/prediction")), "as the model writes it");
    assert_eq!(live(&server, &model).await.at("/feedback/agreed"), json!(1));
    let other = ["normal", "pneumonia"].into_iter().find(|class| *class != served.text("/prediction")).unwrap();
    put(&server, &feedback, json!({"label": other})).await;
    let shown = live(&server, &model).await;
    let pair = json!([{"said": served.text("/prediction"), "other": other, "count": 1}]);
    assert_eq!((shown.at("/feedback/agreed"), shown.at("/feedback/pairs")), (json!(0), pair));
    assert_eq!(shown.at("/feedback/disagreement"), json!(1.0));
    assert!(server.get(&path).await.at("/feedback_at").is_string());
    assert_eq!(put(&server, &feedback, json!({"label": null})).await.at("/feedback"), Value::Null);
    assert_eq!(live(&server, &model).await.at("/feedback/compared"), json!(0));
    let wrong = put(&server, &feedback, json!({"label": "a cold"})).await;
    assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/label".into()]));
    let nobody = format!("{PREDICTIONS}/{NOBODY}/feedback");
    put(&server, &nobody, json!({"label": "normal"})).await.assert_problem(404, &nobody);
}

#[tokio::test]
async fn feedback_with_the_image_adds_it_to_a_data_set() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let served = classify(&server, "", 1).await;
    let dataset = server.dataset("confirmed").await;
    let feedback = format!("{PREDICTIONS}/{}/feedback", served.text("/id"));
    let image = png(48, 48, 1);
    let send = async |parts: &[Part<'_>]| {
        let (content_type, body) = multipart(parts);
        server.request("PUT", &feedback, &content_type, body).await
    };
    let (label, into, other) = (Part::Text("label", "pneumonia"), Part::Text("dataset_id", &dataset), png(48, 48, 2));
    let file = Part::File("a.png", &image);
    let wrong = send(&[label, into, Part::File("a.png", &other)]).await;
    assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/file".into()]), "another image");
    let (label, into) = (Part::Text("label", "pneumonia"), Part::Text("dataset_id", NOBODY));
    let wrong = send(&[label, into, Part::File("a.png", &image)]).await;
    assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/dataset_id".into()]));
    let wrong = send(&[Part::Text("label", "pneumonia"), Part::File("a.png", &image)]).await;
    assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/dataset_id".into()]));
    let list = format!("/v1/datasets/{dataset}/radiographs");
    assert_eq!(server.get(&list).await.items(), 0);
    assert_eq!(server.get(&format!("{PREDICTIONS}/{}", served.text("/id"))).await.at("/feedback"), Value::Null);

    let (label, into) = (Part::Text("label", "pneumonia"), Part::Text("dataset_id", &dataset));
    let said = send(&[label, into, file, Part::Text("split", "train"), Part::Text("patient_id", "p1")]).await;
    assert_eq!((said.status, said.text("/feedback")), (200, "pneumonia".into()), "{said:?}");
    let there = server.get(&list).await;
    assert_eq!((there.items(), there.text("/items/0/label")), (1, "pneumonia".into()));
    assert_eq!(
        (there.text("/items/0/split"), there.text("/items/0/sha256")),
        ("train".into(), hash_of(&server, &served).await)
    );
}

async fn hash_of(server: &Server, served: &TestResponse) -> String {
    server.get(&format!("{PREDICTIONS}/{}", served.text("/id"))).await.text("/input_sha256")
}
