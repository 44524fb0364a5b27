//! Limits on bodies: what they may take of memory, disk and time.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, Pace};

/// Limits on bodies.
#[derive(Clone, Copy, Debug)]
pub struct TransferLimits {
    /// Pace of request bodies.
    pub body_pace: Pace,
    /// Maximum time in which a client takes nothing of a streamed response.
    pub read_pause: Duration,
    /// Maximum size of a JSON body, in bytes.
    pub max_json_bytes: usize,
    /// Maximum number of parts of a form.
    pub max_form_parts: u32,
    /// Maximum memory of the bodies that are being received, in bytes, and as much again for those that are read back from disk.
    pub max_memory_bytes: u64,
    /// Maximum disk space of the bodies that are being received, in bytes.
    pub max_spool_bytes: u64,
}

/// Maximum number of exports that are being sent: each holds some images in memory.
const MAX_EXPORTS: usize = 16;

/// Unit of [`Transfers::loads`], since a semaphore counts no more than 32 bits at once.
const LOAD_UNIT: u64 = 1024;

/// Budgets of bodies; cheap to clone.
#[derive(Clone, Debug)]
pub struct Transfers {
    /// The limits.
    pub limits: TransferLimits,
    pub(super) memory: Budget,
    pub(super) disk: Budget,
    pub(super) incoming: Arc<Path>,
    /// Memory of bodies that are read back from disk. Its own budget: those who hold it wait for no client, so that it always frees up.
    loads: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    parsers: Arc<Semaphore>,
}

/// A shared amount, of which shares are taken without waiting.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    used: AtomicU64,
    max: u64,
}

/// A part of a budget. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    taken: u64,
}

impl Budget {
    fn new(max: u64) -> Self {
        Self(Arc::new(BudgetState { used: AtomicU64::new(0), max }))
    }

    /// An empty share.
    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), taken: 0 }
    }
}

impl Share {
    /// Adds to the share; false, without a change, where the budget is used up.
    #[must_use]
    pub(super) fn grow(&mut self, by: u64) -> bool {
        let BudgetState { used, max } = &*self.budget.0;
        let sum = |used: u64| used.checked_add(by).filter(|sum| sum <= max);
        let grown = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok();
        self.taken += if grown { by } else { 0 };
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl Transfers {
    /// Budgets of `limits`; bodies that are too large for memory are written to the folder `incoming`.
    pub fn new(limits: TransferLimits, incoming: Arc<Path>) -> Self {
        let load_units = usize::try_from(limits.max_memory_bytes / LOAD_UNIT).unwrap_or(usize::MAX);
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            limits,
            memory: Budget::new(limits.max_memory_bytes),
            disk: Budget::new(limits.max_spool_bytes),
            incoming,
            loads: Arc::new(Semaphore::new(load_units.clamp(1, Semaphore::MAX_PERMITS))),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
            parsers: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Waits for memory in which a body of so many bytes is read back from disk. A body larger than the budget takes all of it.
    pub(super) async fn load_permit(&self, length: u64) -> Result<OwnedSemaphorePermit, ApiError> {
        let total = self.limits.max_memory_bytes / LOAD_UNIT;
        let units = length.div_ceil(LOAD_UNIT).min(total).max(1);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.loads).acquire_many_owned(units).await.map_err(ApiError::internal)
    }

    /// A permit of one of the exports that may be sent at once.
    ///
    /// # Errors
    /// 429 where all are in use.
    pub(super) fn export_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = |_| ApiError::Busy(format!("{MAX_EXPORTS} exports are being sent: retry when one is done"));
        Arc::clone(&self.exports).try_acquire_owned().map_err(busy)
    }

    /// Parses a long body on a blocking thread, at most one a core: a tree of JSON takes many times the memory of its text.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        parse: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.parsers).acquire_owned().await.map_err(ApiError::internal)?;
        let work = move || {
            let _permit = permit;
            parse()
        };
        tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_their_budget_and_give_it_back() {
        let budget = Budget::new(10);
        let (mut first, mut second) = (budget.share(), budget.share());
        assert!(first.grow(6) && !second.grow(5) && second.grow(4) && !first.grow(1));
        drop(first);
        assert!(!second.grow(7) && second.grow(6));
        assert!(!second.grow(u64::MAX));
        drop(second);
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 0);
    }
}
