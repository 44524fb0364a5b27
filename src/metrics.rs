//! Prometheus metrics: name, help text, labels and buckets of each. Modules record into them and `/metrics` renders them.
//! Label values come from fixed lists and route templates, never from client input, so that the number of series is bounded.

mod connections;
mod predictions;
mod process;
mod requests;
mod resources;
mod traces;
mod training;

use std::sync::Arc;

use prometheus_client::{encoding::prometheus_text, registry::Registry};

pub use connections::{Closed, Connections};
pub use predictions::{Outcome, Predictions, Stage};
pub use process::process_memory;
pub use requests::{InFlight, Requests};
pub use resources::{PoolUsage, Resources};
pub use traces::{RequestSpan, Traces};
pub use training::Training;

/// Label set with one label, whose value comes from a fixed list.
type Label = [(&'static str, &'static str); 1];

/// Histogram buckets for durations, in seconds: from 0.5 ms (inference of a small network) to 10 s (wait in a full queue).
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Metrics of a server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Connections and TLS.
    pub connections: Connections,
    /// HTTP requests.
    pub requests: Requests,
    /// Predictions.
    pub predictions: Predictions,
    /// The running training run.
    pub training: Training,
    /// Memory and database connections, read on each scrape.
    pub resources: Resources,
    registry: Arc<Registry>,
}

impl Metrics {
    /// Registers all metrics; `predictions` is the set that the inference engine already records into.
    pub fn new(predictions: Predictions) -> Self {
        let (connections, requests) = (Connections::new(), Requests::new());
        let (training, resources) = (Training::idle(), Resources::new());
        let mut registry = Registry::default();
        connections.register(&mut registry);
        requests.register(&mut registry);
        predictions.register(&mut registry);
        training.register(&mut registry);
        resources.register(&mut registry);
        Self { connections, requests, predictions, training, resources, registry: Arc::new(registry) }
    }

    /// The Prometheus text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// None in practice: the text is written to memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
