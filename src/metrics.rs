//! What is counted and measured, in the words of Prometheus: every name, its help, its labels and its buckets. The rooms write,
//! `/metrics` reads. Labels come from fixed lists and from the routes of the interface, never from what a client sends.

mod predictions;
mod process;
mod requests;
mod resources;
mod traces;
mod training;

use std::sync::Arc;

use prometheus_client::{encoding::prometheus_text, registry::Registry};

pub use predictions::{Outcome, Predictions, Stage};
pub use process::process_memory;
pub use requests::{InFlight, Requests};
pub use resources::{PoolUsage, Resources};
pub use traces::{ParentSpan, RequestSpan, Traces};
pub use training::Training;

/// One label with a value from a fixed list.
type Label = [(&'static str, &'static str); 1];

/// Upper bounds of durations, in seconds: half a millisecond, as a small network takes, to ten seconds, as one waits in a full queue.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All that a server measures; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Of HTTP.
    pub requests: Requests,
    /// Of the engine.
    pub predictions: Predictions,
    /// Of the run that trains.
    pub training: Training,
    /// Of memory and the database, set when they are asked for.
    pub resources: Resources,
    registry: Arc<Registry>,
}

impl Metrics {
    /// Beside what the engine measures already.
    pub fn new(predictions: Predictions) -> Self {
        let (requests, training, resources) = (Requests::new(), Training::idle(), Resources::new());
        let mut registry = Registry::default();
        requests.register(&mut registry);
        predictions.register(&mut registry);
        training.register(&mut registry);
        resources.register(&mut registry);
        Self { requests, predictions, training, resources, registry: Arc::new(registry) }
    }

    /// The Prometheus text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// Never in practice: text is written into memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
