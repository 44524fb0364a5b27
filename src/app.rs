//! Composition root: opens the data folder, the device and the inference engine, starts the worker and the HTTP server, and shuts
//! them down in order.

mod accept;
mod folder;
mod server;
mod signal;
mod trainer;
mod write_deadline;

use std::{net::SocketAddr, path::PathBuf};

pub use crate::http::openapi;
pub use folder::DataFolder;
pub use server::Server;
pub use trainer::Trainer;

use crate::{nn::NnError, store::StoreError};

/// Errors that keep the program from starting or running.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be created, locked or used.
    #[error("cannot use {path} in the data folder: {source}")]
    Folder {
        /// Folder or file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Another server uses the data folder.
    #[error(
        "data folder {0} is in use by another thorax server: stop that server, or set another folder with --data-dir \
         (THORAX_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// The address is reachable from other machines and no API key is set.
    #[error(
        "refusing to listen on {0} without an API key, because other machines could reach it: set THORAX_ADMIN_KEY, or \
         listen on 127.0.0.1"
    )]
    KeyNeeded(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// Signal handlers cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Invalid OTLP endpoint.
    #[error("invalid OTLP endpoint {endpoint:?} (THORAX_OTLP_ENDPOINT): {reason}")]
    OtlpEndpoint {
        /// Configured endpoint.
        endpoint: String,
        /// Reason.
        reason: String,
    },
    /// Database or blob store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Compute device.
    #[error(transparent)]
    Device(#[from] NnError),
}
