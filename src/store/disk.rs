//! The disk of the data folder: its free space, and a small reserve with which a server starts on a full disk.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::TryRngCore;

/// Free space in bytes below which the server warns, unless the configuration says otherwise.
pub const DEFAULT_LOW_BYTES: u64 = 1 << 30;

/// File of the reserve.
pub(super) const RESERVE_FILE: &str = "reserved-space";

/// Size of the reserve. Opening the database takes 32 KiB for the index of its write-ahead log, which is created with each start.
const RESERVE_BYTES: u64 = 4 << 20;

/// Part of the reserve that one attempt to open the database releases.
const RELEASE_BYTES: u64 = 256 << 10;

/// The disk of a data folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk {
    folder: Arc<Path>,
    /// Free space in bytes below which readiness and the log warn; 0 never warns.
    pub low_bytes: u64,
}

/// Space on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Space that this user can still write.
    pub free: u64,
    /// Size of the file system.
    pub total: u64,
}

impl Disk {
    /// The disk on which the folder is.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.into(), low_bytes: DEFAULT_LOW_BYTES }
    }

    /// The same disk with another limit for warnings.
    pub fn with_low_bytes(self, low_bytes: u64) -> Self {
        Self { low_bytes, ..self }
    }

    /// Current space. A quota of the user does not show in it.
    ///
    /// # Errors
    /// When the folder is missing, or the file system does not tell.
    pub fn space(&self) -> io::Result<DiskSpace> {
        let found = rustix::fs::statvfs(&*self.folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(DiskSpace { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    /// A warning for people, if less than [`Disk::low_bytes`] are free.
    pub fn warning(&self) -> Option<String> {
        match self.space() {
            Ok(DiskSpace { free, .. }) if free >= self.low_bytes => None,
            Ok(DiskSpace { free, .. }) => Some(format!(
                "the disk of the data folder has {} MiB free, less than the limit of {} MiB (THORAX_LOW_DISK_BYTES): free \
                 space before writes fail",
                free >> 20,
                self.low_bytes >> 20
            )),
            Err(error) => Some(format!("the free space of the data folder's disk cannot be read: {error}")),
        }
    }

    fn reserve(&self) -> PathBuf {
        self.folder.join(RESERVE_FILE)
    }

    /// Fills the reserve, if the disk has room for it.
    pub(super) fn fill_reserve(&self) -> io::Result<()> {
        let path = self.reserve();
        let length = match path.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            file => file?.len(),
        };
        if length >= RESERVE_BYTES || self.space()?.free < 4 * RESERVE_BYTES {
            return Ok(());
        }
        // Random bytes: a file system that compresses, or stores zeros as holes, would reserve nothing.
        let mut bytes = vec![0; RESERVE_BYTES as usize];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    }

    /// Releases a part of the reserve; false if nothing is left of it.
    pub(super) fn release_reserve(&self) -> bool {
        let release = || {
            let file = File::options().write(true).open(self.reserve())?;
            let length = file.metadata()?.len();
            if length == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            file.set_len(length.saturating_sub(RELEASE_BYTES))?;
            file.sync_all()
        };
        release().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_below_the_limit_only() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::of(folder.path());
        let DiskSpace { free, total } = disk.space().unwrap();
        assert!(free > 0 && free <= total);
        let with = |low_bytes| Disk { low_bytes, ..disk.clone() }.warning();
        assert_eq!(with(0), None);
        assert!(with(u64::MAX).unwrap().contains("MiB free"));
    }

    #[test]
    fn the_reserve_is_released_step_by_step_until_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::of(folder.path());
        assert!(!disk.release_reserve(), "there is none yet");
        disk.fill_reserve().unwrap();
        assert_eq!(disk.reserve().metadata().unwrap().len(), RESERVE_BYTES);
        let mut steps = 0;
        while disk.release_reserve() {
            steps += 1;
        }
        assert_eq!(steps, RESERVE_BYTES / RELEASE_BYTES);
        disk.fill_reserve().unwrap();
        assert_eq!(disk.reserve().metadata().unwrap().len(), RESERVE_BYTES);
    }
}
