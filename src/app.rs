//! Composition root: opens the data folder, the device and the inference engine, starts the worker and the HTTP server, and shuts
//! them down in order.

mod accept;
mod connections;
mod descriptors;
mod device;
mod folder;
mod listener;
mod server;
mod signal;
mod tls;
mod tracked;
mod trainer;
mod write_deadline;

use std::path::PathBuf;

pub use crate::http::openapi;
pub(crate) use device::{has_passed, record_passed};
pub use folder::DataFolder;
pub use server::Server;
pub use tls::TlsError;
pub use trainer::Trainer;

use crate::{
    config::ListenAddress,
    nn::NnError,
    store::{StorageFault, StoreError},
};

/// Errors that keep the program from starting or running.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder cannot be created, locked or used.
    #[error("cannot use {path} for the data folder: {source}{}", advice(.source))]
    Folder {
        /// Folder or file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The data folder has files of a database that is missing.
    #[error(
        "data folder {folder} has no database (thorax.sqlite), but {found} that only its database explains: restore \
         thorax.sqlite from a backup, with thorax.sqlite-wal if the backup has it. To start over without them, move {found} out \
         of the folder first"
    )]
    DatabaseMissing {
        /// The folder.
        folder: PathBuf,
        /// Names of what is there.
        found: String,
    },
    /// The key of the patient hashes is missing.
    #[error(
        "data folder {0} has hashed patient ids but no patient.key: restore patient.key from a backup or set THORAX_PATIENT_KEY, \
         because a new key would give the same patient another hash (to accept that, run `thorax doctor --adopt`)"
    )]
    PatientKeyMissing(PathBuf),
    /// The database is damaged so that it cannot be opened.
    #[error(
        "the database of data folder {folder} is damaged: {source}. Restore thorax.sqlite from a backup, or try to recover it \
         (sqlite3 thorax.sqlite .recover)"
    )]
    DatabaseDamaged {
        /// The folder.
        folder: PathBuf,
        /// Cause.
        source: StoreError,
    },
    /// The disk is full, and so is the reserve with which a server starts.
    #[error(
        "the disk of data folder {folder} is full, so that its database cannot be opened ({source}): free a few megabytes there"
    )]
    DiskFull {
        /// The folder.
        folder: PathBuf,
        /// Cause.
        source: StoreError,
    },
    /// The database cannot be opened for another reason that is not the program's.
    #[error("data folder {folder}: {}", .fault.description())]
    Storage {
        /// The folder.
        folder: PathBuf,
        /// Reason.
        fault: StorageFault,
        /// Cause.
        source: StoreError,
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
         listen on 127.0.0.1 or a Unix socket"
    )]
    KeyNeeded(ListenAddress),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: ListenAddress,
        /// Cause.
        source: std::io::Error,
    },
    /// The limit of open files leaves no connections.
    #[error(
        "the limit of {limit} open files is too low, {needed} are needed: raise it with `ulimit -n`, or with LimitNOFILE= in a \
         systemd unit"
    )]
    Descriptors {
        /// Limit.
        limit: usize,
        /// Minimum.
        needed: usize,
    },
    /// TLS on a Unix socket.
    #[error(
        "TLS is for TCP only: remove THORAX_TLS_CERT and THORAX_TLS_KEY, or listen on an IP address instead of a Unix socket"
    )]
    TlsOnUnixSocket,
    /// The TLS certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
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

/// Advice about an error of the operating system on the data folder.
fn advice(error: &std::io::Error) -> &'static str {
    match StorageFault::of_io(error) {
        Some(StorageFault::ReadOnly) => {
            ": check its permissions and whether the file system is mounted read-only, or set another folder with --data-dir \
             (THORAX_DATA_DIR)"
        }
        Some(StorageFault::Full) => ": free space on its disk",
        _ => "",
    }
}
