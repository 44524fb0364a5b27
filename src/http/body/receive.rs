//! Received bodies: in memory while they are small and the budget lasts, else in a temporary file.

use std::{io::Read, path::Path};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use tempfile::NamedTempFile;
use tokio::{fs::File, io::AsyncWriteExt, sync::OwnedSemaphorePermit};

use super::BodyError;
use crate::http::{
    ApiError,
    transfers::{Share, Transfers},
};

/// Maximum size of a body that is received in memory.
const MAX_IN_MEMORY: u64 = 16 << 20;

/// A body that is being received.
pub(in crate::http) struct Receiver {
    transfers: Transfers,
    /// Length that the client declared, for which memory is reserved at once: growing would copy.
    declared: Option<u64>,
    limit: u64,
    length: u64,
    storage: Storage,
}

/// A body that was received whole.
pub(in crate::http) struct Received {
    transfers: Transfers,
    length: u64,
    storage: Storage,
}

enum Storage {
    Memory { bytes: Vec<u8>, share: Share },
    Disk { file: NamedTempFile, writer: File, share: Share },
}

/// Bytes with their share of a budget.
struct BudgetedBytes<T> {
    bytes: Vec<u8>,
    _budget: T,
}

impl<T> AsRef<[u8]> for BudgetedBytes<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Receiver {
    /// Receives at most `limit` bytes.
    ///
    /// # Errors
    /// 413 for a client that declared more.
    pub(in crate::http) fn new(transfers: &Transfers, declared: Option<u64>, limit: u64) -> Result<Self, ApiError> {
        if declared.is_some_and(|declared| declared > limit) {
            return Err(BodyError::TooLarge(limit).into());
        }
        let storage = Storage::Memory { bytes: Vec::new(), share: transfers.memory.share() };
        Ok(Self { transfers: transfers.clone(), declared, limit, length: 0, storage })
    }

    /// Receives at most `limit` bytes into a file.
    pub(in crate::http) async fn in_file(transfers: &Transfers, limit: u64) -> Result<Self, ApiError> {
        let mut receiver = Self::new(transfers, None, limit)?;
        receiver.move_to_disk().await?;
        Ok(receiver)
    }

    /// Receives a whole body.
    ///
    /// # Errors
    /// 413 beyond the limit, 503 where the disk budget is used up, and the errors of the body.
    pub(in crate::http) async fn receive(mut self, body: Body) -> Result<Received, ApiError> {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            self.push(&chunk.map_err(|error| ApiError::of_body(&error))?).await?;
        }
        self.finish().await
    }

    /// Adds a chunk.
    pub(in crate::http) async fn push(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        self.length += chunk.len() as u64;
        if self.length > self.limit {
            return Err(BodyError::TooLarge(self.limit).into());
        }
        if !self.push_to_memory(chunk) {
            self.move_to_disk().await?;
        }
        if let Storage::Disk { writer, share, .. } = &mut self.storage {
            if !share.grow(chunk.len() as u64) {
                return Err(no_space());
            }
            writer.write_all(chunk).await.map_err(ApiError::internal)?;
        }
        Ok(())
    }

    /// True if the chunk was added in memory, or does not belong there; false where there is no room.
    fn push_to_memory(&mut self, chunk: &[u8]) -> bool {
        let Storage::Memory { bytes, share } = &mut self.storage else { return true };
        let length = bytes.len() + chunk.len();
        if self.declared.unwrap_or(0).max(length as u64) > MAX_IN_MEMORY {
            return false;
        }
        // Memory that is reserved and not yet written costs nothing; that of a buffer which grows is copied, and counts.
        let (counted, grown) = match self.declared.and_then(|declared| usize::try_from(declared).ok()) {
            Some(declared) if length <= declared => (bytes.len()..length, declared),
            _ if length <= bytes.capacity() => (0..0, bytes.capacity()),
            _ => (bytes.capacity()..length.max(2 * bytes.capacity()), length.max(2 * bytes.capacity())),
        };
        if !share.grow(counted.len() as u64) {
            return false;
        }
        bytes.reserve_exact(grown.saturating_sub(bytes.len()));
        bytes.extend_from_slice(chunk);
        true
    }

    async fn move_to_disk(&mut self) -> Result<(), ApiError> {
        let Storage::Memory { bytes, .. } = &mut self.storage else { return Ok(()) };
        let bytes = std::mem::take(bytes);
        let mut share = self.transfers.disk.share();
        if !share.grow(bytes.len() as u64) {
            return Err(no_space());
        }
        let incoming = self.transfers.incoming.clone();
        let create = move || {
            let file = NamedTempFile::new_in(incoming)?;
            let writer = file.reopen()?;
            Ok::<_, std::io::Error>((file, writer))
        };
        let created = tokio::task::spawn_blocking(create).await.map_err(ApiError::internal)?;
        let (file, writer) = created.map_err(ApiError::internal)?;
        let mut writer = File::from_std(writer);
        writer.write_all(&bytes).await.map_err(ApiError::internal)?;
        self.storage = Storage::Disk { file, writer, share };
        Ok(())
    }

    /// Ends the receipt.
    pub(in crate::http) async fn finish(self) -> Result<Received, ApiError> {
        let Self { transfers, length, mut storage, .. } = self;
        if let Storage::Disk { writer, .. } = &mut storage {
            writer.flush().await.map_err(ApiError::internal)?;
        }
        Ok(Received { transfers, length, storage })
    }
}

impl Received {
    /// The file of a body that was received into one.
    pub(in crate::http) fn path(&self) -> Option<&Path> {
        match &self.storage {
            Storage::Memory { .. } => None,
            Storage::Disk { file, .. } => Some(file.path()),
        }
    }

    /// The bytes, which count against a budget until they are dropped. Waits for memory where the body is on disk.
    pub(in crate::http) async fn load(self) -> Result<Bytes, ApiError> {
        match self.storage {
            Storage::Memory { bytes, share } => Ok(Bytes::from_owner(BudgetedBytes { bytes, _budget: share })),
            Storage::Disk { file, .. } => {
                let permit = self.transfers.load_permit(self.length).await?;
                let capacity = usize::try_from(self.length).map_err(ApiError::internal)?;
                let read = move || -> std::io::Result<BudgetedBytes<OwnedSemaphorePermit>> {
                    let mut bytes = Vec::with_capacity(capacity);
                    std::fs::File::open(file.path())?.read_to_end(&mut bytes)?;
                    Ok(BudgetedBytes { bytes, _budget: permit })
                };
                let read = tokio::task::spawn_blocking(read).await.map_err(ApiError::internal)?;
                read.map(Bytes::from_owner).map_err(ApiError::internal)
            }
        }
    }
}

fn no_space() -> ApiError {
    ApiError::Unavailable(
        "the server is receiving as many large bodies as it has room for (THORAX_MAX_SPOOL_BYTES): retry later".into(),
    )
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use futures_util::stream;

    use super::*;
    use crate::http::{Pace, TransferLimits};

    fn transfers(folder: &Path, memory: u64, disk: u64) -> Transfers {
        let second = Duration::from_secs(1);
        let limits = TransferLimits {
            body_pace: Pace { allowance: second, min_bytes_per_second: 1, max_wait: second },
            read_pause: second,
            max_json_bytes: 1024,
            max_form_parts: 10,
            max_memory_bytes: memory,
            max_spool_bytes: disk,
        };
        Transfers::new(limits, folder.into())
    }

    fn body(length: usize) -> Body {
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let chunks: Vec<_> = bytes.chunks(700).map(|chunk| Ok::<_, axum::Error>(chunk.to_vec())).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn bodies_beyond_the_memory_budget_go_to_disk_and_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let transfers = transfers(folder.path(), 6000, 10_000);
        for declared in [Some(4000), None] {
            let receive = || Receiver::new(&transfers, declared, 8000).unwrap().receive(body(4000));
            let first = receive().await.unwrap();
            let second = receive().await.unwrap();
            assert_eq!((first.path().is_some(), second.path().is_some()), (false, true), "{declared:?}");
            let (first, second) = (first.load().await.unwrap(), second.load().await.unwrap());
            assert!(first == second && first.len() == 4000);
            drop(first);
            assert!(receive().await.unwrap().path().is_none(), "the first one gave its memory back");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the files are gone");
    }

    #[tokio::test]
    async fn a_body_without_room_on_disk_is_refused_for_now_and_one_over_the_limit_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let transfers = transfers(folder.path(), 1000, 3000);
        let receive = |limit, length| Receiver::new(&transfers, None, limit).unwrap().receive(body(length));
        assert!(matches!(receive(8000, 4000).await, Err(ApiError::Unavailable(_))));
        assert!(matches!(receive(2000, 4000).await, Err(ApiError::TooLarge(_))));
        assert!(matches!(Receiver::new(&transfers, Some(4000), 2000), Err(ApiError::TooLarge(_))));
        assert_eq!(receive(8000, 2900).await.unwrap().load().await.unwrap().len(), 2900, "what failed holds nothing");
    }
}
