//! Models, their aliases and predictions over HTTP.

use std::time::Instant;

use image::{DynamicImage, ImageFormat};
use jpeg_encoder::{ColorType, Encoder};
use serde_json::{Value, json};
use sqlx::Connection;
use thorax::{
    inference::{Engine, EngineConfig},
    metrics::Metrics,
    nn::DeviceChoice,
};

use crate::support::{MAX_UPLOAD_BYTES, Part, Server, TestResponse, assert_close, bomb, model, multipart, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const PREDICTIONS: &str = "/v1/predictions";
const CHAMPION: &str = "/v1/models/aliases/champion";

#[tokio::test]
async fn without_a_model_predictions_return_503_with_retry_after() {
    let server = Server::start().await;
    let response = classify(&server, png(48, 48, 1)).await;
    response.assert_problem(503, PREDICTIONS);
    assert!(!response.header("retry-after").is_empty());
    assert_eq!(server.get("/health/ready").await.status, 503);
    server.get(CHAMPION).await.assert_problem(404, CHAMPION);
}

#[tokio::test]
async fn an_uploaded_model_is_shown_and_downloads_byte_for_byte() {
    let server = Server::start().await;
    let file = model::small(32, 1);
    let made = upload_model(&server, "?name=mine", file.clone()).await;
    assert_eq!((made.status, made.text("/name"), made.at("/synthetic")), (201, "mine".into(), json!(false)));
    let model = server.get(made.header("location")).await;
    assert_eq!(model.at("/spec/image_size"), json!(32));
    let weights = server.get(&format!("{}/weights", made.header("location"))).await;
    assert_eq!((weights.status, weights.bytes == file), (200, true));
    assert_eq!(weights.header("etag"), format!("\"{}\"", model.text("/sha256")));
    assert_eq!(server.get("/v1/models").await.items(), 1);
}

#[tokio::test]
async fn rejects_files_that_are_not_models() {
    let server = Server::start().await;
    upload_model(&server, "", b"not a model".to_vec()).await.assert_problem(422, "/v1/models");
    let file = model::small(32, 1);
    upload_model(&server, "", file[..file.len() / 2].to_vec()).await.assert_problem(422, "/v1/models");
    upload_model(&server, "?name=", file.clone()).await.assert_problem(422, "/v1/models");
    server.request("POST", "/v1/models", "text/plain", file).await.assert_problem(415, "/v1/models");
    assert_eq!(server.get("/v1/models").await.items(), 0);
}

#[tokio::test]
async fn an_alias_points_to_an_existing_model_and_protects_it() {
    let server = Server::start().await;
    let id = server.promote(model::small(32, 1)).await;
    assert_eq!(server.get(CHAMPION).await.text("/id"), id);
    let nobody = put_champion(&server, NOBODY).await;
    assert_eq!((nobody.status, nobody.pointers()), (422, vec!["/model_id".into()]));
    let path = "/v1/models/aliases/Not-One";
    let body = json!({ "model_id": id }).to_string();
    server.request("PUT", path, "application/json", body.into()).await.assert_problem(422, path);
    let path = format!("/v1/models/{id}");
    server.delete(&path).await.assert_problem(409, &path);
    let other = upload_model(&server, "", model::small(32, 2)).await.header("location").to_owned();
    assert_eq!(server.delete(&other).await.status, 204);
    server.get(&other).await.assert_problem(404, &other);
}

#[tokio::test]
async fn a_champion_that_cannot_be_loaded_leaves_the_previous_one_serving() {
    let server = Server::start().await;
    let id = server.promote(model::small(32, 1)).await;
    let broken = upload_model(&server, "", model::small(32, 2)).await;
    let hash = broken.text("/sha256").try_into().unwrap();
    std::fs::write(server.state.stores.blobs.path(&hash), b"damaged").unwrap();
    assert_eq!(put_champion(&server, &broken.text("/id")).await.status, 500);
    assert_eq!(server.get(CHAMPION).await.text("/id"), id);
    assert_eq!(classify(&server, png(48, 48, 1)).await.text("/model/id"), id);
}

#[tokio::test]
async fn a_prediction_has_class_model_timing_and_notice_and_is_recorded() {
    let server = Server::start().await;
    let id = server.promote(model::small(32, 1)).await;
    let response = classify(&server, png(48, 48, 1)).await;
    assert_eq!(
        (response.status, response.text("/model/id"), response.text("/model/alias")),
        (200, id, "champion".into())
    );
    assert_is_distribution(&response);
    assert!(response.text("/notice").to_lowercase().contains("research"), "{}", response.text("/notice"));
    assert!(response.at("/timing/inference_ms").as_f64().unwrap() > 0.0);
    let recorded = server.get(&format!("{PREDICTIONS}/{}", response.text("/id"))).await;
    assert_eq!(recorded.at("/probabilities"), response.at("/probabilities"));
    assert_eq!(server.get(PREDICTIONS).await.text("/items/0/id"), response.text("/id"));
}

#[tokio::test]
async fn a_form_returns_one_result_or_one_per_file() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let (good, bad) = (png(48, 48, 1), b"no image".to_vec());
    let alone = form(&server, &[Part::File("a.png", &good)]).await;
    assert_eq!(alone.at("/probabilities"), classify(&server, good.clone()).await.at("/probabilities"));
    let parts = [Part::File("a.png", &good), Part::File("b.png", &bad), Part::File("c.png", &good)];
    let several = form(&server, &parts).await;
    assert_eq!((several.status, several.items()), (200, 3));
    assert_eq!(
        (several.text("/items/1/file_name"), several.at("/items/1/problem/status")),
        ("b.png".into(), json!(415))
    );
    // Files share batches, and the last digit depends on the batch.
    assert_close(&several.at("/items/2/prediction/probabilities"), &alone.at("/probabilities"));
    form(&server, &[]).await.assert_problem(422, PREDICTIONS);
    form(&server, &[Part::Text("label", "normal")]).await.assert_problem(422, PREDICTIONS);
}

#[tokio::test]
async fn reads_every_kind_of_png_and_jpeg() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let grey = image::load_from_memory(&png(48, 48, 1)).unwrap();
    let kinds: [DynamicImage; 5] = [
        grey.to_luma8().into(),
        grey.to_luma16().into(),
        grey.to_rgb8().into(),
        grey.to_rgba8().into(),
        grey.to_rgb16().into(),
    ];
    let expected = classify(&server, png(48, 48, 1)).await.text("/prediction");
    for kind in kinds {
        let response = classify(&server, encoded(&kind)).await;
        assert_eq!((response.status, response.text("/prediction")), (200, expected.clone()), "{:?}", kind.color());
    }
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, 90).encode(grey.to_luma8().as_raw(), 48, 48, ColorType::Luma).unwrap();
    assert_eq!(server.request("POST", PREDICTIONS, "image/jpeg", jpeg).await.status, 200);
}

#[tokio::test]
async fn rejects_unusable_images_before_decoding_them() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let text = b"a text file named scan.png".to_vec();
    classify(&server, text.clone()).await.assert_problem(415, PREDICTIONS);
    server.request("POST", PREDICTIONS, "text/plain", text).await.assert_problem(415, PREDICTIONS);
    let whole = png(48, 48, 1);
    classify(&server, whole[..whole.len() / 2].to_vec()).await.assert_problem(422, PREDICTIONS);
    classify(&server, png(8, 8, 1)).await.assert_problem(422, PREDICTIONS);
    let started = Instant::now();
    classify(&server, bomb(60_000, 60_000)).await.assert_problem(413, PREDICTIONS);
    assert!(started.elapsed().as_secs() < 5, "a bomb was decoded");
    classify(&server, vec![0; MAX_UPLOAD_BYTES + 1]).await.assert_problem(413, PREDICTIONS);
    assert_eq!(server.get(PREDICTIONS).await.items(), 0);
}

#[tokio::test]
async fn the_requested_model_serves_and_no_other_is_substituted() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let other = upload_model(&server, "", model::small(32, 2)).await.text("/id");
    let request = async |model: &str| {
        server.request("POST", &format!("{PREDICTIONS}?model={model}"), "image/png", png(48, 48, 1)).await
    };
    assert_eq!(request("champion").await.status, 200);
    let response = request(&other).await;
    assert_eq!((response.status, response.text("/model/id")), (200, other));
    request(NOBODY).await.assert_problem(404, PREDICTIONS);
    request("nobody").await.assert_problem(404, PREDICTIONS);
}

#[tokio::test]
async fn a_full_queue_returns_429_and_then_drains() {
    let server = Server::with(|state, _| {
        let engine =
            EngineConfig { max_concurrent_requests: 1, max_batch_size: 1, max_batch_delay_ms: 0, max_loaded_models: 1 };
        state.serving.engine = Engine::start(engine, DeviceChoice::Cpu.open(None).unwrap().0);
        state.telemetry.metrics = Metrics::new(state.serving.engine.metrics().clone());
    })
    .await;
    server.promote(model::small(32, 1)).await;
    let answers = futures_util::future::join_all((0..16).map(|_| classify(&server, png(640, 640, 1)))).await;
    let refused = answers.iter().filter(|response| response.status == 429).collect::<Vec<_>>();
    assert!(!refused.is_empty() && refused.len() < 16, "{} of 16 refused", refused.len());
    for response in &refused {
        response.assert_problem(429, PREDICTIONS);
        assert!(!response.header("retry-after").is_empty());
    }
    assert_eq!(refused.len() + answers.iter().filter(|response| response.status == 200).count(), 16);
    assert_eq!(classify(&server, png(48, 48, 1)).await.status, 200);
}

#[tokio::test]
async fn concurrent_clients_get_the_same_results_as_sequential_ones() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let (a, b) = (classify(&server, png(48, 48, 1)).await, classify(&server, png(64, 64, 90)).await);
    let (c, d) = tokio::join!(classify(&server, png(48, 48, 1)), classify(&server, png(64, 64, 90)));
    for (alone, together) in [(a, c), (b, d)] {
        assert_close(&together.at("/probabilities"), &alone.at("/probabilities"));
    }
}

#[tokio::test]
async fn a_promotion_that_cannot_be_recorded_leaves_the_old_champion_in_service() {
    let server = Server::start().await;
    let old = server.promote(model::small(32, 1)).await;
    let new = upload_model(&server, "", model::small(32, 2)).await.text("/id");
    let database = server.folder.path().join("data/thorax.sqlite");
    let mut other = sqlx::SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    put_champion(&server, &new).await.assert_problem(503, CHAMPION);
    sqlx::query("rollback").execute(&mut other).await.unwrap();
    assert_eq!(server.get(CHAMPION).await.text("/id"), old);
    let prediction = classify(&server, png(48, 48, 1)).await;
    assert_eq!((prediction.status, prediction.text("/model/id")), (200, old));
    assert_eq!(server.delete(&format!("/v1/models/{new}")).await.status, 204);
    assert_eq!(classify(&server, png(48, 48, 1)).await.status, 200);
}

#[tokio::test]
async fn a_model_that_is_promoted_and_deleted_at_once_is_either_champion_or_gone() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    for seed in 2..10 {
        let id = upload_model(&server, "", model::small(32, seed)).await.text("/id");
        let path = format!("/v1/models/{id}");
        let (promoted, deleted) = tokio::join!(put_champion(&server, &id), server.delete(&path));
        let outcomes = [(200, 409), (422, 204)];
        assert!(outcomes.contains(&(promoted.status, deleted.status)), "{promoted:?} {deleted:?}");
        let champion = server.get(CHAMPION).await.text("/id");
        assert_eq!(champion == id, promoted.status == 200);
        let prediction = classify(&server, png(48, 48, 1)).await;
        assert_eq!((prediction.status, prediction.text("/model/id")), (200, champion), "{prediction:?}");
    }
}

#[tokio::test]
async fn an_upload_to_a_data_set_that_is_deleted_at_once_is_stored_or_refused() {
    let server = Server::start().await;
    for shade in 0..10 {
        let dataset = server.dataset(&format!("set {shade}")).await;
        let (path, image) = (format!("/v1/datasets/{dataset}"), png(48, 48, shade));
        let parts = [Part::Text("label", "normal"), Part::File("a.png", &image)];
        let (uploaded, deleted) = tokio::join!(server.upload(&dataset, &parts), server.delete(&path));
        assert!([201, 207, 404, 409].contains(&uploaded.status), "{uploaded:?}");
        assert!(!uploaded.json().to_string().contains("\"status\":500"), "{uploaded:?}");
        assert!([204, 409].contains(&deleted.status), "{deleted:?}");
    }
}

/// Asserts that the probabilities sum to 1 and that the prediction is the most probable class.
fn assert_is_distribution(response: &TestResponse) {
    let probabilities = response.at("/probabilities");
    let values: Vec<f64> = probabilities.as_object().unwrap().values().map(|p| p.as_f64().unwrap()).collect();
    assert!(values.len() == 3 && (values.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{probabilities}");
    let highest = values.iter().copied().fold(0.0, f64::max);
    assert_eq!(probabilities[response.text("/prediction")], json!(highest));
}

fn encoded(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

async fn classify(server: &Server, image: Vec<u8>) -> TestResponse {
    server.request("POST", PREDICTIONS, "image/png", image).await
}

async fn form(server: &Server, parts: &[Part<'_>]) -> TestResponse {
    let (content_type, body) = multipart(parts);
    server.request("POST", PREDICTIONS, &content_type, body).await
}

async fn upload_model(server: &Server, query: &str, file: Vec<u8>) -> TestResponse {
    server.request("POST", &format!("/v1/models{query}"), "application/octet-stream", file).await
}

async fn put_champion(server: &Server, id: &str) -> TestResponse {
    let body: Value = json!({ "model_id": id });
    server.request("PUT", CHAMPION, "application/json", body.to_string().into()).await
}
