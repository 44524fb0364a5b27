//! The Open Inference Protocol over HTTP. `tests/triton` tests it with NVIDIA's client.

use std::sync::Arc;

use axum::body::Body;
use serde_json::{Value, json};

use crate::support::{MAX_UPLOAD_BYTES, Server, TestResponse, model, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const INFER: &str = "/v2/models/champion/infer";

#[tokio::test]
async fn a_server_without_a_model_is_live_and_not_ready() {
    let server = Server::start().await;
    let metadata = server.get("/v2").await;
    assert_eq!((metadata.status, metadata.text("/name")), (200, "thorax".into()));
    assert_eq!(metadata.at("/extensions"), json!(["binary_tensor_data", "model_repository"]));
    assert_eq!(server.get("/v2/health/live").await.at("/live"), json!(true));
    assert_error(&server.get("/v2/health/ready").await, 503, "no champion model");
    assert_error(&server.get("/v2/models/champion").await, 404, "model");
    assert_error(&server.get("/v2/nothing").await, 404, "path");
    assert_error(&server.post("/v2/health/live", json!({})).await, 405, "not allowed");
    assert_eq!(server.post("/v2/repository/index", json!({})).await.json(), json!([]));
    // A path that only begins with the same characters does not belong to the protocol.
    server.get("/v2x").await.assert_problem(404, "/v2x");
}

#[tokio::test]
async fn a_model_is_addressed_by_alias_or_id_and_describes_its_inputs() {
    let server = Server::start().await;
    let id = server.promote(model::small(32, 1)).await;
    assert_eq!(server.get("/v2/health/ready").await.at("/ready"), json!(true));
    for path in ["champion".to_owned(), id.clone(), format!("champion/versions/{id}"), format!("{id}/versions/{id}")] {
        let metadata = server.get(&format!("/v2/models/{path}")).await;
        assert_eq!((metadata.status, metadata.at("/versions")), (200, json!([id])));
        assert_eq!(metadata.text("/platform"), "thorax_safetensors");
        let tensors = |of: &str| -> Vec<(String, String, Value)> {
            let tensors = metadata.at(of);
            let text = |tensor: &Value, name: &str| tensor[name].as_str().unwrap().to_owned();
            let each = |tensor: &Value| (text(tensor, "name"), text(tensor, "datatype"), tensor["shape"].clone());
            tensors.as_array().unwrap().iter().map(each).collect()
        };
        let named = |name: &str, datatype: &str, shape| (name.to_owned(), datatype.to_owned(), shape);
        let any = json!([-1, -1, -1, -1]);
        let expected =
            [named("image", "BYTES", json!([-1])), named("uint8", "UINT8", any.clone()), named("fp32", "FP32", any)];
        assert_eq!(tensors("/inputs"), expected);
        let expected = [
            named("probabilities", "FP32", json!([-1, 3])),
            named("prediction", "BYTES", json!([-1])),
            named("prediction_id", "BYTES", json!([-1])),
            named("warnings", "BYTES", json!([-1])),
        ];
        assert_eq!(tensors("/outputs"), expected);
        let ready = server.get(&format!("/v2/models/{path}/ready")).await;
        assert_eq!((ready.status, ready.at("/ready")), (200, json!(true)));
    }
    for path in
        ["nobody".to_owned(), NOBODY.to_owned(), "champion/versions/1".into(), format!("champion/versions/{NOBODY}")]
    {
        for end in ["", "/ready"] {
            assert_error(&server.get(&format!("/v2/models/{path}{end}")).await, 404, "no such");
        }
    }
    assert_error(&server.post("/v2/models/champion/versions/1/infer", json!({"inputs": []})).await, 404, "version");
}

#[tokio::test]
async fn every_input_encoding_gives_the_result_of_a_plain_prediction() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let (file, levels) = (png(40, 32, 9), levels(40, 32, 9));
    let plain = server.request("POST", "/v1/predictions", "image/png", file.clone()).await;
    let classes = ["normal", "pneumonia", "COVID-19"];
    let expected = classes.map(|class| plain.at(&format!("/probabilities/{class}")).as_f64().unwrap());
    let colour: Vec<u8> = levels.iter().flat_map(|level| [*level; 3]).collect();
    let floats = |levels: &[u8]| -> Vec<f64> { levels.iter().map(|level| f64::from(*level)).collect() };
    let nested: Vec<&[u8]> = levels.chunks(40).collect();
    let inputs = [
        json!({"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(&file)]}),
        json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 1, 32, 40], "data": [[nested]]}),
        json!({"name": "uint8", "datatype": "UINT8", "shape": [1, 32, 40, 3], "data": colour}),
        json!({"name": "fp32", "datatype": "FP32", "shape": [1, 1, 32, 40], "data": floats(&levels)}),
        json!({"name": "fp32", "datatype": "FP32", "shape": [1, 3, 32, 40], "data": floats(&levels.repeat(3))}),
    ];
    for input in inputs {
        let response = server.post(INFER, json!({"id": "mine", "inputs": [input]})).await;
        assert_eq!((response.status, response.text("/id")), (200, "mine".into()), "{}", response.json());
        assert_eq!(
            (response.text("/model_name"), response.text("/model_version")),
            ("champion".into(), plain.text("/model/id"))
        );
        assert_eq!(response.text("/parameters/classes"), "normal,pneumonia,COVID-19");
        assert!(response.text("/parameters/notice").to_lowercase().contains("research"));
        assert_eq!(
            (response.at("/outputs/0/shape"), response.at("/outputs/0/datatype")),
            (json!([1, 3]), json!("FP32"))
        );
        for (index, expected) in expected.iter().enumerate() {
            let found = response.at(&format!("/outputs/0/data/{index}")).as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert_eq!(response.at("/outputs/1/data"), json!([plain.text("/prediction")]));
        let warnings = plain.at("/warnings");
        let details: Vec<&str> =
            warnings.as_array().unwrap().iter().map(|warning| warning["detail"].as_str().unwrap()).collect();
        assert_eq!(response.at("/outputs/3/data"), json!([details.join("; ")]));
        let recorded = server.get(&format!("/v1/predictions/{}", response.text("/outputs/2/data/0"))).await;
        assert_eq!((recorded.status, recorded.text("/prediction")), (200, plain.text("/prediction")));
    }
}

#[tokio::test]
async fn binary_tensors_are_read_and_written_after_the_json() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let files = [png(40, 32, 9), png(48, 48, 100), png(32, 64, 200)];
    let raw: Vec<u8> = files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes()[..], file].concat()).collect();
    let input =
        json!({"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": raw.len()}});
    let request = json!({"inputs": [input], "parameters": {"binary_data_output": true},
        "outputs": [{"name": "prediction"}, {"name": "probabilities"}, {"name": "prediction_id", "parameters": {"binary_data": false}}]});
    let response = infer_raw(&server, &request, &raw).await;
    assert_eq!((response.status, response.header("content-type")), (200, "application/octet-stream"));
    let length: usize = response.header("inference-header-content-length").parse().unwrap();
    let (header, tensors) = response.bytes.split_at(length);
    let header: Value = serde_json::from_slice(header).unwrap();
    assert_eq!((&header["outputs"][0]["name"], &header["outputs"][1]["shape"]), (&json!("prediction"), &json!([3, 3])));
    assert_eq!(header["outputs"][2]["data"].as_array().map(Vec::len), Some(3), "not raw: {header}");
    let size = |output: usize| header["outputs"][output]["parameters"]["binary_data_size"].as_u64().unwrap() as usize;
    assert_eq!(tensors.len(), size(0) + size(1));
    let (names, probabilities) = tensors.split_at(size(0));
    let mut names = names;
    for (index, file) in files.iter().enumerate() {
        let plain = server.request("POST", "/v1/predictions", "image/png", file.clone()).await;
        let length = u32::from_le_bytes(names[..4].try_into().unwrap()) as usize;
        assert_eq!(&names[4..][..length], plain.text("/prediction").as_bytes());
        names = &names[4 + length..];
        for (class, name) in ["normal", "pneumonia", "COVID-19"].iter().enumerate() {
            let found = f32::from_le_bytes(probabilities[4 * (3 * index + class)..][..4].try_into().unwrap());
            let expected = plain.at(&format!("/probabilities/{name}")).as_f64().unwrap();
            assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
    assert!(names.is_empty());
}

#[tokio::test]
async fn errors_have_the_form_of_the_protocol() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let good = json!({"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(&png(48, 48, 1))]});
    let with = |change: Value| {
        let mut input = good.clone();
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"inputs": [input]})
    };
    let wrong = [
        (json!({}), 400, "inputs"),
        (json!({"inputs": []}), 400, "one input"),
        (json!({"inputs": [good, good]}), 400, "one input"),
        (with(json!({"name": "pixels"})), 400, "unknown input"),
        (with(json!({"datatype": "FP32"})), 400, "BYTES"),
        (with(json!({"shape": [2]})), 400, "2 elements"),
        (with(json!({"data": ["?"]})), 400, "base64"),
        (with(json!({"data": [base64(b"no image")]})), 415, "PNG"),
        (with(json!({"data": [base64(&png(8, 8, 1))]})), 422, "decoded"),
        (with(json!({"parameters": {"shared_memory_region": "a"}})), 400, "shared memory"),
        (json!({"inputs": [good], "outputs": [{"name": "logits"}]}), 400, "unknown output"),
        (
            json!({"inputs": [good], "outputs": [{"name": "prediction", "parameters": {"classification": 2}}]}),
            400,
            "classification",
        ),
        (json!({"inputs": [good], "parameters": {"binary_data_output": "yes"}}), 400, "true or false"),
    ];
    for (request, status, words) in wrong {
        assert_error(&server.post(INFER, request).await, status, words);
    }
    assert_eq!(server.post(INFER, json!({"inputs": [good]})).await.status, 200);
    assert_error(&server.request("POST", INFER, "", vec![b' '; MAX_UPLOAD_BYTES + 1]).await, 413, "limit");
    assert_error(&server.request("POST", INFER, "", b"{".to_vec()).await, 400, "");
    assert_error(&infer_raw(&server, &json!({"inputs": [good]}), b"more").await, 400, "binary_data_size");
    assert_eq!(server.get("/v1/predictions").await.items(), 1, "only the valid request is recorded");
    // A request gets 429 while all permits are in use.
    let _places: Vec<_> = (0..4).map(|_| server.state.serving.engine.admit().unwrap()).collect();
    let busy = server.post(INFER, json!({"inputs": [good]})).await;
    assert_error(&busy, 429, "retry");
    assert!(!busy.header("retry-after").is_empty());
}

#[tokio::test]
async fn loading_and_unloading_change_the_served_models() {
    let server = Server::start().await;
    let first = server.promote(model::small(32, 1)).await;
    let second =
        server.request("POST", "/v1/models", "application/octet-stream", model::small(48, 2)).await.text("/id");
    let index = server.request("POST", "/v2/repository/index", "", Vec::new()).await.json();
    let entry = |name: &str, version: &str, state: &str| {
        let reason = if state == "READY" { "" } else { "not loaded" };
        json!({"name": name, "version": version, "state": state, "reason": reason})
    };
    let expected =
        [entry("champion", &first, "READY"), entry(&first, &first, "READY"), entry(&second, &second, "UNAVAILABLE")];
    assert_eq!(index, json!(expected));
    let image =
        json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(&png(48, 48, 1))]}]});
    let request = async |name: &str| server.post(&format!("/v2/models/{name}/infer"), image.clone()).await;
    assert_error(&request(&second).await, 409, "load");
    assert_error(&server.get(&format!("/v2/models/{second}/ready")).await, 409, "load");

    assert_eq!(server.post(&format!("/v2/repository/models/{second}/load"), json!({})).await.status, 200);
    assert_eq!((request(&second).await.status, request("champion").await.text("/model_version")), (200, first.clone()));
    assert_eq!(server.get("/v1/models/aliases/champion").await.text("/id"), first, "no alias was moved");
    let ready = server.post("/v2/repository/index", json!({"ready": true})).await.json();
    let ready_of = |id: &str, name: &str| entry(name, id, "READY");
    assert_eq!(ready, json!([ready_of(&first, "champion"), ready_of(&first, &first), ready_of(&second, &second)]));

    // Models are unloaded one by one; without the champion the server is not ready.
    let unload =
        async |name: &str| server.post(&format!("/v2/repository/models/{name}/unload"), json!({})).await.status;
    assert_eq!((unload(&second).await, request("champion").await.status), (200, 200));
    assert_error(&request(&second).await, 409, "load");
    assert_eq!(unload("champion").await, 200);
    assert_error(&request("champion").await, 409, "load");
    assert_eq!(server.get("/v2/health/ready").await.status, 503);
    server.request("POST", "/v1/predictions", "image/png", png(48, 48, 1)).await.assert_problem(503, "/v1/predictions");
    assert_eq!(server.request("POST", "/v2/repository/models/champion/load", "", Vec::new()).await.status, 200);
    assert_eq!(request("champion").await.status, 200);

    assert_eq!(unload("nobody").await, 404);
    let unload = "/v2/repository/models/champion/unload";
    assert_error(&server.request("POST", unload, "application/json", b"nothing".to_vec()).await, 400, "JSON");
    assert_eq!(request("champion").await.status, 200, "not unloaded");
    assert_eq!(server.post(unload, json!({"parameters": {"unload_dependents": true}})).await.status, 200);
    assert_error(&server.post("/v2/repository/models/nobody/load", json!({})).await, 404, "model");
    let config = json!({"parameters": {"config": "{}"}});
    assert_error(&server.post("/v2/repository/models/champion/load", config).await, 400, "config");
}

#[tokio::test]
async fn every_endpoint_but_the_probes_needs_the_key() {
    let server = Server::with(|state, _| state.access.admin_key = Some(Arc::from("a-long-enough-key"))).await;
    assert_eq!(server.get("/v2/health/live").await.status, 200);
    assert_error(&server.get("/v2/health/ready").await, 503, "no champion model");
    for path in ["/v2", "/v2/models/champion", "/v2/models/champion/ready"] {
        assert_error(&server.get(path).await, 401, "Bearer");
    }
    for path in [
        "/v2/models/champion/infer",
        "/v2/repository/index",
        "/v2/repository/models/champion/load",
        "/v2/repository/models/champion/unload",
    ] {
        assert_error(&server.post(path, json!({})).await, 401, "Bearer");
    }
    let request =
        axum::http::Request::get("/v2").header("authorization", "Bearer a-long-enough-key").body(Body::empty());
    assert_eq!(server.open(request.unwrap()).await.status(), 200);
}

/// Grey levels of the image that [`png`] generates.
fn levels(width: u32, height: u32, shade: u8) -> Vec<u8> {
    (0..width * height).map(|i| shade.wrapping_add((i % width) as u8)).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

async fn infer_raw(server: &Server, request: &Value, raw: &[u8]) -> TestResponse {
    let json = request.to_string();
    let request = axum::http::Request::post(INFER)
        .header("inference-header-content-length", json.len())
        .body(Body::from([json.as_bytes(), raw].concat()));
    server.send(request.unwrap()).await
}

#[track_caller]
fn assert_error(response: &TestResponse, status: u16, words: &str) {
    let text = String::from_utf8_lossy(&response.bytes);
    assert_eq!((response.status, response.header("content-type")), (status, "application/json"), "{text}");
    let error = response.json();
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(1), "{text}");
    assert!(error["error"].as_str().is_some_and(|error| error.contains(words)), "{text}");
}
