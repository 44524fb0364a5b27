//! Metrics of predictions, from admission to response.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{Label, SECONDS};

/// Stage of a prediction, for latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Decoding of a file to grey levels; once per image.
    Decode,
    /// Resizing to the model's input size; once per image.
    Resize,
    /// Waiting for the engine; once per image.
    Queue,
    /// Forward pass of the network; once per batch.
    Inference,
}

/// Outcome of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Classified.
    Answered,
    /// Refused with 429: too many concurrent requests.
    Refused,
    /// The client disconnected before inference started.
    Abandoned,
    /// Inference failed, or no model was loaded.
    Failed,
}

/// Metrics of predictions; cheap to clone.
#[derive(Clone, Debug)]
pub struct Predictions {
    outcomes: Family<Label, Counter>,
    stages: Family<Label, Histogram, fn() -> Histogram>,
    batch_size: Histogram,
    model_loads: Family<Label, Counter>,
    models_loaded: Gauge,
    unrecorded: Counter,
    not_finite: Counter,
    in_flight: Gauge,
    in_flight_limit: Gauge,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Decode, Self::Resize, Self::Queue, Self::Inference];

    fn label(self) -> Label {
        let name = match self {
            Self::Decode => "decode",
            Self::Resize => "resize",
            Self::Queue => "queue",
            Self::Inference => "inference",
        };
        [("stage", name)]
    }
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Answered, Self::Refused, Self::Abandoned, Self::Failed];

    fn label(self) -> Label {
        let name = match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Failed => "failed",
        };
        [("outcome", name)]
    }
}

/// Label of the outcome of a model load.
fn loaded(succeeded: bool) -> Label {
    [("outcome", if succeeded { "succeeded" } else { "failed" })]
}

impl Predictions {
    /// Creates all series at zero, so that each is visible before its first event.
    pub fn new(max_in_flight: usize) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let predictions = Self {
            outcomes: Family::default(),
            stages: Family::new_with_constructor(histogram),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            model_loads: Family::default(),
            models_loaded: Gauge::default(),
            unrecorded: Counter::default(),
            not_finite: Counter::default(),
            in_flight: Gauge::default(),
            in_flight_limit: Gauge::default(),
        };
        predictions.in_flight_limit.set(max_in_flight.try_into().unwrap_or(i64::MAX));
        Outcome::ALL.into_iter().for_each(|outcome| drop(predictions.outcomes.get_or_create(&outcome.label())));
        Stage::ALL.into_iter().for_each(|stage| drop(predictions.stages.get_or_create(&stage.label())));
        [true, false].into_iter().for_each(|is| drop(predictions.model_loads.get_or_create(&loaded(is))));
        predictions
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self {
            outcomes,
            stages,
            batch_size,
            model_loads,
            models_loaded,
            unrecorded,
            not_finite,
            in_flight,
            in_flight_limit,
        } = self.clone();
        registry.register("thorax_predictions", "Predictions of one image each, by outcome", outcomes);
        registry.register(
            "thorax_prediction_stage_duration_seconds",
            "Duration of each prediction stage: decode, resize and queue per image, inference per batch",
            stages,
        );
        registry.register("thorax_prediction_batch_size", "Images per inference batch", batch_size);
        registry.register(
            "thorax_predictions_in_flight",
            "Prediction requests in progress, and further images of these being processed",
            in_flight.clone(),
        );
        registry.register(
            "thorax_predictions_in_flight_limit",
            "Maximum of thorax_predictions_in_flight (THORAX_MAX_CONCURRENT_REQUESTS)",
            in_flight_limit.clone(),
        );
        // Names up to 0.1: they promised a queue length. Removed in 0.3.
        registry.register("thorax_prediction_queue_depth", "Deprecated: use thorax_predictions_in_flight", in_flight);
        registry.register(
            "thorax_prediction_queue_capacity",
            "Deprecated: use thorax_predictions_in_flight_limit",
            in_flight_limit,
        );
        registry.register(
            "thorax_predictions_unrecorded",
            "Predictions that could not be recorded: the disk was full or too slow, or the database refused the record",
            unrecorded,
        );
        registry.register(
            "thorax_predictions_not_finite",
            "Images without a prediction, because the network computed a number that is not finite for them",
            not_finite,
        );
        registry.register("thorax_models_loaded", "Loaded models", models_loaded);
        registry.register("thorax_model_loads", "Model loads, by outcome", model_loads);
    }

    /// Counts a finished prediction.
    pub fn ended(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&outcome.label()).inc();
    }

    /// Number of predictions with this outcome.
    #[cfg(test)]
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get_or_create(&outcome.label()).get()
    }

    /// Records the duration of a stage.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&stage.label()).observe(took.as_secs_f64());
    }

    /// Records the size of an inference batch.
    pub fn batch(&self, images: usize) {
        self.batch_size.observe(images as f64);
    }

    /// Counts a model load.
    pub fn model_load(&self, succeeded: bool) {
        self.model_loads.get_or_create(&loaded(succeeded)).inc();
    }

    /// Counts a prediction that could not be recorded.
    pub fn unrecorded(&self) {
        self.unrecorded.inc();
    }

    /// Number of predictions that could not be recorded.
    #[cfg(test)]
    pub(crate) fn unrecorded_count(&self) -> u64 {
        self.unrecorded.get()
    }

    /// Counts an image for which the network computed a number that is not finite.
    pub fn not_finite(&self) {
        self.not_finite.inc();
    }

    /// Sets the number of loaded models.
    pub fn models_loaded(&self, count: usize) {
        self.models_loaded.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a request into flight.
    pub fn entered(&self) {
        self.in_flight.inc();
    }

    /// Counts a request out of flight.
    pub fn left(&self) {
        self.in_flight.dec();
    }
}
