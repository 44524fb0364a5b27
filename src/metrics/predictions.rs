//! Predictions, from admission to answer.

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

/// Where the time of a prediction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From bytes to grey levels, each image.
    Decode,
    /// To the side that the model takes, each image.
    Resize,
    /// Waiting for the engine, each image.
    Queue,
    /// The network, each batch.
    Inference,
}

/// What became of a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The network has answered.
    Answered,
    /// The queue was full (429).
    Refused,
    /// The client hung up before its turn; nothing was computed.
    Abandoned,
    /// The network failed, or there was none.
    Failed,
}

/// What is measured of predictions; cheap to clone.
#[derive(Clone, Debug)]
pub struct Predictions {
    outcomes: Family<Label, Counter>,
    stages: Family<Label, Histogram, fn() -> Histogram>,
    batch_size: Histogram,
    model_loads: Family<Label, Counter>,
    models_loaded: Gauge,
    unrecorded: Counter,
    queue_depth: Gauge,
    queue_capacity: Gauge,
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

/// Whether a model was loaded.
fn loaded(succeeded: bool) -> Label {
    [("outcome", if succeeded { "succeeded" } else { "failed" })]
}

impl Predictions {
    /// Nothing measured yet; every series is there from the start, at zero.
    pub fn new(queue_capacity: usize) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let predictions = Self {
            outcomes: Family::default(),
            stages: Family::new_with_constructor(histogram),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            model_loads: Family::default(),
            models_loaded: Gauge::default(),
            unrecorded: Counter::default(),
            queue_depth: Gauge::default(),
            queue_capacity: Gauge::default(),
        };
        predictions.queue_capacity.set(queue_capacity.try_into().unwrap_or(i64::MAX));
        Outcome::ALL.into_iter().for_each(|outcome| drop(predictions.outcomes.get_or_create(&outcome.label())));
        Stage::ALL.into_iter().for_each(|stage| drop(predictions.stages.get_or_create(&stage.label())));
        [true, false].into_iter().for_each(|is| drop(predictions.model_loads.get_or_create(&loaded(is))));
        predictions
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { outcomes, stages, batch_size, model_loads, models_loaded, unrecorded, queue_depth, queue_capacity } =
            self.clone();
        registry.register("thorax_predictions", "Predictions of one image each, by what became of them", outcomes);
        registry.register(
            "thorax_prediction_stage_duration_seconds",
            "Time of a prediction by stage; decode, resize and queue once an image, inference once a batch",
            stages,
        );
        registry.register("thorax_prediction_batch_size", "Images that the network took at once", batch_size);
        registry.register("thorax_prediction_queue_depth", "Requests for predictions that are inside", queue_depth);
        registry.register(
            "thorax_prediction_queue_capacity",
            "Requests for predictions that may be inside (THORAX_MAX_QUEUE)",
            queue_capacity,
        );
        registry.register(
            "thorax_predictions_unrecorded",
            "Predictions that were answered and not recorded, since the disk was full or too slow",
            unrecorded,
        );
        registry.register("thorax_models_loaded", "Models that are loaded", models_loaded);
        registry.register("thorax_model_loads", "Models that were to serve, by whether they were loaded", model_loads);
    }

    /// A prediction has come to its end.
    pub fn ended(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&outcome.label()).inc();
    }

    /// How many predictions came to this end.
    #[cfg(test)]
    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get_or_create(&outcome.label()).get()
    }

    /// A stage is over.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&stage.label()).observe(took.as_secs_f64());
    }

    /// The network takes so many images at once.
    pub fn batch(&self, images: usize) {
        self.batch_size.observe(images as f64);
    }

    /// A model was loaded, or could not be.
    pub fn model_load(&self, succeeded: bool) {
        self.model_loads.get_or_create(&loaded(succeeded)).inc();
    }

    /// A prediction was answered and is not recorded.
    pub fn unrecorded(&self) {
        self.unrecorded.inc();
    }

    /// So many models are loaded.
    pub fn models_loaded(&self, count: usize) {
        self.models_loaded.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// One more request inside.
    pub fn entered(&self) {
        self.queue_depth.inc();
    }

    /// One fewer.
    pub fn left(&self) {
        self.queue_depth.dec();
    }
}
