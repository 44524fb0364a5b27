//! Errors of the store, and the condition of the storage behind them.

use std::{
    error::Error,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
};

use crate::domain::{InvalidTransition, Sha256};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[source] sqlx::Error),
    /// A row that the change needs does not exist, usually because it was deleted meanwhile.
    #[error("what the request refers to was deleted meanwhile")]
    Gone,
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The database has migrations that this version does not know.
    #[error(
        "the database was written by a newer version of Thorax (its schema has version {0}, this version knows those up to {1}): \
         use that version or a newer one"
    )]
    Newer(i64, i64),
    /// The database is damaged, so nothing is written to it.
    #[error("the database is damaged and is not written to: {0}")]
    Damaged(String),
    /// The file of the database is not the one that was opened, so nothing is written to it.
    #[error("{}", StorageFault::Replaced.description())]
    Replaced,
    /// A blob could not be written or read.
    #[error("blob {sha256}: {}", without_paths(.source))]
    Blob {
        /// Name of the blob.
        sha256: Sha256,
        /// Error of the operating system, or of the check of the hash.
        source: io::Error,
    },
    /// A cache could not be read, written or removed.
    #[error("cache {}: {}", shown(.path), without_paths(.source))]
    Cache {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A file could not be read, written or removed.
    #[error("{}: {}", shown(.path), without_paths(.source))]
    File {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A task in the background failed.
    #[error("task: {0}")]
    Task(String),
    /// A row that this version cannot read, or a value that cannot be stored in a way in which it can be read back.
    #[error("row: {0}")]
    Row(String),
    /// A unique name is in use.
    #[error("{0} already exists")]
    Exists(&'static str),
    /// Something refers to the row that was to be deleted.
    #[error("{0}")]
    InUse(&'static str),
    /// A change of status that is not legal.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
}

impl StoreError {
    /// True if the same write may succeed later: the disk is full or fails, or another program has locked the database.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::File { .. } | Self::Blob { .. } | Self::Database(sqlx::Error::Io(_)) => true,
            // SQLite's primary result code for errors of the operating system.
            Self::Database(error) if sqlite_code(error).is_some_and(|code| code & 0xff == 10) => true,
            _ => self.fault().is_some_and(|fault| !matches!(fault, StorageFault::Damaged | StorageFault::Replaced)),
        }
    }

    /// The condition of the storage that caused the error, where it has one that is not the fault of the request or of the program.
    pub fn fault(&self) -> Option<StorageFault> {
        StorageFault::behind(self)
    }

    /// The error for people who run a command: what is wrong with the storage and what to do, without SQLite's words for it.
    pub fn explained(&self) -> String {
        match (self.fault(), self) {
            (Some(fault), Self::Database(_) | Self::Migration(_)) => fault.description().to_owned(),
            (Some(fault @ (StorageFault::Full | StorageFault::ReadOnly)), _) => {
                format!("{} ({self})", fault.description())
            }
            _ => self.to_string(),
        }
    }

    /// True where the state of the data does not allow the change: a retry cannot succeed. The error message gives the reason.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::InUse(_) | Self::InvalidTransition(_) | Self::Gone)
    }

    /// Turns the violation of a unique constraint into `Exists`; other errors pass through.
    pub(super) fn from_insert(error: sqlx::Error, what: &'static str) -> Self {
        let exists = error.as_database_error().is_some_and(|e| e.is_unique_violation());
        if exists { Self::Exists(what) } else { error.into() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let names_no_row = error.as_database_error().is_some_and(|error| error.is_foreign_key_violation());
        if names_no_row { Self::Gone } else { Self::Database(error) }
    }
}

/// A condition of the data folder's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// The disk is full, or a quota is used up.
    Full,
    /// Another program has locked the database, or all connections are in use.
    Locked,
    /// The database is damaged.
    Damaged,
    /// The file of the database was removed or replaced.
    Replaced,
    /// The data folder cannot be written: a read-only file system, or missing permissions.
    ReadOnly,
}

impl StorageFault {
    /// The condition behind an error of any module: that of the first cause that has one.
    pub fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = if let Some(error) = error.downcast_ref::<io::Error>() {
                Self::of_io(error)
            } else if let Some(error) = error.downcast_ref::<sqlx::Error>() {
                Self::of_sqlx(error)
            } else {
                match error.downcast_ref() {
                    Some(StoreError::Damaged(_)) => Some(Self::Damaged),
                    Some(StoreError::Replaced) => Some(Self::Replaced),
                    _ => None,
                }
            };
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }

    /// Description for people, with what to do.
    pub fn description(self) -> &'static str {
        match self {
            Self::Full => "the disk of the data folder is full, or its quota is used up: free space there",
            Self::Locked => {
                "the database is locked by another program: retry. If it stays locked, find the program that holds \
                 thorax.sqlite open, such as a database browser or a backup"
            }
            Self::Damaged => "the database is damaged and is not written to: restore it from a backup",
            Self::Replaced => {
                "thorax.sqlite was removed or replaced while the server ran, and is not written to: restore the file if that \
                 was a mistake, then restart the server"
            }
            Self::ReadOnly => {
                "the data folder cannot be written: check the permissions of its files and whether the file system is mounted \
                 read-only"
            }
        }
    }

    /// The condition behind an error of the operating system.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Self::Full),
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Some(Self::ReadOnly),
            _ => error.get_ref().and_then(|inner| Self::behind(inner)),
        }
    }

    fn of_sqlx(error: &sqlx::Error) -> Option<Self> {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return Some(Self::Locked);
        }
        let code = sqlite_code(error)?;
        // https://www.sqlite.org/rescode.html. Two extended codes stand for a full disk: the index of the write-ahead log cannot grow
        // (IOERR_SHMSIZE), and a write fails for another reason than a full disk, such as a quota (IOERR_WRITE).
        match (code, code & 0xff) {
            (4874 | 778, _) | (_, 13) => Some(Self::Full),
            (_, 5 | 6) => Some(Self::Locked),
            (_, 11 | 26) => Some(Self::Damaged),
            (_, 8 | 14 | 3) => Some(Self::ReadOnly),
            _ => None,
        }
    }
}

/// SQLite's extended result code.
fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// A path relative to the data folder: messages reach clients and records of jobs, which must not show where the folder is.
fn shown(path: &Path) -> String {
    const FOLDERS: [&str; 5] = ["blobs", "cache", "runs", "jobs", "incoming"];
    let names: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        })
        .collect();
    let first = names.iter().rposition(|name| FOLDERS.contains(&&**name)).unwrap_or(names.len().saturating_sub(1));
    names[first..].join("/")
}

/// The message of the operating system. Some libraries wrap it with the path.
fn without_paths(error: &io::Error) -> String {
    match (error.raw_os_error(), error.get_ref()) {
        (None, Some(inner)) if !inner.to_string().contains('/') => inner.to_string(),
        (None, _) => error.kind().to_string(),
        (Some(_), _) => error.to_string(),
    }
}

/// The error of the operating system behind the error of a library, without the library's message, which has absolute paths.
pub(super) fn io_cause(error: &(dyn Error + 'static)) -> io::Error {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return found.raw_os_error().map_or_else(|| found.kind().into(), io::Error::from_raw_os_error);
        }
        next = error.source();
    }
    io::Error::other("unexpected error of the file store")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: i32 = 28;
    const QUOTA: i32 = 122;

    #[test]
    fn a_full_disk_is_recognised_through_any_number_of_causes() {
        for code in [FULL, QUOTA] {
            let file = || StoreError::File { path: "x".into(), source: io::Error::from_raw_os_error(code) };
            assert_eq!(file().fault(), Some(StorageFault::Full));
            assert_eq!(StorageFault::of_io(&io::Error::other(file())), Some(StorageFault::Full));
            assert!(file().may_pass());
        }
        let missing = StoreError::File { path: "x".into(), source: ErrorKind::NotFound.into() };
        assert_eq!(missing.fault(), None);
    }

    #[test]
    fn a_pool_without_a_free_connection_is_locked_and_damage_does_not_pass() {
        let locked = StoreError::from(sqlx::Error::PoolTimedOut);
        assert_eq!((locked.fault(), locked.may_pass()), (Some(StorageFault::Locked), true));
        let damaged = StoreError::Damaged("row 7 missing from index".into());
        assert_eq!((damaged.fault(), damaged.may_pass()), (Some(StorageFault::Damaged), false));
    }

    #[test]
    fn a_command_explains_a_fault_without_the_words_of_the_library() {
        let locked = StoreError::from(sqlx::Error::PoolTimedOut).explained();
        assert!(locked.contains("locked by another program") && !locked.contains("pool"), "{locked}");
        const READ_ONLY: i32 = 30;
        let source = io::Error::from_raw_os_error(READ_ONLY);
        let file = StoreError::File { path: "runs/7/x".into(), source }.explained();
        assert!(file.contains("mounted read-only (runs/7/x: "), "{file}");
    }

    #[test]
    fn messages_have_no_absolute_path() {
        let source = || io::Error::other("/srv/secret/data/runs/7 cannot be opened");
        let path = PathBuf::from("/srv/secret/data/runs/7/checkpoint-1.safetensors");
        let sha256 = Sha256::of(b"x");
        for error in [
            StoreError::File { path: path.clone(), source: source() },
            StoreError::Cache { path, source: source() },
            StoreError::File { path: "/srv/secret/notes".into(), source: io::Error::from_raw_os_error(FULL) },
            StoreError::Blob { sha256, source: source() },
        ] {
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
