//! The limit of open files: raised at the start, and divided between connections and files.

use std::{fs, num::NonZeroUsize};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::AppError;

/// Folder with an entry for each open descriptor of the process.
const OPEN_DESCRIPTORS: &str = "/dev/fd";

/// Number of open descriptors where they cannot be counted: more than a server has after its start.
const ASSUMED_OPEN: usize = 40;

/// Number of connections without a configured maximum, if the limit of open files allows it.
const DEFAULT_MAX_CONNECTIONS: usize = 1024;

/// Minimum number of regular connections.
const MIN_CONNECTIONS: usize = 4;

/// Bounds of the number of reserved connections.
const RESERVED: std::ops::RangeInclusive<usize> = 4..=16;

/// Numbers of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Regular connections.
    pub(super) max: usize,
    /// Reserved connections, for probes.
    pub(super) reserved: usize,
}

/// Raises the limit of open files as far as the process may, and returns it; `None` if there is no limit.
pub(super) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, limit = current, "cannot raise the limit of open files");
            current
        }
    }
}

/// Number of open descriptors.
pub(super) fn open() -> usize {
    match fs::read_dir(OPEN_DESCRIPTORS) {
        // One of them is that of the folder.
        Ok(entries) => entries.count().saturating_sub(1),
        Err(error) => {
            tracing::warn!(%error, "cannot count the descriptors in {OPEN_DESCRIPTORS}: assuming {ASSUMED_OPEN}");
            ASSUMED_OPEN
        }
    }
}

/// Divides the descriptors up to `limit`, of which `open` are in use: half of the rest is for connections, the other half for the files
/// that their requests need (database, images, uploads).
pub(super) fn capacity(
    limit: Option<u64>,
    open: usize,
    configured: Option<NonZeroUsize>,
) -> Result<Capacity, AppError> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let available = limit.saturating_sub(open) / 2;
    let wanted = configured.map_or(DEFAULT_MAX_CONNECTIONS, NonZeroUsize::get);
    let reserved = (available.min(wanted) / 8).clamp(*RESERVED.start(), *RESERVED.end());
    let max = wanted.min(available.saturating_sub(reserved));
    if max < MIN_CONNECTIONS.min(wanted) {
        let needed = open + 2 * (MIN_CONNECTIONS + RESERVED.start());
        return Err(AppError::Descriptors { limit, needed });
    }
    if configured.is_some() && max < wanted {
        tracing::warn!(max, wanted, limit, "the limit of open files allows fewer connections than configured");
    }
    Ok(Capacity { max, reserved })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: u64, open: usize, configured: usize) -> (usize, usize) {
        let Capacity { max, reserved } = capacity(Some(limit), open, NonZeroUsize::new(configured)).unwrap();
        (max, reserved)
    }

    #[test]
    fn connections_leave_half_of_the_descriptors_to_files() {
        assert_eq!(of(64, 24, 0), (16, 4));
        assert_eq!(of(1024, 24, 0), (484, 16));
        assert_eq!(of(1 << 20, 24, 0), (DEFAULT_MAX_CONNECTIONS, 16));
        assert_eq!(of(1 << 20, 24, 10_000), (10_000, 16));
        assert_eq!(of(64, 24, 2), (2, 4), "fewer than the minimum, if configured");
        assert_eq!(of(1024, 24, 10_000), (484, 16), "no more than there is room for");
        assert_eq!(capacity(None, 24, None).unwrap().max, DEFAULT_MAX_CONNECTIONS);
        for limit in 41..200 {
            let (max, reserved) = of(limit, 24, 0);
            assert!(24 + 2 * (max + reserved) <= limit as usize, "{limit}: {max}, {reserved}");
        }
    }

    #[test]
    fn a_limit_that_leaves_no_connections_is_refused_with_the_one_that_is_needed() {
        let error = capacity(Some(32), 24, None).unwrap_err().to_string();
        assert!(error.contains("32") && error.contains("40"), "{error}");
        assert_eq!(of(40, 24, 0), (4, 4));
    }

    #[test]
    fn counts_open_descriptors() {
        let before = open();
        let _files: Vec<_> = (0..100).map(|_| tempfile::tempfile().unwrap()).collect();
        // Other tests open and close files, too.
        assert!(open() > before);
    }
}
