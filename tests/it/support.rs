//! A server without a port for each test: it has its own folder and database, and requests are function calls.

pub mod dicom;
pub mod model;
pub mod sources;

use std::{path::Path, sync::Arc};

use axum::{Router, body::Body};
use burn::tensor::Device;
use http_body_util::BodyExt;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde_json::{Value, json};
use tempfile::TempDir;
use thorax::{
    dataset::PatientIds,
    http::{
        Access, AppState, ClientAddress, EventStreams, Pace, Quotas, Site, Telemetry, TransferLimits, Transfers, router,
    },
    inference::{Engine, EngineConfig},
    metrics::{Metrics, Traces},
    nn::DeviceChoice,
    service::{Intake, JobQueue, Lifecycle, Limits, Serving, TrainingControl},
    store::Stores,
    worker::{self, LiveBatches, WorkerContext, WorkerHandle},
};
use tokio::sync::Notify;
use tower::ServiceExt;

pub const MAX_UPLOAD_BYTES: usize = 256 * 1024;
pub const MAX_PIXELS: u64 = 1_000_000;

/// Limits on bodies that no test reaches by chance.
pub fn transfer_limits() -> TransferLimits {
    let minute = std::time::Duration::from_secs(60);
    TransferLimits {
        body_pace: Pace { allowance: minute, min_bytes_per_second: 1, max_wait: minute },
        read_pause: minute,
        max_json_bytes: 1 << 20,
        max_form_parts: 1000,
        max_memory_bytes: 64 << 20,
        max_spool_bytes: 1 << 30,
    }
}

/// A server and its data folder.
pub struct Server {
    pub state: AppState,
    pub folder: TempDir,
    router: Router,
}

/// A complete response.
#[derive(Debug)]
pub struct TestResponse {
    pub status: u16,
    pub headers: axum::http::HeaderMap,
    pub bytes: Vec<u8>,
}

/// One part of a multipart form.
pub enum Part<'a> {
    File(&'a str, &'a [u8]),
    Text(&'a str, &'a str),
}

impl Server {
    pub async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    /// A server whose state is changed before it starts; the path is its folder.
    pub async fn with(change: impl FnOnce(&mut AppState, &Path)) -> Self {
        // A result that depends on the contents of a new buffer must be wrong.
        thorax_kernels::memory::poison_buffers();
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let stores = Stores::open(&data).await.unwrap();
        let engine =
            EngineConfig { max_concurrent_requests: 4, max_batch_size: 2, max_batch_delay_ms: 0, max_loaded_models: 2 };
        let engine = Engine::start(engine, Device::default());
        let mut state = AppState {
            stores: stores.clone(),
            telemetry: Telemetry { metrics: Metrics::new(engine.metrics().clone()), traces: Traces::default() },
            serving: Serving::new(engine, stores.db.clone(), 1.0, None),
            training: TrainingControl {
                queued: Arc::new(Notify::new()),
                batches: LiveBatches::new(),
                devices: Arc::from([]),
            },
            intake: Intake {
                import_root: None,
                dicomweb_dataset: Arc::from("pushed"),
                patient_ids: PatientIds::new(*b"the key of the tests"),
                keep_file_names: false,
            },
            jobs: JobQueue::new(&data),
            transfers: Transfers::new(transfer_limits(), Arc::from(data.as_path())),
            limits: Limits { max_upload_bytes: MAX_UPLOAD_BYTES, max_pixels: MAX_PIXELS },
            lifecycle: Lifecycle::default(),
            access: Access::default(),
            site: Site::default(),
            quotas: Quotas::default(),
            event_streams: EventStreams::default(),
        };
        change(&mut state, folder.path());
        let router = router(state.clone());
        Self { state, folder, router }
    }

    /// The same server after a restart: with its data and engine, without requests in flight.
    pub async fn again(self) -> Self {
        let Self { mut state, folder, .. } = self;
        state.lifecycle = Lifecycle::default();
        let router = router(state.clone());
        Self { state, folder, router }
    }

    pub async fn request(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> TestResponse {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Sends a POST request with an `Accept` header.
    pub async fn request_as(&self, path: &str, content_type: &str, accept: &str, body: Vec<u8>) -> TestResponse {
        let request = axum::http::Request::post(path).header("content-type", content_type).header("accept", accept);
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Uploads a model, promotes it to champion, and returns its identifier.
    pub async fn promote(&self, file: Vec<u8>) -> String {
        let id = self.request("POST", "/v1/models", "application/octet-stream", file).await.text("/id");
        let body = json!({ "model_id": id }).to_string().into();
        let promoted = self.request("PUT", "/v1/models/aliases/champion", "application/json", body).await;
        assert_eq!((promoted.status, promoted.at("/aliases")), (200, json!(["champion"])), "{promoted:?}");
        id
    }

    /// Queues a run of the small network at 32 pixels on generated images. Returns its path.
    pub async fn queue(&self, epochs: u32) -> String {
        let dataset = self.dataset("drawn").await;
        self.fill(&dataset, "train", 0, 2).await;
        self.fill(&dataset, "test", 100, 1).await;
        let stages = json!([{"image_size": 32, "steps": [{"scope": "all", "learning_rate": 0.01, "epochs": epochs}]}]);
        let selection = json!({"split": "test", "metric": "accuracy"});
        let plan = json!({"batch_size": 2, "selection": selection, "stages": stages});
        let body = json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": plan});
        let run = self.post("/v1/training-runs", body).await;
        assert_eq!(run.status, 202, "{run:?}");
        run.header("location").to_owned()
    }

    /// A worker on the server's data, on the CPU.
    pub fn train(&self) -> WorkerHandle {
        let (device, device_info) = DeviceChoice::Cpu.open(None).unwrap();
        let state = self.state.clone();
        worker::start(WorkerContext {
            max_yield: std::time::Duration::from_millis(20),
            batches: state.training.batches,
            metrics: state.telemetry.metrics.training,
            wake: state.training.queued,
            ..WorkerContext::idle(state.stores, device, device_info, MAX_PIXELS)
        })
    }

    /// Waits until a run has succeeded and returns its model.
    pub async fn model_of(&self, run: &str) -> String {
        for _ in 0..1200 {
            let shown = self.get(run).await;
            match shown.text("/status").as_str() {
                "succeeded" => {
                    return self.get(&format!("/v1/models?run_id={}", shown.text("/id"))).await.text("/items/0/id");
                }
                "failed" | "cancelled" => panic!("{}", shown.json()),
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
        panic!("{run} did not end in a minute");
    }

    /// Sends a GET request with an `Accept` header.
    pub async fn accept(&self, path: &str, media_type: &str) -> TestResponse {
        let request = axum::http::Request::builder().uri(path).header("accept", media_type);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// The body of a response; an error if it is truncated.
    pub async fn body(&self, request: axum::http::Request<Body>) -> Result<Vec<u8>, axum::Error> {
        let response = self.open(request).await;
        response.into_body().collect().await.map(|body| body.to_bytes().to_vec())
    }

    /// Waits for the end of background tasks.
    pub async fn settle(&self) {
        self.state.lifecycle.tasks.close();
        self.state.lifecycle.tasks.wait().await;
        self.state.lifecycle.tasks.reopen();
    }

    /// The response with its body not yet read.
    pub async fn open(&self, request: axum::http::Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(received(request)).await.unwrap()
    }

    pub async fn send(&self, request: axum::http::Request<Body>) -> TestResponse {
        let (parts, body) = self.open(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        TestResponse { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> TestResponse {
        self.request("GET", path, "", Vec::new()).await
    }

    /// Sends a GET request with the given `Accept` header.
    pub async fn get_as(&self, path: &str, accept: &str) -> TestResponse {
        let request = axum::http::Request::builder().uri(path).header("accept", accept).body(Body::empty());
        self.send(request.unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> TestResponse {
        self.request("DELETE", path, "", Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> TestResponse {
        self.request("POST", path, "application/json", body.to_string().into()).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> TestResponse {
        self.request("PATCH", path, "application/json", body.to_string().into()).await
    }

    pub async fn upload(&self, dataset: &str, parts: &[Part<'_>]) -> TestResponse {
        let (content_type, body) = multipart(parts);
        self.request("POST", &format!("/v1/datasets/{dataset}/radiographs"), &content_type, body).await
    }

    /// Creates a data set with the default classes and returns its identifier.
    pub async fn dataset(&self, name: &str) -> String {
        let response = self.post("/v1/datasets", json!({ "name": name })).await;
        assert_eq!(response.status, 201, "{response:?}");
        response.text("/id")
    }

    /// Uploads `count` generated radiographs of each class to `split`; `first` distinguishes them from others.
    pub async fn fill(&self, dataset: &str, split: &str, first: u8, count: u8) {
        for (class, label) in (0u8..).zip(["normal", "pneumonia", "COVID-19"]) {
            for i in 0..count {
                let image = png(48, 48, first + class * count + i);
                let file_name = format!("{split}-{label}-{i}.png");
                let patient = format!("{split}-{label}-patient-{i}");
                let parts = [
                    Part::Text("label", label),
                    Part::Text("split", split),
                    Part::Text("patient_id", &patient),
                    Part::File(&file_name, &image),
                ];
                let response = self.upload(dataset, &parts).await;
                assert_eq!(
                    (response.status, response.text("/items/0/status")),
                    (201, "created".into()),
                    "{response:?}"
                );
            }
        }
    }
}

/// The request as a server on loopback receives it: with a host, and with the client's address, unless the test sets them.
pub fn received(mut request: axum::http::Request<Body>) -> axum::http::Request<Body> {
    let loopback = ClientAddress(std::net::Ipv4Addr::LOCALHOST.into());
    request.extensions_mut().get_or_insert(loopback);
    request.headers_mut().entry("host").or_insert(axum::http::HeaderValue::from_static("127.0.0.1:8080"));
    request
}

impl TestResponse {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The value at a JSON pointer; null if there is none.
    pub fn at(&self, pointer: &str) -> Value {
        self.json().pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// The text at a JSON pointer.
    pub fn text(&self, pointer: &str) -> String {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("no text at {pointer} of {}", self.json())).into()
    }

    /// Number of items of a list.
    pub fn items(&self) -> usize {
        self.at("/items").as_array().map_or(0, Vec::len)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Pointers of the invalid fields in a problem document, in order.
    pub fn pointers(&self) -> Vec<String> {
        let errors = self.at("/errors").as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }

    /// Asserts the status and the shape of a problem document about `path`.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, path: &str) {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!((self.at("/status"), self.text("/instance")), (json!(status), path.to_owned()));
        assert!(self.text("/type").starts_with("/problems/") && !self.text("/title").is_empty());
        assert!(!self.text("/detail").is_empty(), "{}", self.json());
        assert!(!self.header("x-request-id").is_empty());
    }
}

/// A grey PNG with a gradient that begins at `shade`: different shades are different bytes.
pub fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height).map(|i| shade.wrapping_add((i % width) as u8)).collect();
    encode(width, height, &pixels)
}

/// A grey PNG.
pub fn encode(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(pixels, width, height, ExtendedColorType::L8).unwrap();
    bytes
}

/// A PNG of a few bytes whose header promises `width` x `height` pixels.
pub fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(48, 48, 0);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The CRC of a PNG chunk (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A form and its content type.
pub fn multipart(parts: &[Part<'_>]) -> (String, Vec<u8>) {
    let boundary = "a-boundary-of-the-tests";
    let mut body = Vec::new();
    for part in parts {
        let (disposition, content) = match part {
            Part::File(name, bytes) => (format!("name=\"file\"; filename=\"{name}\""), *bytes),
            Part::Text(name, text) => (format!("name=\"{name}\""), text.as_bytes()),
        };
        let head = format!("--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// Asserts that probabilities are equal up to rounding.
#[track_caller]
pub fn assert_close(found: &Value, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(found.as_object().map(serde_json::Map::len), Some(expected.len()), "{found}");
    for (class, probability) in expected {
        let apart = found[class].as_f64().unwrap() - probability.as_f64().unwrap();
        assert!(apart.abs() < 1e-5, "{class}: {found}");
    }
}
