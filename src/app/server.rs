//! A server from its start to its orderly end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::FromRef;
use burn::tensor::Device;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::{
    AppError, DataFolder, accept,
    folder::{self, ServerLock},
    signal::StopSignals,
};
use crate::{
    config::{DataConfig, ListenConfig, ServerConfig, WatchConfig},
    domain::{DeviceInfo, ModelId},
    http::{self, Access, AppState, EventStreams, Telemetry},
    inference::Engine,
    metrics::{Metrics, Traces},
    nn,
    service::{CHALLENGER, Imports, Intake, JobQueue, Lifecycle, Limits, PredictionJobs, Serving, TrainingControl},
    store::{self, StoreError},
    worker::{self, CHAMPION, LiveBatches, WorkerContext},
};

/// Why an import that an earlier process left behind did not end.
const ORPHANED: &str = "interrupted: the server ended before it did; start it again";

/// A server that listens, but answers and trains only from [`Server::run`] on.
pub struct Server {
    state: AppState,
    device: Device,
    device_info: DeviceInfo,
    max_yield: Duration,
    folder: DataFolder,
    listener: TcpListener,
    address: SocketAddr,
    signals: StopSignals,
    patience: Duration,
    notice: Duration,
    _lock: ServerLock,
}

impl Server {
    /// Opens everything, records the imports that an earlier process left unfinished and loads the champion if there is one.
    ///
    /// # Errors
    /// When the address would be open to others without a key, another server has the folder, or the folder,
    /// database, device or address is not to be had.
    pub async fn start(config: &ServerConfig, default_folder: &str) -> Result<Self, AppError> {
        let ServerConfig { data, listen, compute, watch } = config;
        refuse_open_address(listen)?;
        let path = data.folder(default_folder);
        let lock = folder::lock(&path)?;
        let incoming = folder::incoming(&path)?;
        let folder = DataFolder::open(&path).await?;
        let patient_ids = folder.patient_ids(data.patient_key.as_deref())?;
        folder::hash_earlier_patients(&folder.stores.db, &patient_ids, data.patient_key.is_some()).await?;
        let (listener, address) = bind(listen.listen).await?;
        let signals = StopSignals::listen().map_err(AppError::Serve)?;
        let (device, device_info) = compute.on.device.open(Some(&folder.tuning()))?;
        tracing::info!(
            device = device_info.name,
            description = device_info.description,
            driver = device_info.driver,
            "device"
        );
        let engine = Engine::start(compute.engine(), device.clone());
        fail_interrupted_imports(&folder).await?;
        folder.stores.caches.sweep(&folder.stores.db).await?;
        folder.stores.checkpoints.sweep(&folder.stores.db).await?;
        load_champion(&folder, &engine).await?;
        let retention_days = Some(watch.prediction_days).filter(|days| *days > 0);
        let metrics = Metrics::new(engine.metrics().clone());
        let serving = Serving::new(engine, folder.stores.db.clone(), watch.challenger_share, retention_days);
        serving.challenger.set(store::models::by_alias(&folder.stores.db, CHALLENGER).await?);
        let state = AppState {
            stores: folder.stores.clone(),
            serving,
            training: TrainingControl {
                queued: Arc::new(Notify::new()),
                batches: LiveBatches::new(),
                devices: all_devices(&device_info),
            },
            intake: Intake {
                incoming,
                import_root: listen.import_root.clone(),
                dicomweb_dataset: listen.dicomweb_dataset.as_str().into(),
                patient_ids,
            },
            jobs: JobQueue::new(&path),
            limits: limits(data),
            lifecycle: Lifecycle::default(),
            access: Access { admin_key: listen.admin_key.as_deref().map(Arc::from) },
            telemetry: Telemetry { metrics, traces: traces(watch)? },
            event_streams: EventStreams::default(),
        };
        let (patience, notice, max_yield) = (listen.patience(), listen.notice(), compute.max_yield());
        Ok(Self {
            state,
            device,
            device_info,
            max_yield,
            folder,
            listener,
            address,
            signals,
            patience,
            notice,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// What a user has to do before this server can classify; `None` when it can.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_step(&self) -> Result<Option<String>, StoreError> {
        if self.state.serving.engine.current().is_some() {
            return Ok(None);
        }
        let first = store::Page { limit: 1, after: None };
        let address = self.address;
        let step = if store::datasets::list(&self.folder.stores.db, &first).await?.is_empty() {
            format!(
                "There is no data set yet. Import one (thorax import --dataset NAME FOLDER), or look around with \
                 drawn data (thorax demo). The page at http://{address}/ shows the way."
            )
        } else {
            format!(
                "No model serves yet. Start a training run at http://{address}/ or with POST /v1/training-runs; the \
                 first that succeeds serves by itself."
            )
        };
        Ok(Some(step))
    }

    /// Answers requests and trains until SIGINT or SIGTERM, then ends in order: not ready any more and new requests answered 503,
    /// those under way answered, running training asked to stop and recorded, background work waited for, connections refused,
    /// database closed. A second signal stops the waiting.
    ///
    /// # Errors
    /// When the imports that go on cannot be read.
    pub async fn run(mut self) -> Result<(), AppError> {
        let worker = worker::start(self.worker_context());
        Imports::from_ref(&self.state).resume().await?;
        PredictionJobs::from_ref(&self.state).resume().await?;
        let AppState { lifecycle, stores, serving: Serving { log, .. }, telemetry, .. } = self.state.clone();
        let Lifecycle { tasks, shutdown } = lifecycle;
        tasks.spawn(store::sweep_periodically(stores.blobs.clone(), stores.db.clone(), shutdown.clone()));
        let drained = CancellationToken::new();
        let serving = tokio::spawn(accept::serve(self.listener, http::router(self.state), drained.clone()));
        let signal = self.signals.next().await;
        tracing::info!(signal, "stopping: new requests are answered 503");
        shutdown.cancel();
        tasks.close();
        let ended = async {
            tokio::join!(worker.shutdown(), tasks.wait(), tokio::time::sleep(self.notice));
            drained.cancel();
            serving.await
        };
        tokio::select! {
            _ = ended => tracing::info!("all work has ended"),
            () = tokio::time::sleep(self.patience) => tracing::warn!("work is left after {:?}", self.patience),
            signal = self.signals.next() => tracing::warn!(signal, "work is left at a second signal"),
        }
        log.flush().await;
        stores.db.close().await;
        // It waits for the network, on a thread of its own, and a panic there would change nothing any more.
        tokio::task::spawn_blocking(move || telemetry.traces.close()).await.ok();
        Ok(())
    }

    fn worker_context(&self) -> WorkerContext {
        let AppState { stores, serving, training, limits, telemetry, .. } = self.state.clone();
        let (gate, engine) = (serving.engine.clone(), serving.engine);
        WorkerContext {
            wait_until_idle: Arc::new(move || gate.wait_until_idle()),
            max_yield: self.max_yield,
            publish: Arc::new(move |id, bytes| publish(&engine, id, bytes)),
            batches: training.batches,
            metrics: telemetry.metrics.training,
            wake: training.queued,
            ..WorkerContext::idle(stores, self.device.clone(), self.device_info.clone(), limits.max_pixels)
        }
    }
}

/// To the operator's collector, if there is one.
fn traces(config: &WatchConfig) -> Result<Traces, AppError> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(Traces::default()) };
    Traces::to(endpoint).map_err(|why| AppError::Collector { endpoint: endpoint.clone(), why: why.to_string() })
}

/// The bounds as handlers take them.
fn limits(config: &DataConfig) -> Limits {
    let max_upload_bytes = usize::try_from(config.max_upload_bytes).unwrap_or(usize::MAX);
    Limits { max_upload_bytes, max_pixels: config.max_pixels }
}

fn refuse_open_address(config: &ListenConfig) -> Result<(), AppError> {
    let safe = config.listen.ip().is_loopback() || config.admin_key.is_some();
    if safe { Ok(()) } else { Err(AppError::KeyNeeded(config.listen)) }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn fail_interrupted_imports(folder: &DataFolder) -> Result<(), StoreError> {
    let imports = store::imports::fail_interrupted(&folder.stores.db, ORPHANED).await?;
    if imports > 0 {
        tracing::warn!(imports, "an earlier process left imports unfinished");
    }
    Ok(())
}

/// A champion that cannot be loaded leaves a server that says so and can be given another.
async fn load_champion(folder: &DataFolder, engine: &Engine) -> Result<(), StoreError> {
    let Some(model) = store::models::by_alias(&folder.stores.db, CHAMPION).await? else { return Ok(()) };
    let loaded = match folder.stores.blobs.get(&model.sha256).await {
        Ok(bytes) => engine.load(model.id, bytes).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match loaded {
        Ok(()) => tracing::info!(model = %model.id, name = model.name, "champion loaded"),
        Err(error) => tracing::error!(
            model = %model.id,
            error,
            "the champion cannot be loaded and nothing serves: PUT /v1/models/aliases/champion with another model"
        ),
    }
    Ok(())
}

/// Loads a model that training made champion; the worker does not wait for it.
fn publish(engine: &Engine, id: ModelId, bytes: Vec<u8>) {
    let engine = engine.clone();
    tokio::spawn(async move {
        match engine.load(id, bytes).await {
            Ok(()) => tracing::info!(model = %id, "serves now"),
            Err(error) => tracing::error!(model = %id, %error, "the new champion cannot be loaded"),
        }
    });
}

fn all_devices(in_use: &DeviceInfo) -> Arc<[DeviceInfo]> {
    let mark = |device: DeviceInfo| DeviceInfo { in_use: device.name == in_use.name, ..device };
    nn::devices().into_iter().map(mark).collect()
}
