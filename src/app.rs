//! The composition root: opens the data folder, the device and the engine, starts the worker, listens, and ends all
//! of it in order.

mod accept;
mod folder;
mod server;
mod signal;
mod trainer;

use std::{net::SocketAddr, path::PathBuf};

pub use crate::http::openapi;
pub use folder::DataFolder;
pub use server::Server;
pub use trainer::Trainer;

use crate::{nn::NnError, store::StoreError};

/// Why the program cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be made or locked.
    #[error("the data folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another server has the folder.
    #[error(
        "the data folder {0} is in use by another thorax server: stop that one, or name another folder with \
         --data-dir (THORAX_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// Open to the network without a key.
    #[error(
        "will not listen on {0} without a key, because others could reach it: set THORAX_ADMIN_KEY, or listen on \
         127.0.0.1"
    )]
    KeyNeeded(SocketAddr),
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Signals cannot be listened to.
    #[error("the server failed: {0}")]
    Serve(#[source] std::io::Error),
    /// The address of the collector of traces is none.
    #[error("traces cannot be sent to {endpoint}: {why}")]
    Collector {
        /// Where.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database or the blobs.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device.
    #[error(transparent)]
    Device(#[from] NnError),
}
