//! What an operator can set: flags, or the environment variables named beside them. Nothing else reads the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};

use crate::{inference::EngineConfig, nn::DeviceChoice};

/// Where everything is kept, and the bounds of an image: for every command that touches the data.
#[derive(Args, Clone, Debug)]
pub struct DataConfig {
    /// Folder of the database, images, models and caches; made when missing. [default: ./data, for `demo` ./data-demo]
    #[arg(long, env = "THORAX_DATA_DIR", value_name = "FOLDER", hide_default_value = true)]
    pub data_dir: Option<PathBuf>,

    /// Key under which patient identifiers become keyed hashes; unset, one is generated into the data folder.
    #[arg(long, env = "THORAX_PATIENT_KEY", value_name = "KEY", hide_env_values = true,
          value_parser = NonEmptyStringValueParser::new())]
    pub patient_key: Option<String>,

    /// Largest image, in pixels (columns x rows).
    #[arg(long, env = "THORAX_MAX_PIXELS", value_name = "PIXELS", default_value_t = 50_000_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pixels: u64,

    /// Largest file and request body, in bytes (model and weight files have limits of their own).
    #[arg(long, env = "THORAX_MAX_UPLOAD_BYTES", value_name = "BYTES", default_value_t = 64 << 20,
          value_parser = clap::value_parser!(u64).range(1..=(1 << 32)))]
    pub max_upload_bytes: u64,
}

/// The address, who may use it, and how it ends.
#[derive(Args, Clone, Debug)]
pub struct ListenConfig {
    /// Address to listen on; port 0 takes a free one, which the ready line names.
    #[arg(long, env = "THORAX_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Key that `/v1`, `/v2` and `/dicomweb` ask for (`Authorization: Bearer KEY`), 16 characters or more; needed to listen on
    /// anything but loopback.
    #[arg(long, env = "THORAX_ADMIN_KEY", value_name = "KEY", hide_env_values = true, value_parser = long_key)]
    pub admin_key: Option<String>,

    /// Folder below which imports over HTTP may read; unset, they are refused.
    #[arg(long, env = "THORAX_IMPORT_ROOT", value_name = "FOLDER")]
    pub import_root: Option<PathBuf>,

    /// Data set that takes what is pushed to `/dicomweb/studies`; made when the first radiograph comes.
    #[arg(long, env = "THORAX_DICOMWEB_DATASET", value_name = "NAME", default_value = "dicomweb",
          value_parser = NonEmptyStringValueParser::new())]
    pub dicomweb_dataset: String,

    /// How long a stop waits for requests and training to end, in seconds.
    #[arg(long, env = "THORAX_SHUTDOWN_SECONDS", value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_seconds: u64,

    /// How long a stop answers 503 at least before it refuses connections, in seconds: a load balancer has to see it.
    #[arg(long, env = "THORAX_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 1)]
    pub drain_seconds: u64,
}

/// Where the network runs.
#[derive(Args, Clone, Debug)]
pub struct DeviceConfig {
    /// `auto` (a real GPU if there is one, else the CPU), `vulkan`, `vulkan:N` or `cpu`. On a processor with AMX `cpu`
    /// computes products of f32 as three of bfloat16; `cpu:f32` keeps to f32, `cpu:bf16` is faster and computes one.
    #[arg(long, env = "THORAX_DEVICE", value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// Where the network runs, and the bounds of the prediction queue.
#[derive(Args, Clone, Debug)]
pub struct ComputeConfig {
    /// The device.
    #[command(flatten)]
    pub on: DeviceConfig,

    /// Requests for predictions that may be under way at once; one more is answered 429.
    #[arg(long, env = "THORAX_MAX_QUEUE", value_name = "REQUESTS", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_queue: u32,

    /// Images that the network takes at once.
    #[arg(long, env = "THORAX_MAX_BATCH_SIZE", value_name = "IMAGES", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=512))]
    pub max_batch_size: u32,

    /// Models that are loaded at once: the one that serves, and those that were asked for by name last.
    #[arg(long, env = "THORAX_MAX_LOADED_MODELS", value_name = "MODELS", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_loaded_models: u32,

    /// How long a prediction that found company waits for more, in milliseconds.
    #[arg(long, env = "THORAX_MAX_BATCH_DELAY_MS", value_name = "MS", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub max_batch_delay_ms: u64,

    /// How long training may hold a GPU while a prediction waits, in milliseconds; no less than a block of the network takes.
    #[arg(long, env = "THORAX_MAX_YIELD_MS", value_name = "MS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub max_yield_ms: u64,
}

/// What becomes of predictions beside their answers.
#[derive(Args, Clone, Debug)]
pub struct WatchConfig {
    /// How long recorded predictions are kept, in days; 0 keeps them for ever. What was counted of them by the hour stays.
    #[arg(long, env = "THORAX_PREDICTION_DAYS", value_name = "DAYS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub prediction_days: u32,

    /// Collector of traces that takes OTLP over HTTP, such as `http://127.0.0.1:4318`; unset, none are made.
    #[arg(long, env = "THORAX_OTLP_ENDPOINT", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub otlp_endpoint: Option<String>,

    /// Share of the images that the model under the alias `challenger` looks at as well, in idle time, 0 to 1.
    #[arg(long, env = "THORAX_CHALLENGER_SHARE", value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub challenger_share: f64,
}

/// All that a server needs.
#[derive(Args, Clone, Debug)]
pub struct ServerConfig {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: DataConfig,
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenConfig,
    /// Where it computes.
    #[command(flatten)]
    pub compute: ComputeConfig,
    /// What becomes of predictions.
    #[command(flatten)]
    pub watch: WatchConfig,
}

impl DataConfig {
    /// The data folder, or `default` where none was named.
    pub fn folder(&self, default: &str) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| default.into())
    }
}

impl ListenConfig {
    /// How long a stop waits.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    /// How long it answers 503 at least.
    pub fn notice(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

impl ComputeConfig {
    /// How long training may hold a GPU at a stretch.
    pub fn max_yield(&self) -> Duration {
        Duration::from_millis(self.max_yield_ms)
    }

    /// The bounds as the engine takes them.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            max_concurrent_requests: self.max_queue as usize,
            max_batch_size: self.max_batch_size as usize,
            max_batch_delay_ms: self.max_batch_delay_ms,
            max_loaded_models: self.max_loaded_models as usize,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".into())
}

/// A key that is not guessed at once; an empty variable is a mistake, not a key.
fn long_key(text: &str) -> Result<String, String> {
    let long_enough = text.chars().count() >= 16;
    if long_enough { Ok(text.into()) } else { Err("a key has 16 characters or more".into()) }
}
