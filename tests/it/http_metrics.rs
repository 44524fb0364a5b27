//! `/metrics` as a Prometheus server reads it, and the Grafana dashboard that queries it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use openmetrics_parser::{PrometheusType, prometheus::parse_prometheus};
use serde_json::{Value, json};

use crate::support::{Server, model, png};

const PREDICTIONS: &str = "/v1/predictions";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn metrics_of_requests_and_predictions_parse_as_openmetrics() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    for shade in 0..3 {
        assert_eq!(classify(&server, png(48, 48, shade)).await, 200);
    }
    assert_eq!(classify(&server, b"no image".to_vec()).await, 415);
    let measured = Measured::of(&server).await;
    let route =
        |status| format!(r#"thorax_http_requests_total{{method="POST",route="/v1/predictions",status="{status}"}}"#);
    assert_eq!((measured.value(&route(200)), measured.value(&route(415))), (3.0, 1.0));
    assert_eq!(
        measured.value(r#"thorax_http_request_duration_seconds_count{method="POST",route="/v1/predictions"}"#),
        4.0
    );
    assert_eq!(measured.value("thorax_http_requests_in_flight"), 1.0, "the request for the metrics");
    assert_eq!(measured.value(r#"thorax_predictions_total{outcome="answered"}"#), 3.0);
    let stage =
        |part, stage| measured.value(&format!(r#"thorax_prediction_stage_duration_seconds_{part}{{stage="{stage}"}}"#));
    assert_eq!(["decode", "resize", "queue", "inference"].map(|name| stage("count", name)), [3.0; 4]);
    assert!(stage("sum", "inference") > 0.0);
    assert_eq!(measured.value("thorax_prediction_batch_size_sum"), 3.0);
    assert_eq!(measured.value(r#"thorax_prediction_batch_size_bucket{le="1"}"#), 3.0);
    assert_eq!(
        (measured.value("thorax_predictions_in_flight"), measured.value("thorax_predictions_in_flight_limit")),
        (0.0, 4.0)
    );
    assert_eq!(
        (measured.value("thorax_prediction_queue_depth"), measured.value("thorax_prediction_queue_capacity")),
        (0.0, 4.0),
        "the deprecated names"
    );
    assert_eq!(measured.value(r#"thorax_model_loads_total{outcome="succeeded"}"#), 1.0);
    assert_eq!(measured.value(r#"thorax_sqlite_pool_size{pool="writer"}"#), 1.0);
    assert_eq!(measured.value(r#"thorax_sqlite_pool_max{pool="readers"}"#), 4.0);
    assert!(measured.value("process_resident_memory_bytes") > 1e6);
}

#[tokio::test]
async fn each_metric_family_has_type_help_and_a_conventional_name() {
    let server = Server::start().await;
    server.get("/health/live").await;
    let measured = Measured::of(&server).await;
    for (name, kind, help) in &measured.families {
        assert!(!help.is_empty(), "{name}");
        assert!(name.starts_with("thorax_") || name == "process_resident_memory_bytes", "{name}");
        assert_eq!(name.ends_with("_total"), *kind == PrometheusType::Counter, "{name}");
    }
    let kinds = |wanted| measured.families.iter().filter(|(_, kind, _)| *kind == wanted).count();
    assert_eq!((kinds(PrometheusType::Histogram), kinds(PrometheusType::Unknown)), (3, 0));
}

#[tokio::test]
async fn training_metrics_exist_only_while_a_run_trains() {
    let server = Server::start().await;
    let idle = Measured::of(&server).await;
    assert_eq!(idle.value("thorax_training_running"), 0.0);
    assert!(idle.value("thorax_training_loss").is_nan());
    let run = server.queue(1000).await;
    let worker = server.train();
    let shows = |measured: &Measured| {
        let known =
            ["loss", "images_per_second", "eta_seconds"].map(|name| measured.value(&format!("thorax_training_{name}")));
        known.iter().all(|value| *value > 0.0) && measured.value("thorax_training_running") == 1.0
    };
    measured_once(&server, shows).await;
    assert_eq!(server.post(&format!("{run}/cancel"), json!({})).await.status, 202);
    let ended = r#"thorax_training_runs_ended_total{state="cancelled"}"#;
    measured_once(&server, |measured| measured.value(ended) == 1.0).await;
    measured_once(&server, |measured| measured.value("thorax_training_running") == 0.0).await;
    assert!(Measured::of(&server).await.value("thorax_training_loss").is_nan());
    worker.shutdown().await;
}

#[tokio::test]
async fn the_number_of_series_does_not_grow_with_request_paths() {
    let server = Server::start().await;
    // Each kind of response once.
    let request = async |from: u32, to: u32| {
        for i in from..to {
            let id = format!("01890a5d-ac96-774b-bcce-{i:012}");
            for path in [
                format!("/nothing/{i}"),
                format!("/v1/{i}"),
                format!("/v1/models/{id}"),
                format!("/v1/models/no-id-{i}"),
                format!("/v1/training-runs/{id}/events?after={i}"),
                format!("/v1/models/aliases/a{i}"),
                format!("/static/{i}.js"),
                format!("/docs/{i}"),
                format!("/v1/predictions?model=m{i}"),
            ] {
                server.get(&path).await;
                server.request("POST", &path, &format!("type/{i}"), Vec::new()).await;
                server.request(&format!("WORD{i}"), &path, "", Vec::new()).await;
            }
        }
        Measured::of(&server).await.series()
    };
    request(0, 2).await;
    let before = request(2, 4).await;
    assert_eq!(request(4, 60).await, before);
}

#[tokio::test]
async fn metrics_need_no_key_and_expose_no_names() {
    let server = Server::with(|state, _| state.access.admin_key = Some(Arc::from("a-key-of-the-tests"))).await;
    assert_eq!(server.get("/v1/models").await.status, 401);
    assert_eq!(
        Measured::of(&server)
            .await
            .value(r#"thorax_http_requests_total{method="GET",route="/v1/models",status="401"}"#),
        1.0
    );
    let open = Server::start().await;
    open.dataset("a-name-that-nobody-else-has").await;
    assert!(!Measured::of(&open).await.text.contains("a-name-that"));
}

#[tokio::test]
async fn the_grafana_dashboard_queries_only_existing_metrics() {
    let server = Server::start().await;
    server.get("/health/live").await;
    // As on a GPU; the CPU reports no device memory.
    server.state.telemetry.metrics.resources.device(1, 2);
    let measured = Measured::of(&server).await;
    let dashboard = server.get("/static/grafana.json").await;
    assert_eq!((dashboard.status, dashboard.header("content-type")), (200, "application/json"));
    let mut expressions = Vec::new();
    collect(&dashboard.json(), &mut expressions);
    assert!(expressions.len() > 10, "{expressions:?}");
    let there: BTreeSet<String> = measured.families.iter().flat_map(|(name, kind, _)| names_of(name, kind)).collect();
    let used: BTreeSet<String> = expressions.iter().flat_map(|expression| names_in(expression)).collect();
    assert!(used.is_subset(&there), "not there: {:?}", used.difference(&there));
    let shown = |name: &String| used.iter().any(|used| used.starts_with(name.as_str()));
    let current = measured.families.iter().filter(|(_, _, help)| !help.starts_with("Deprecated"));
    let left_out: Vec<_> = current.map(|(name, ..)| name).filter(|name| !shown(name)).collect();
    assert!(left_out.is_empty(), "measured and not on the dashboard: {left_out:?}");
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let undocumented: Vec<_> =
        measured.families.iter().filter(|(name, ..)| !reference.contains(&format!("`{name}`"))).collect();
    assert!(undocumented.is_empty(), "not in docs/metrics.md: {undocumented:?}");
}

/// A response of `/metrics`, read by a parser of the format.
struct Measured {
    text: String,
    families: Vec<(String, PrometheusType, String)>,
}

impl Measured {
    async fn of(server: &Server) -> Self {
        let response = server.get("/metrics").await;
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, "text/plain; version=0.0.4; charset=utf-8")
        );
        let text = String::from_utf8(response.bytes).unwrap();
        let parsed = parse_prometheus(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let families =
            parsed.families.into_values().map(|family| (family.family_name, family.family_type, family.help));
        Self { families: families.collect(), text }
    }

    fn value(&self, series: &str) -> f64 {
        let line = self.text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {}", self.text)).parse().unwrap()
    }

    /// Number of series.
    fn series(&self) -> usize {
        self.text.lines().filter(|line| !line.starts_with('#')).count()
    }
}

/// The first response that satisfies the condition.
async fn measured_once(server: &Server, holds: impl Fn(&Measured) -> bool) -> Measured {
    let began = Instant::now();
    loop {
        let measured = Measured::of(server).await;
        if holds(&measured) {
            return measured;
        }
        assert!(began.elapsed() < PATIENCE, "{}", measured.text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Names under which the series of a family are queried.
fn names_of(family: &str, kind: &PrometheusType) -> Vec<String> {
    match kind {
        PrometheusType::Histogram => ["bucket", "sum", "count"].map(|part| format!("{family}_{part}")).into(),
        _ => vec![family.to_owned()],
    }
}

/// All queries of a dashboard, including those of its variables.
fn collect(value: &Value, expressions: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" => expressions.push(text.clone()),
                    other => collect(other, expressions),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, expressions)),
        _ => {}
    }
}

/// Names of the metrics in a query.
fn names_in(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("thorax_") || word.starts_with("process_")).map(str::to_owned).collect()
}

async fn classify(server: &Server, image: Vec<u8>) -> u16 {
    server.request("POST", PREDICTIONS, "image/png", image).await.status
}
