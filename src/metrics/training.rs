//! Metrics of the running training run.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Label;

/// Gauge that is NaN while its value is unknown.
type FloatGauge = Gauge<f64, AtomicU64>;

/// Metrics of the running training run. Values are NaN while no run is training, because a stale last value would look like a run.
#[derive(Clone, Debug)]
pub struct Training {
    running: Gauge,
    loss: FloatGauge,
    images_per_second: FloatGauge,
    eta: FloatGauge,
    progress: FloatGauge,
    ended: Family<Label, Counter>,
}

/// Final states; each series starts at zero.
const FINAL_STATES: [&str; 3] = ["succeeded", "failed", "cancelled"];

impl Training {
    /// Creates the metrics while no run is training.
    pub fn idle() -> Self {
        let (loss, images_per_second, eta, progress) = Default::default();
        let training =
            Self { running: Gauge::default(), loss, images_per_second, eta, progress, ended: Family::default() };
        training.clear();
        FINAL_STATES.into_iter().for_each(|state| drop(training.ended.get_or_create(&[("state", state)])));
        training
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { running, loss, images_per_second, eta, progress, ended } = self.clone();
        registry.register("thorax_training_running", "1 while a run is training, else 0", running);
        registry.register("thorax_training_loss", "Loss of the last batch; NaN while no run is training", loss);
        registry.register(
            "thorax_training_images_per_second",
            "Training images per second in the current epoch; NaN while no run is training",
            images_per_second,
        );
        registry.register(
            "thorax_training_eta_seconds",
            "Estimated time to the end of the run; NaN without an estimate and while no run is training",
            eta,
        );
        registry.register(
            "thorax_training_progress_ratio",
            "Completed share of the epochs of the run, 0 to 1; NaN while no run is training",
            progress,
        );
        registry.register("thorax_training_runs_ended", "Finished runs, by final state", ended);
    }

    /// Marks the start of a run.
    pub fn started(&self) {
        self.clear();
        self.running.set(1);
    }

    /// Sets the loss of the last batch.
    pub fn batch(&self, loss: f64) {
        self.loss.set(loss);
    }

    /// Sets progress, throughput and estimated remaining time.
    pub fn progress(&self, fraction: f64, images_per_second: f64, eta_seconds: Option<f64>) {
        self.progress.set(fraction);
        self.images_per_second.set(images_per_second);
        self.eta.set(eta_seconds.unwrap_or(f64::NAN));
    }

    /// Marks that no run is training.
    pub fn stopped(&self) {
        self.clear();
        self.running.set(0);
    }

    /// Counts a finished run by its final state.
    pub fn ended(&self, state: &'static str) {
        self.ended.get_or_create(&[("state", state)]).inc();
    }

    fn clear(&self) {
        for gauge in [&self.loss, &self.images_per_second, &self.eta, &self.progress] {
            gauge.set(f64::NAN);
        }
    }
}
