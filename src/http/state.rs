//! State of the HTTP server: parts that handlers extract one by one.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio::sync::Semaphore;

use super::{Transfers, quotas::Quotas, site::Site, wrong_keys::WrongKeys};
use crate::{
    metrics::{Metrics, Traces},
    service::{
        Imports, Intake, JobQueue, Lifecycle, Limits, Models, PredictionJobs, Predictor, Serving, TrainingControl,
        Uploads,
    },
    store::Stores,
};

/// Maximum number of open event streams. Each costs a connection, and a query for each change.
pub const MAX_EVENT_STREAMS: usize = 64;

/// Name that predictions record for the one API key.
pub(super) const ADMIN: &str = "admin";

/// State of the server; cheap to clone.
#[derive(Clone, FromRef)]
pub struct AppState {
    /// Storage.
    pub stores: Stores,
    /// Models in service.
    pub serving: Serving,
    /// Connection to the training worker.
    pub training: TrainingControl,
    /// Intake of data.
    pub intake: Intake,
    /// Queue of prediction jobs.
    pub jobs: JobQueue,
    /// Limits on what clients send.
    pub limits: Limits,
    /// Budgets of bodies.
    pub transfers: Transfers,
    /// Background work and shutdown.
    pub lifecycle: Lifecycle,
    /// Authentication.
    pub access: Access,
    /// Names of the server and origins of pages that may use it.
    pub site: Site,
    /// Rate limits and quotas.
    pub quotas: Quotas,
    /// Metrics and traces.
    pub telemetry: Telemetry,
    /// Open event streams.
    pub event_streams: EventStreams,
}

/// Authentication of clients.
#[derive(Clone, Default)]
pub struct Access {
    /// API key that clients must send; `None` on a loopback server.
    pub admin_key: Option<Arc<str>>,
    /// Addresses that sent wrong keys.
    pub wrong_keys: WrongKeys,
}

/// Measurements of the server.
#[derive(Clone)]
pub struct Telemetry {
    /// Registry behind `/metrics`.
    pub metrics: Metrics,
    /// Exporter of traces.
    pub traces: Traces,
}

/// Permits for event streams.
#[derive(Clone)]
pub struct EventStreams(pub Arc<Semaphore>);

impl EventStreams {
    /// Permits for `max` streams at once.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Semaphore::new(max)))
    }
}

impl Default for EventStreams {
    fn default() -> Self {
        Self::new(MAX_EVENT_STREAMS)
    }
}

/// Parts behind the events of a run.
#[derive(Clone)]
pub struct RunEvents {
    /// Storage.
    pub stores: Stores,
    /// Batches of the run in progress.
    pub training: TrainingControl,
    /// Background work and shutdown.
    pub lifecycle: Lifecycle,
    /// Permits for event streams.
    pub permits: EventStreams,
}

impl FromRef<AppState> for RunEvents {
    fn from_ref(state: &AppState) -> Self {
        let AppState { stores, training, lifecycle, event_streams, .. } = state;
        Self {
            stores: stores.clone(),
            training: training.clone(),
            lifecycle: lifecycle.clone(),
            permits: event_streams.clone(),
        }
    }
}

impl FromRef<AppState> for Models {
    fn from_ref(state: &AppState) -> Self {
        Self { stores: state.stores.clone(), serving: state.serving.clone() }
    }
}

impl FromRef<AppState> for Predictor {
    fn from_ref(state: &AppState) -> Self {
        let key = state.access.admin_key.as_ref().map(|_| ADMIN);
        Self { models: Models::from_ref(state), limits: state.limits, key }
    }
}

impl FromRef<AppState> for PredictionJobs {
    fn from_ref(state: &AppState) -> Self {
        Self {
            predictor: Predictor::from_ref(state),
            queue: state.jobs.clone(),
            lifecycle: state.lifecycle.clone(),
            keep_file_names: state.intake.keep_file_names,
        }
    }
}

impl FromRef<AppState> for Uploads {
    fn from_ref(state: &AppState) -> Self {
        let AppState { stores, intake, limits, .. } = state;
        Self { stores: stores.clone(), intake: intake.clone(), limits: *limits }
    }
}

impl FromRef<AppState> for Imports {
    fn from_ref(state: &AppState) -> Self {
        let AppState { stores, intake, limits, lifecycle, .. } = state;
        Self { stores: stores.clone(), intake: intake.clone(), limits: *limits, lifecycle: lifecycle.clone() }
    }
}
