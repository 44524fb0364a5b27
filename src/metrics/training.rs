//! The run that trains.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Label;

/// A number that is unknown now and then.
type Known = Gauge<f64, AtomicU64>;

/// What is measured of the run that trains; NaN while there is none, for a last value that stays would look like a run.
#[derive(Clone, Debug)]
pub struct Training {
    running: Gauge,
    loss: Known,
    images_per_second: Known,
    eta: Known,
    progress: Known,
    ended: Family<Label, Counter>,
}

/// So that each is counted from zero.
const ENDINGS: [&str; 3] = ["succeeded", "failed", "cancelled"];

impl Training {
    /// Of no run yet.
    pub fn idle() -> Self {
        let (loss, images_per_second, eta, progress) = Default::default();
        let training =
            Self { running: Gauge::default(), loss, images_per_second, eta, progress, ended: Family::default() };
        training.forget();
        ENDINGS.into_iter().for_each(|state| drop(training.ended.get_or_create(&[("state", state)])));
        training
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { running, loss, images_per_second, eta, progress, ended } = self.clone();
        registry.register("thorax_training_running", "1 while a run trains, else 0", running);
        registry.register("thorax_training_loss", "Loss of the batch just trained; NaN while no run trains", loss);
        registry.register(
            "thorax_training_images_per_second",
            "Training images per second in the current epoch; NaN while no run trains",
            images_per_second,
        );
        registry.register(
            "thorax_training_eta_seconds",
            "Estimated time to the end of the run; NaN before there is an estimate and while no run trains",
            eta,
        );
        registry.register(
            "thorax_training_progress_ratio",
            "Share of the run's epochs that is done, 0 to 1; NaN while no run trains",
            progress,
        );
        registry.register("thorax_training_runs_ended", "Runs that ended, by the state they ended in", ended);
    }

    /// A run begins.
    pub fn begins(&self) {
        self.forget();
        self.running.set(1);
    }

    /// A batch was trained.
    pub fn batch(&self, loss: f64) {
        self.loss.set(loss);
    }

    /// How far it is.
    pub fn progress(&self, fraction: f64, images_per_second: f64, eta_seconds: Option<f64>) {
        self.progress.set(fraction);
        self.images_per_second.set(images_per_second);
        self.eta.set(eta_seconds.unwrap_or(f64::NAN));
    }

    /// It trains no more.
    pub fn stops(&self) {
        self.forget();
        self.running.set(0);
    }

    /// It has ended for good in this state.
    pub fn ended(&self, state: &'static str) {
        self.ended.get_or_create(&[("state", state)]).inc();
    }

    fn forget(&self) {
        for known in [&self.loss, &self.images_per_second, &self.eta, &self.progress] {
            known.set(f64::NAN);
        }
    }
}
