//! Configuration: command-line flags and their environment variables. No other module reads the environment.
//!
//! The doc comments of the fields are the text of `--help` and of `.env.example`.

mod network;
mod origins;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, Command, ValueEnum,
    builder::{FalseyValueParser, NonEmptyStringValueParser},
};

use crate::{inference::EngineConfig, nn::DeviceChoice};
pub use network::{ForwardedHeader, ListenAddress, NetworkConfig, TrustedProxy};

/// Data folder and limits on images, for every command that reads or writes data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub struct DataConfig {
    /// Data folder: database, images, models and caches. Created if missing. [default: ./data; `demo`: ./data-demo]
    ///
    /// Only one server can use a data folder at a time.
    #[arg(long, env = "THORAX_DATA_DIR", value_name = "FOLDER", hide_default_value = true)]
    pub data_dir: Option<PathBuf>,

    /// Free disk space in bytes below which readiness and the log warn (the default is 1 GiB); 0 never warns.
    ///
    /// The server refuses nothing above an empty disk. Then writes get 507, and predictions are still served.
    #[arg(long, env = "THORAX_LOW_DISK_BYTES", value_name = "BYTES", default_value_t = 1 << 30)]
    pub low_disk_bytes: u64,

    /// Secret key for hashing patient identifiers (HMAC-SHA-256). [default: a generated key]
    ///
    /// Without it, the first command that needs a key generates one and stores it in `patient.key` in the data folder. The
    /// same patient has a different hash under a different key: set the key before the first import, and keep it.
    #[arg(long, env = "THORAX_PATIENT_KEY", value_name = "KEY", hide_env_values = true,
          value_parser = NonEmptyStringValueParser::new())]
    pub patient_key: Option<String>,

    /// Maximum size of an image in pixels (columns x rows), checked before the image is decoded.
    #[arg(long, env = "THORAX_MAX_PIXELS", value_name = "PIXELS", default_value_t = 50_000_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pixels: u64,

    /// Maximum size of a file or request body in bytes (the default is 64 MiB). Model and weight files have their own limits.
    #[arg(long, env = "THORAX_MAX_UPLOAD_BYTES", value_name = "BYTES", default_value_t = 64 << 20,
          value_parser = clap::value_parser!(u64).range(1..=(1 << 32)))]
    pub max_upload_bytes: u64,
}

/// HTTP listener, access and shutdown.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub struct HttpConfig {
    /// Address and port to listen on, or `unix:` and the path of a Unix socket.
    ///
    /// Port 0 picks a free port, which the server prints when it is ready. Addresses other than loopback and Unix sockets
    /// require `--admin-key`.
    #[arg(long, env = "THORAX_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: ListenAddress,

    /// API key of at least 16 characters. Required to listen on any address other than loopback or a Unix socket.
    ///
    /// When set, every request to `/v1`, `/v2` and `/dicomweb` must send `Authorization: Bearer KEY`. Health probes, metrics
    /// and the dashboard's static files need no key.
    #[arg(long, env = "THORAX_ADMIN_KEY", value_name = "KEY", hide_env_values = true, value_parser = api_key)]
    pub admin_key: Option<String>,

    /// Host names under which clients reach the server, separated by commas, such as `thorax.example.org` or `localhost:9000`.
    ///
    /// A name without a port stands for every port. Without an API key, requests must name a host of this list, the listen
    /// address or `localhost`, which keeps out pages that reach the server by DNS rebinding. With a key, requests may name any
    /// host unless there is a list.
    #[arg(long, env = "THORAX_HOSTS", value_name = "NAMES", value_delimiter = ',', value_parser = origins::host)]
    pub hosts: Vec<String>,

    /// Origins of web pages that may use the server, separated by commas, such as `https://viewer.example.org`.
    ///
    /// Each is a scheme, a host and, unless it is the default, a port. Pages of other origins can neither send requests nor read
    /// responses. There is no wildcard.
    #[arg(long, env = "THORAX_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origins::origin)]
    pub cors_origins: Vec<String>,

    /// Number of wrong API keys at which an address is blocked; 0 for never.
    ///
    /// The block takes a second, and twice as long with each further wrong key, up to 15 minutes. An hour without a wrong key
    /// clears the record. While an address is blocked, requests from it with any key get 429.
    #[arg(long, env = "THORAX_MAX_WRONG_KEYS", value_name = "KEYS", default_value_t = 10)]
    pub max_wrong_keys: u32,

    /// Maximum number of requests per minute from one address; 0 for no limit. [default: 30000 with an API key, else no limit]
    ///
    /// Further requests get 429 with `Retry-After`. Health probes and metrics are not counted. IPv6 addresses are counted by their
    /// first 64 bits.
    #[arg(long, env = "THORAX_MAX_REQUESTS_PER_MINUTE", value_name = "REQUESTS")]
    pub max_requests_per_minute: Option<u64>,

    /// Maximum number of requests per minute with one API key, from all addresses; 0 for no limit. [default: no limit]
    #[arg(long, env = "THORAX_MAX_KEY_REQUESTS_PER_MINUTE", value_name = "REQUESTS")]
    pub max_key_requests_per_minute: Option<u64>,

    /// Maximum size of all request bodies of a day, per API key; 0 for no limit. [default: 256 GiB with an API key, else no limit]
    ///
    /// Without a key it applies to each address. The count starts again with the server.
    #[arg(long, env = "THORAX_MAX_UPLOAD_BYTES_PER_DAY", value_name = "BYTES")]
    pub max_upload_bytes_per_day: Option<u64>,

    /// Maximum number of archives for prediction jobs per day and API key; 0 for no limit. [default: 1000 with an API key, else no limit]
    ///
    /// Without a key it applies to each address. The count starts again with the server.
    #[arg(long, env = "THORAX_MAX_ARCHIVES_PER_DAY", value_name = "ARCHIVES")]
    pub max_archives_per_day: Option<u64>,

    /// Folder that imports over HTTP may read from. [default: none, imports over HTTP are refused]
    #[arg(long, env = "THORAX_IMPORT_ROOT", value_name = "FOLDER")]
    pub import_root: Option<PathBuf>,

    /// Data set that receives DICOMweb uploads (`/dicomweb/studies`). Created by the first upload.
    #[arg(long, env = "THORAX_DICOMWEB_DATASET", value_name = "NAME", default_value = "dicomweb",
          value_parser = NonEmptyStringValueParser::new())]
    pub dicomweb_dataset: String,

    /// Store the names of uploaded PNG and JPEG files. By default they get neutral names, since a file name may name a patient.
    ///
    /// The names of DICOM files are never stored. Imports of folders keep the names of PNG and JPEG files, because label
    /// files refer to them.
    #[arg(long, env = "THORAX_KEEP_FILE_NAMES", value_parser = FalseyValueParser::new())]
    pub keep_file_names: bool,

    /// Graceful-shutdown timeout in seconds, for in-flight requests and running training to end after SIGTERM or SIGINT.
    ///
    /// A second signal ends the server at once. Interrupted training resumes from its last checkpoint.
    #[arg(long, env = "THORAX_SHUTDOWN_SECONDS", value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_seconds: u64,

    /// Minimum drain period in seconds, before the listener closes on shutdown.
    ///
    /// During it `/health/ready` and new requests return 503, so that load balancers stop routing to this server. Set it to
    /// at least two health-check intervals of the load balancer.
    #[arg(long, env = "THORAX_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 1)]
    pub drain_seconds: u64,
}

/// Limits on slow clients and on the memory of what they send.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Slow clients")]
pub struct TransferConfig {
    /// Minimum rate of request bodies and of reading responses, in bytes per second.
    #[arg(long, env = "THORAX_MIN_BYTES_PER_SECOND", value_name = "BYTES", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=(1 << 30)))]
    pub min_bytes_per_second: u64,

    /// Maximum pause of a request body in seconds, after which the request gets 408 and its connection is closed.
    ///
    /// Only time in which the server waits for the client counts. A body below the minimum rate uses up the same time.
    #[arg(long, env = "THORAX_BODY_PAUSE_SECONDS", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub body_pause_seconds: u64,

    /// Maximum time in seconds that the server waits for a request body in all.
    #[arg(long, env = "THORAX_BODY_SECONDS", value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub body_seconds: u64,

    /// Maximum time in seconds in which a client reads nothing of its response, after which its connection is closed.
    #[arg(long, env = "THORAX_READ_PAUSE_SECONDS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub read_pause_seconds: u64,

    /// Maximum size of a JSON body in bytes (the default is 1 MiB). Tensors of `/v2` have the limit of other bodies.
    #[arg(long, env = "THORAX_MAX_JSON_BYTES", value_name = "BYTES", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u64).range(1024..=(1 << 30)))]
    pub max_json_bytes: u64,

    /// Maximum number of parts of a form.
    #[arg(long, env = "THORAX_MAX_FORM_PARTS", value_name = "PARTS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_form_parts: u32,

    /// Maximum memory of all request bodies that are being received, in bytes (the default is 128 MiB).
    ///
    /// Larger bodies, and those beyond it, are written to `incoming` in the data folder.
    #[arg(long, env = "THORAX_MAX_BODY_MEMORY_BYTES", value_name = "BYTES", default_value_t = 128 << 20,
          value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 40)))]
    pub max_body_memory_bytes: u64,

    /// Maximum disk space of all request bodies that are being received, in bytes (the default is 8 GiB). Beyond it, requests
    /// get 503 with `Retry-After`.
    #[arg(long, env = "THORAX_MAX_SPOOL_BYTES", value_name = "BYTES", default_value_t = 8 << 30,
          value_parser = clap::value_parser!(u64).range((1 << 20)..=(1 << 50)))]
    pub max_spool_bytes: u64,
}

/// Compute device.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Compute")]
pub struct DeviceConfig {
    /// Compute device: `auto`, `vulkan`, `vulkan:N`, `cpu`, `cpu:f32`, `cpu:bf16x3` or `cpu:bf16`.
    ///
    /// `auto` uses the first GPU, or the CPU if there is none; `vulkan:N` uses the GPU with index N, and `vulkan` is
    /// `vulkan:0`. On the CPU the suffix sets the precision of matrix products: `f32` (full precision), `bf16x3` (bfloat16
    /// products in three terms, about 16 mantissa bits) or `bf16` (a single bfloat16 product: the fastest, with 8 significant
    /// bits). `bf16x3` and `bf16` need a CPU with AMX, on Linux. `cpu` is `cpu:bf16x3` with AMX, otherwise `cpu:f32`.
    #[arg(long, env = "THORAX_DEVICE", value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// Heading of [`InferenceConfig`] in the help, set on each argument: that of the flattened [`DeviceConfig`] would apply to them.
const INFERENCE: &str = "Inference";

/// Inference: device, batching and concurrency.
#[derive(Args, Clone, Debug)]
pub struct InferenceConfig {
    /// Compute device, shared with training.
    #[command(flatten)]
    pub device: DeviceConfig,

    /// Maximum number of concurrent prediction requests. Further requests get 429 with `Retry-After`.
    ///
    /// A request with several files counts once for each file that is in flight, as long as half of the limit is free for
    /// other requests.
    #[arg(long, env = "THORAX_MAX_CONCURRENT_REQUESTS", value_name = "REQUESTS", default_value_t = 64,
          alias = "max-queue", help_heading = INFERENCE, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_concurrent_requests: u32,

    /// Maximum batch size of inference, in images.
    #[arg(long, env = "THORAX_MAX_BATCH_SIZE", value_name = "IMAGES", default_value_t = 8,
          help_heading = INFERENCE, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub max_batch_size: u32,

    /// Maximum batching delay in milliseconds: how long a partial batch of two or more images waits for further images.
    #[arg(long, env = "THORAX_MAX_BATCH_DELAY_MS", value_name = "MS", default_value_t = 2,
          help_heading = INFERENCE, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub max_batch_delay_ms: u64,

    /// Maximum number of models in memory, about 100 MB each: the champion and the most recently used others.
    #[arg(long, env = "THORAX_MAX_LOADED_MODELS", value_name = "MODELS", default_value_t = 3,
          help_heading = INFERENCE, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_loaded_models: u32,

    /// Maximum time in milliseconds that training keeps a GPU while a prediction waits.
    ///
    /// A longer training batch is interrupted between two blocks of the network, so the wait is never shorter than one block.
    /// The trained model is the same. On the CPU training pauses as soon as a prediction arrives.
    #[arg(long, env = "THORAX_MAX_PREEMPTION_DELAY_MS", value_name = "MS", default_value_t = 20,
          alias = "max-yield-ms", help_heading = INFERENCE, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub max_preemption_delay_ms: u64,
}

/// Time at which a prediction is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordTime {
    /// Soon after the response.
    After,
    /// Before the response.
    Before,
}

/// Prediction log, shadow evaluation and tracing.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitoringConfig {
    /// Retention of logged predictions in days; 0 keeps them for ever. Hourly aggregates are always kept.
    #[arg(long, env = "THORAX_PREDICTION_RETENTION_DAYS", value_name = "DAYS", default_value_t = 90,
          alias = "prediction-days", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub prediction_retention_days: u32,

    /// When a prediction is recorded: `after` or `before` its response is sent.
    ///
    /// With `after`, the records of the last 200 ms are lost if the process is killed, and a full disk delays no response. With `before`,
    /// each response has a durable record: it waits for the disk, and is refused with 503 or 507 if the record cannot be written.
    #[arg(long, env = "THORAX_RECORD", value_name = "WHEN", default_value = "after")]
    pub record: RecordTime,

    /// Fraction of predictions, 0 to 1, that the model with the alias `challenger` repeats in idle time for comparison.
    #[arg(long, env = "THORAX_CHALLENGER_SHARE", value_name = "FRACTION", default_value_t = 0.1, value_parser = fraction)]
    pub challenger_share: f64,

    /// OTLP/HTTP endpoint of an OpenTelemetry collector, such as `http://127.0.0.1:4318` [default: none, no traces are sent]
    #[arg(long, env = "THORAX_OTLP_ENDPOINT", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub otlp_endpoint: Option<String>,
}

/// Configuration of a server.
#[derive(Args, Clone, Debug)]
pub struct ServerConfig {
    /// Data folder and limits on images.
    #[command(flatten)]
    pub data: DataConfig,
    /// HTTP listener, access and shutdown.
    #[command(flatten)]
    pub http: HttpConfig,
    /// Limits on slow clients and on the memory of what they send.
    #[command(flatten)]
    pub transfers: TransferConfig,
    /// TLS, proxies and limits on connections.
    #[command(flatten)]
    pub network: NetworkConfig,
    /// Device, batching and concurrency.
    #[command(flatten)]
    pub inference: InferenceConfig,
    /// Prediction log, shadow evaluation and tracing.
    #[command(flatten)]
    pub monitoring: MonitoringConfig,
}

impl DataConfig {
    /// The configured data folder, or `default`.
    pub fn folder(&self, default: &str) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| default.into())
    }
}

impl HttpConfig {
    /// Graceful-shutdown timeout.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    /// Minimum time between the first 503 and the closing of the listener.
    pub fn drain_period(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

impl InferenceConfig {
    /// Maximum time that training keeps a GPU while a prediction waits.
    pub fn max_preemption_delay(&self) -> Duration {
        Duration::from_millis(self.max_preemption_delay_ms)
    }

    /// The limits of the inference engine.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_concurrent_requests: self.max_concurrent_requests as usize,
            max_batch_size: self.max_batch_size as usize,
            max_batch_delay_ms: self.max_batch_delay_ms,
            max_loaded_models: self.max_loaded_models as usize,
        }
    }
}

/// A renamed environment variable. The old name still works, with a warning in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenamedVariable {
    /// Deprecated name.
    pub old: &'static str,
    /// Current name, which takes precedence.
    pub new: &'static str,
}

/// Every renamed variable. (A renamed flag keeps its old name as a hidden alias.)
pub const RENAMED_VARIABLES: [RenamedVariable; 3] = [
    RenamedVariable { old: "THORAX_MAX_QUEUE", new: "THORAX_MAX_CONCURRENT_REQUESTS" },
    RenamedVariable { old: "THORAX_MAX_YIELD_MS", new: "THORAX_MAX_PREEMPTION_DELAY_MS" },
    RenamedVariable { old: "THORAX_PREDICTION_DAYS", new: "THORAX_PREDICTION_RETENTION_DAYS" },
];

/// Deprecated variables that are set in the environment.
pub fn deprecated_variables() -> Vec<RenamedVariable> {
    RENAMED_VARIABLES.into_iter().filter(|variable| is_set(variable.old)).collect()
}

/// Makes arguments read the deprecated variable where only that one is set. clap knows one variable per argument, and reads it
/// when the argument is defined.
pub fn with_deprecated_variables(command: Command) -> Command {
    let fallbacks = deprecated_variables().into_iter().filter(|variable| !is_set(variable.new));
    fallbacks.fold(command, read_old_name)
}

fn read_old_name(command: Command, variable: RenamedVariable) -> Command {
    let command = command.mut_args(|arg| {
        let renamed = arg.get_env().is_some_and(|name| name == variable.new);
        if renamed { arg.env(variable.old) } else { arg }
    });
    command.mut_subcommands(|command| read_old_name(command, variable))
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value: OsString| !value.is_empty())
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| "must be a number from 0 to 1".into())
}

/// Rejects short keys, and the empty string of a variable that is set to nothing.
fn api_key(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length >= 16 { Ok(text.into()) } else { Err(format!("must have at least 16 characters (has {length})")) }
}
