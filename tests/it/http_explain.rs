//! Explained predictions over HTTP: the location of the explanation, its cost, and requests without one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Part, Server, TestResponse, encode, model, multipart, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const EXPLAINED: &str = "/v1/predictions?explain=true";

/// Side of the generated images.
const SIDE: usize = 64;

#[tokio::test]
async fn an_explanation_has_a_grid_a_link_and_a_caveat_and_is_computed_only_on_request() {
    let server = Server::start().await;
    server.promote(model::small(SIDE as u32, 1)).await;
    let plain = post(&server, "/v1/predictions", png(96, 48, 1)).await;
    assert_eq!((plain.status, plain.at("/heatmap")), (200, Value::Null));
    let path = format!("/v1/predictions/{}/heatmap", plain.text("/id"));
    server.get(&path).await.assert_problem(404, &path);

    let response = post(&server, EXPLAINED, png(96, 48, 1)).await;
    assert_eq!((response.status, response.at("/probabilities")), (200, plain.at("/probabilities")));
    assert_eq!(
        (response.text("/heatmap/method"), response.text("/heatmap/class")),
        ("grad-cam".into(), response.text("/prediction"))
    );
    assert_eq!((response.at("/heatmap/rows"), response.at("/heatmap/columns")), (json!(8), json!(8)));
    let values = grid(&response);
    assert!(values.len() == 64 && values.iter().all(|value| (0.0..=1.0).contains(value)), "{values:?}");
    assert!(response.text("/heatmap/caveat").contains("not where the disease is"));

    let overlay = server.get(&response.text("/heatmap/href")).await;
    assert_eq!((overlay.status, overlay.header("content-type")), (200, "image/png"));
    let overlay = image::load_from_memory(&overlay.bytes).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (96, 48), "as the image was, not as the network saw it");
}

#[tokio::test]
async fn explains_each_file_of_a_form_and_rejects_a_malformed_parameter() {
    let server = Server::start().await;
    server.promote(model::small(SIDE as u32, 1)).await;
    let (content_type, body) = multipart(&[
        Part::File("a.png", &png(48, 48, 1)),
        Part::File("b.png", b"no image"),
        Part::File("c.png", &png(64, 48, 9)),
    ]);
    let several = server.request("POST", EXPLAINED, &content_type, body).await;
    for item in [0, 2] {
        let path = several.text(&format!("/items/{item}/prediction/heatmap/href"));
        assert_eq!(server.get(&path).await.status, 200);
    }
    assert_eq!(several.at("/items/1/problem/status"), json!(415));
    post(&server, "/v1/predictions?explain=perhaps", png(48, 48, 1)).await.assert_problem(400, "/v1/predictions");
    for id in [NOBODY, "no-id"] {
        let path = format!("/v1/predictions/{id}/heatmap");
        server.get(&path).await.assert_problem(404, &path);
    }
}

#[tokio::test]
async fn keeps_only_the_last_128_overlays() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let image = png(32, 32, 1);
    let first = post(&server, EXPLAINED, image.clone()).await.text("/heatmap/href");
    let second = post(&server, EXPLAINED, image.clone()).await.text("/heatmap/href");
    for _ in 0..127 {
        post(&server, EXPLAINED, image.clone()).await;
    }
    server.get(&first).await.assert_problem(404, &first);
    assert_eq!(server.get(&second).await.status, 200);
}

/// Adebayo et al. 2018 (arXiv:1810.03292): an explanation that does not depend on the weights explains nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_follows_the_finding_and_changes_with_randomised_weights() {
    let server = Server::start().await;
    train_on_blobs(&server).await;
    let places: Vec<(usize, usize)> = vec![(12, 12), (12, 44), (44, 12), (44, 44), (28, 12), (28, 44)];
    let mut learnt = Vec::new();
    for (seed, &(top, left)) in (900..).zip(&places) {
        let response = post(&server, EXPLAINED, generated_image(seed, Some((top, left)))).await;
        assert_eq!(response.text("/prediction"), "pneumonia", "{}", response.json());
        let values = grid(&response);
        let strongest = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        let (row, column) = (strongest / 8, strongest % 8);
        let near = |cell: usize, start: usize| (cell * 8 + 4).abs_diff(start + BLOB / 2) <= 10;
        assert!(
            near(row, top) && near(column, left),
            "blob at {top}, {left}; strongest in {row}, {column}: {values:?}"
        );
        // The same finding on another background has the same explanation.
        let again = grid(&post(&server, EXPLAINED, generated_image(seed + 50, Some((top, left)))).await);
        assert!(correlation(&values, &again) > 0.8, "at {top}, {left}: {}", correlation(&values, &again));
        learnt.push(values);
    }
    let elsewhere = correlation(&learnt[0], &learnt[3]);
    assert!(elsewhere < 0.3, "two findings far apart have explanations that correlate by {elsewhere}");

    let mut agreement = Vec::new();
    for seed in 0..4 {
        server.promote(model::small(SIDE as u32, seed)).await;
        for (index, &place) in places.iter().enumerate() {
            let random = grid(&post(&server, EXPLAINED, generated_image(900 + index as u32, Some(place))).await);
            agreement.push(correlation(&learnt[index], &random));
        }
    }
    let mean = agreement.iter().sum::<f64>() / agreement.len() as f64;
    println!("correlation with explanations of random weights: mean {mean:.2} of {agreement:.2?}");
    assert!(mean < 0.5, "randomised weights explain the same: {agreement:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_adds_at_most_half_to_the_time_of_a_prediction() {
    let server = Server::start().await;
    server.promote(model::resnet(224, 1)).await;
    let image = png(1000, 900, 3);
    let (mut plain, mut explained) = (Vec::new(), Vec::new());
    for round in 0..24 {
        for (path, times) in [("/v1/predictions", &mut plain), (EXPLAINED, &mut explained)] {
            let started = Instant::now();
            assert_eq!(post(&server, path, image.clone()).await.status, 200);
            // The first predictions warm up the caches.
            if round >= 3 {
                times.push(started.elapsed());
            }
        }
    }
    let (plain, explained) = (median(plain), median(explained));
    let ratio = explained.as_secs_f64() / plain.as_secs_f64();
    println!(
        "ResNet-50 at 224 px, median of 21, interleaved: plain {plain:.1?}, explained {explained:.1?}, ratio {ratio:.3}"
    );
    assert!(ratio <= 1.5, "{ratio}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn post(server: &Server, path: &str, image: Vec<u8>) -> TestResponse {
    server.request("POST", path, "image/png", image).await
}

fn grid(response: &TestResponse) -> Vec<f64> {
    let values = response.at("/heatmap/values");
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Pearson correlation; 0 where one of them is constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(a), centred(b));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = (product(&a, &a) * product(&b, &b)).sqrt();
    if size > 0.0 { product(&a, &b) / size } else { 0.0 }
}

/// Side of a generated finding.
const BLOB: usize = 12;

/// An image of noise. A finding, given by its top and left, is a bright square.
fn generated_image(seed: u32, finding: Option<(usize, usize)>) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8 / 4
    };
    let inside = |(top, left): (usize, usize), i: usize| {
        (top..top + BLOB).contains(&(i / SIDE)) && (left..left + BLOB).contains(&(i % SIDE))
    };
    let pixels: Vec<u8> = (0..SIDE * SIDE)
        .map(|i| noise() + if finding.is_some_and(|place| inside(place, i)) { 180 } else { 30 })
        .collect();
    encode(SIDE as u32, SIDE as u32, &pixels)
}

/// Trains the small network on images with a bright square at a random place (`pneumonia`) and without one (`normal`), and promotes it to
/// champion.
async fn train_on_blobs(server: &Server) {
    let made = server.post("/v1/datasets", json!({"name": "blobs", "classes": ["normal", "pneumonia"]})).await;
    let dataset = made.text("/id");
    for seed in 0..96_u32 {
        let place = ((seed * 7 % 48) as usize, (seed * 29 % 48) as usize);
        let (label, finding) = if seed % 2 == 0 { ("normal", None) } else { ("pneumonia", Some(place)) };
        let split = if seed < 80 { "train" } else { "test" };
        let patient = format!("patient-{seed}");
        let (name, image) = (format!("{seed}.png"), generated_image(seed, finding));
        let parts = [
            Part::Text("label", label),
            Part::Text("split", split),
            Part::Text("patient_id", &patient),
            Part::File(&name, &image),
        ];
        let uploaded = server.upload(&dataset, &parts).await;
        assert_eq!((uploaded.status, uploaded.text("/items/0/status")), (201, "created".into()), "{uploaded:?}");
    }
    let stages = json!([{"image_size": SIDE, "steps": [{"scope": "all", "learning_rate": 1e-3, "epochs": 12}]}]);
    let plan = json!({"batch_size": 8, "dropout": 0.0, "selection": {"split": "test", "metric": "accuracy"}, "stages": stages});
    let run = server
        .post("/v1/training-runs", json!({"dataset_id": dataset, "recipe": "simple-cnn", "seed": 1, "plan": plan}))
        .await;
    assert_eq!(run.status, 202, "{run:?}");
    let worker = server.train();
    let model = server.model_of(run.header("location")).await;
    worker.shutdown().await;
    let body = json!({ "model_id": model }).to_string().into();
    assert_eq!(server.request("PUT", "/v1/models/aliases/champion", "application/json", body).await.status, 200);
}
