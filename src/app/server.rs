//! The server: start, run, graceful shutdown.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use axum::extract::FromRef;
use burn::tensor::Device;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    AppError, DataFolder,
    accept::{self, Service},
    connections,
    descriptors::{self, Capacity},
    device::{self, OpenDevice},
    folder::{self, ServerLock},
    listener::Listener,
    signal::StopSignals,
    tls::Tls,
};
use crate::{
    config::{
        DataConfig, ForwardedHeader, HttpConfig, ListenAddress, MonitoringConfig, NetworkConfig, RecordTime,
        ServerConfig, TransferConfig, TrustedProxy,
    },
    domain::{DeviceInfo, ModelId, RunStatus},
    http::{
        self, Access, AppState, EventStreams, Forwarding, MAX_EVENT_STREAMS, Pace, QuotaConfig, Quotas, Site,
        Telemetry, TransferLimits, Transfers, TrustedProxies, WrongKeys,
    },
    inference::Engine,
    metrics::{Metrics, Traces},
    service::{
        self, CHALLENGER, Imports, Intake, JobQueue, Lifecycle, Limits, PredictionJobs, Serving, TrainingControl,
    },
    store::{self, StoreError},
    worker::{self, CHAMPION, LiveBatches, WorkerContext},
};

/// Error of imports that an earlier process left unfinished.
const INTERRUPTED: &str = "the server stopped during the import: start the import again";

/// Default rate limit of an address, where a key is needed.
const DEFAULT_REQUESTS_PER_MINUTE: u64 = 30_000;

/// Default quota of uploads, where a key is needed: 256 GiB.
const DEFAULT_UPLOAD_BYTES_PER_DAY: u64 = 256 << 30;

/// Default quota of archives, where a key is needed.
const DEFAULT_ARCHIVES_PER_DAY: u64 = 1000;

/// Interval at which [`Server::model_loaded`] looks for a model.
const MODEL_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A server that is bound to its address. It accepts connections and trains once [`Server::run`] is called.
pub struct Server {
    state: AppState,
    device: Device,
    device_info: DeviceInfo,
    max_preemption_delay: Duration,
    folder: DataFolder,
    listener: Listener,
    address: ListenAddress,
    proxies: TrustedProxies,
    signals: StopSignals,
    shutdown_timeout: Duration,
    drain_period: Duration,
    connections: connections::Limits,
    max_head_bytes: usize,
    tls: Option<Tls>,
    _lock: ServerLock,
}

impl Server {
    /// Opens data folder, device and address, marks imports that an earlier process left unfinished as failed, and loads the
    /// champion if there is one.
    ///
    /// # Errors
    /// If the address is reachable from other machines and no API key is set, if another server uses the folder, or if the
    /// folder, database, device or address cannot be opened.
    pub async fn start(config: &ServerConfig, default_folder: &str) -> Result<Self, AppError> {
        let ServerConfig { data, http: http_config, network, transfers, inference, monitoring } = config;
        require_key_beyond_loopback(http_config)?;
        let tls = tls(network, &http_config.listen)?;
        let max_descriptors = descriptors::raise_limit();
        let path = data.folder(default_folder);
        let lock = folder::lock(&path)?;
        let incoming = folder::incoming(&path)?;
        let mut folder = DataFolder::open_for_server(&path).await?;
        folder.stores.disk.low_bytes = data.low_disk_bytes;
        folder.stores.prepare().await;
        let patient_ids = folder.patient_ids(data.patient_key.as_deref()).await?;
        let hashed = folder::hash_earlier_patients(&folder.stores.db, &patient_ids, data.patient_key.is_some()).await;
        unless_unwritable("patient ids of an earlier version cannot be hashed", hashed)?;
        let (listener, address) = Listener::bind(&http_config.listen, network.unix_socket_mode).await?;
        let signals = StopSignals::listen().map_err(AppError::Signals)?;
        let opened = device::open(inference.device.device, &folder.autotune_cache())?;
        let devices = opened.all();
        let OpenDevice { device, info: device_info, .. } = opened;
        tracing::info!(
            device = device_info.name,
            description = device_info.description,
            driver = device_info.driver,
            "using device"
        );
        let engine = Engine::start(inference.engine(), device.clone());
        unless_unwritable("interrupted imports cannot be marked as failed", fail_interrupted_imports(&folder).await)?;
        if folder.stores.coverage.is_complete() {
            folder.stores.caches.sweep(&folder.stores.db).await?;
            folder.stores.checkpoints.sweep(&folder.stores.db).await?;
        }
        let retention_days = Some(monitoring.prediction_retention_days).filter(|days| *days > 0);
        let metrics = Metrics::new(engine.metrics().clone());
        let serving = Serving::new(engine, folder.stores.db.clone(), monitoring.challenger_share, retention_days);
        let serving = Serving { record_before_response: monitoring.record == RecordTime::Before, ..serving };
        let loaded = load_models(&folder, &serving).await;
        unless_unwritable("the champion cannot be read from the database, so no model is served", loaded)?;
        let tcp_address = match address {
            ListenAddress::Tcp(address) => Some(address),
            ListenAddress::Unix(_) => None,
        };
        let capacity = descriptors::capacity(max_descriptors, descriptors::open(), network.max_connections)?;
        let state = AppState {
            stores: folder.stores.clone(),
            serving,
            training: TrainingControl { queued: Arc::new(Notify::new()), batches: LiveBatches::new(), devices },
            intake: Intake {
                import_root: http_config.import_root.clone(),
                dicomweb_dataset: http_config.dicomweb_dataset.as_str().into(),
                patient_ids,
                keep_file_names: http_config.keep_file_names,
            },
            jobs: JobQueue::new(&path),
            limits: limits(data),
            transfers: Transfers::new(transfer_limits(transfers), incoming),
            lifecycle: Lifecycle::default(),
            access: Access {
                admin_key: http_config.admin_key.as_deref().map(Arc::from),
                wrong_keys: WrongKeys::new(http_config.max_wrong_keys),
            },
            site: Site::new(
                tcp_address,
                http_config.admin_key.is_some(),
                &http_config.hosts,
                &http_config.cors_origins,
            ),
            quotas: Quotas::new(quotas(http_config)),
            telemetry: Telemetry { metrics, traces: traces(monitoring)? },
            // They last, and must leave connections to others.
            event_streams: EventStreams::new(MAX_EVENT_STREAMS.min(capacity.max.div_ceil(2))),
        };
        let connections = connections::Limits {
            max: capacity.max,
            max_per_address: max_per_address(network, capacity),
            reserved: capacity.reserved,
            head_timeout: network.head_timeout(),
            keep_alive: network.keep_alive(),
            read_pace: read_pace(transfers),
        };
        Ok(Self {
            connections,
            max_head_bytes: network.max_head_bytes as usize,
            tls,
            state,
            device,
            device_info,
            max_preemption_delay: inference.max_preemption_delay(),
            folder,
            listener,
            address,
            proxies: trusted_proxies(network),
            signals,
            shutdown_timeout: http_config.shutdown_timeout(),
            drain_period: http_config.drain_period(),
            _lock: lock,
        })
    }

    /// URL of the server, or the path of its Unix socket after `unix:`.
    pub fn url(&self) -> String {
        match &self.address {
            ListenAddress::Tcp(address) if self.tls.is_some() => format!("https://{address}"),
            ListenAddress::Tcp(address) => format!("http://{address}"),
            unix @ ListenAddress::Unix(_) => unix.to_string(),
        }
    }

    /// The data folder.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Suggested next step for the user; `None` if a model is loaded.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn hint(&self) -> Result<Option<String>, StoreError> {
        if self.state.serving.engine.current().is_some() || self.folder.stores.db.damage().is_some() {
            return Ok(None);
        }
        let first = store::Page { limit: 1, after: None };
        let dashboard = match &self.address {
            ListenAddress::Tcp(_) => format!("the dashboard at {}/", self.url()),
            ListenAddress::Unix(_) => "the dashboard behind your proxy".to_owned(),
        };
        let hint = if store::datasets::list(&self.folder.stores.db, &first).await?.is_empty() {
            format!(
                "There is no data set yet. Import one with `thorax import --dataset NAME FOLDER`, or try Thorax with synthetic \
                 data: `thorax demo`. Then use {dashboard}."
            )
        } else if self.is_training().await? {
            format!(
                "A model is being trained, and there is none to predict with yet: predictions return 503 until it is done. Watch \
                 it with {dashboard}."
            )
        } else {
            format!(
                "There is no champion model yet. Start a training run with {dashboard} or with POST /v1/training-runs. \
                 The model of the first successful run becomes the champion."
            )
        };
        Ok(Some(hint))
    }

    /// True if a run is queued or was left running, which the server trains once it runs.
    async fn is_training(&self) -> Result<bool, StoreError> {
        let first = store::Page { limit: 1, after: None };
        for status in [RunStatus::Queued, RunStatus::Running] {
            if !store::runs::list(&self.folder.stores.db, Some(status), &first).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Completes when a model is loaded, so that predictions are possible.
    pub fn model_loaded(&self) -> impl Future<Output = ()> + Send + use<> {
        let engine = self.state.serving.engine.clone();
        async move {
            while engine.current().is_none() {
                tokio::time::sleep(MODEL_POLL_INTERVAL).await;
            }
        }
    }

    /// Serves requests and trains until SIGINT or SIGTERM, then shuts down gracefully: readiness and new requests return 503,
    /// in-flight requests complete, running training writes a checkpoint, background tasks end, the listener closes, the
    /// database closes. A second signal or the shutdown timeout skips the waiting.
    ///
    /// # Errors
    /// If the imports and prediction jobs to resume cannot be read.
    pub async fn run(mut self) -> Result<(), AppError> {
        let is_sound = self.folder.stores.db.damage().is_none();
        let worker = is_sound.then(|| worker::start(self.worker_context()));
        if is_sound {
            unless_unwritable("imports cannot resume", Imports::from_ref(&self.state).resume().await)?;
            unless_unwritable("prediction jobs cannot resume", PredictionJobs::from_ref(&self.state).resume().await)?;
        }
        let AppState { lifecycle, stores, serving: Serving { log, .. }, telemetry, .. } = self.state.clone();
        let Lifecycle { tasks, shutdown } = lifecycle;
        if stores.coverage.is_complete() {
            tasks.spawn(store::sweep_periodically(stores.blobs.clone(), stores.db.clone(), shutdown.clone()));
        }
        tasks.spawn(store::maintain(stores.clone(), shutdown.clone()));
        if is_sound {
            tasks.spawn(service::complete_scores(stores.clone(), shutdown.clone()));
        }
        let drained = CancellationToken::new();
        let measured = telemetry.metrics.connections.clone();
        let service = Service {
            router: http::router(self.state),
            tls: self.tls.as_ref().map(Tls::acceptor),
            proxies: self.proxies,
            limits: self.connections,
            max_head_bytes: self.max_head_bytes,
            measured: measured.clone(),
            shutdown: shutdown.clone(),
        };
        if let Some(tls) = self.tls {
            tokio::spawn(tls.reload_periodically(measured, drained.clone()));
        }
        let serving = tokio::spawn(accept::serve(self.listener, service, drained.clone()));
        let signal = self.signals.next().await;
        tracing::info!(signal, "shutting down: new requests get 503");
        shutdown.cancel();
        tasks.close();
        let ended = async {
            let worker = async {
                if let Some(worker) = worker {
                    worker.shutdown().await;
                }
            };
            tokio::join!(worker, tasks.wait(), tokio::time::sleep(self.drain_period));
            drained.cancel();
            serving.await
        };
        tokio::select! {
            _ = ended => tracing::info!("shutdown complete"),
            () = tokio::time::sleep(self.shutdown_timeout) => {
                tracing::warn!("shutdown timeout of {:?} reached: stopping unfinished work", self.shutdown_timeout);
            }
            signal = self.signals.next() => tracing::warn!(signal, "second signal: stopping unfinished work"),
        }
        log.flush().await;
        stores.db.note_replacement();
        if stores.db.damage().is_none() {
            stores.advance(Duration::ZERO).await;
        }
        stores.db.close().await;
        // Blocks on the network. A panic in it would have no consequences at this point.
        tokio::task::spawn_blocking(move || telemetry.traces.close()).await.ok();
        Ok(())
    }

    fn worker_context(&self) -> WorkerContext {
        let AppState { stores, serving, training, limits, telemetry, .. } = self.state.clone();
        let (gate, engine) = (serving.engine.clone(), serving.engine);
        WorkerContext {
            wait_until_idle: Arc::new(move || gate.wait_until_idle()),
            max_yield: self.max_preemption_delay,
            publish: Arc::new(move |id, bytes| publish(&engine, id, bytes)),
            batches: training.batches,
            metrics: telemetry.metrics.training,
            wake: training.queued,
            ..WorkerContext::idle(stores, self.device.clone(), self.device_info.clone(), limits.max_pixels)
        }
    }
}

/// The exporter of traces; disabled without an endpoint.
fn traces(config: &MonitoringConfig) -> Result<Traces, AppError> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(Traces::default()) };
    Traces::to(endpoint)
        .map_err(|error| AppError::OtlpEndpoint { endpoint: endpoint.clone(), reason: error.to_string() })
}

/// Pace at which clients must read responses.
fn read_pace(config: &TransferConfig) -> Pace {
    Pace {
        allowance: Duration::from_secs(config.read_pause_seconds),
        min_bytes_per_second: config.min_bytes_per_second,
        // A long response has no limit, as long as it is read.
        max_wait: Duration::MAX,
    }
}

/// Limits on bodies.
fn transfer_limits(config: &TransferConfig) -> TransferLimits {
    TransferLimits {
        body_pace: Pace {
            allowance: Duration::from_secs(config.body_pause_seconds),
            min_bytes_per_second: config.min_bytes_per_second,
            max_wait: Duration::from_secs(config.body_seconds),
        },
        read_pause: Duration::from_secs(config.read_pause_seconds),
        max_json_bytes: usize::try_from(config.max_json_bytes).unwrap_or(usize::MAX),
        max_form_parts: config.max_form_parts,
        max_memory_bytes: config.max_body_memory_bytes,
        max_spool_bytes: config.max_spool_bytes,
    }
}

/// Limits of the HTTP handlers.
fn limits(config: &DataConfig) -> Limits {
    let max_upload_bytes = usize::try_from(config.max_upload_bytes).unwrap_or(usize::MAX);
    Limits { max_upload_bytes, max_pixels: config.max_pixels }
}

/// Limits on each client. A server on loopback without a key has only those that are configured.
fn quotas(config: &HttpConfig) -> QuotaConfig {
    let or_default = |configured: Option<u64>, default: u64| configured.or(config.admin_key.as_ref().map(|_| default));
    QuotaConfig {
        requests_per_minute: or_default(config.max_requests_per_minute, DEFAULT_REQUESTS_PER_MINUTE),
        key_requests_per_minute: config.max_key_requests_per_minute,
        upload_bytes_per_day: or_default(config.max_upload_bytes_per_day, DEFAULT_UPLOAD_BYTES_PER_DAY),
        archives_per_day: or_default(config.max_archives_per_day, DEFAULT_ARCHIVES_PER_DAY),
    }
}

fn require_key_beyond_loopback(config: &HttpConfig) -> Result<(), AppError> {
    let safe = config.listen.is_local() || config.admin_key.is_some();
    if safe { Ok(()) } else { Err(AppError::KeyNeeded(config.listen.clone())) }
}

/// TLS, if it is configured.
fn tls(config: &NetworkConfig, listen: &ListenAddress) -> Result<Option<Tls>, AppError> {
    match (config.tls(), listen) {
        (None, _) => Ok(None),
        (Some(_), ListenAddress::Unix(_)) => Err(AppError::TlsOnUnixSocket),
        (Some((certificate, key)), ListenAddress::Tcp(_)) => Ok(Some(Tls::open(certificate, key)?)),
    }
}

/// A quarter of the connections by default, but enough for a browser, which opens six.
fn max_per_address(config: &NetworkConfig, capacity: Capacity) -> usize {
    config.max_connections_per_address.map_or((capacity.max / 4).max(8), NonZeroUsize::get)
}

fn trusted_proxies(config: &NetworkConfig) -> TrustedProxies {
    let network = |proxy: &TrustedProxy| match proxy {
        TrustedProxy::Network(network) => Some(*network),
        TrustedProxy::Unix => None,
    };
    TrustedProxies {
        networks: config.trusted_proxies.iter().filter_map(network).collect(),
        unix: config.trusted_proxies.contains(&TrustedProxy::Unix),
        forwarding: match config.forwarded_header {
            ForwardedHeader::XForwarded => Forwarding::XForwarded,
            ForwardedHeader::Forwarded => Forwarding::Forwarded,
        },
    }
}

/// Lets a start go on without a step for which the disk is full, or the database locked or damaged. The next start tries again.
fn unless_unwritable(what: &str, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(error) if error.fault().is_some() => {
            tracing::error!(%error, "{what}");
            Ok(())
        }
        outcome => outcome,
    }
}

async fn fail_interrupted_imports(folder: &DataFolder) -> Result<(), StoreError> {
    let imports = store::imports::fail_interrupted(&folder.stores.db, INTERRUPTED).await?;
    if imports > 0 {
        tracing::warn!(imports, "marked imports as failed that an earlier process left unfinished");
    }
    Ok(())
}

/// Loads the champion and sets the challenger. If the champion cannot be loaded, the server starts without a model and logs how to
/// promote another.
async fn load_models(folder: &DataFolder, serving: &Serving) -> Result<(), StoreError> {
    serving.challenger.set(store::models::by_alias(&folder.stores.db, CHALLENGER).await?);
    let Some(model) = store::models::by_alias(&folder.stores.db, CHAMPION).await? else { return Ok(()) };
    let loaded = match folder.stores.blobs.get(&model.sha256).await {
        Ok(bytes) => serving.engine.load(model.id, bytes).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match loaded {
        Ok(()) => {
            serving.known_models.put(&model);
            tracing::info!(model = %model.id, name = model.name, "champion loaded");
        }
        Err(error) => tracing::error!(
            model = %model.id,
            error,
            "cannot load the champion, so no model is served: promote another with PUT /v1/models/aliases/champion"
        ),
    }
    Ok(())
}

/// Loads a new champion in the background.
fn publish(engine: &Engine, id: ModelId, bytes: Vec<u8>) {
    let engine = engine.clone();
    tokio::spawn(async move {
        match engine.load(id, bytes).await {
            Ok(()) => tracing::info!(model = %id, "champion loaded"),
            Err(error) => tracing::error!(model = %id, %error, "cannot load the new champion"),
        }
    });
}
