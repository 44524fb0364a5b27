//! Preemption of low-priority work.
//!
//! Two teams share the processors. Workers of the low-priority team (training) pause between two work items while the
//! high-priority team (prediction) has work. An item takes some hundred microseconds, and a pause does not change any
//! result.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

thread_local! {
    static LOW_PRIORITY: Cell<bool> = const { Cell::new(false) };
}

/// Total time in which high-priority work paused low-priority calls, in nanoseconds.
static PREEMPTED_NANOS: AtomicU64 = AtomicU64::new(0);

/// Number of low-priority calls in progress.
static LOW_PRIORITY_ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// Gives this thread low priority: what it computes from now on pauses for the work of other threads.
pub fn lower_thread_priority() {
    LOW_PRIORITY.set(true);
}

/// True if this thread has low priority.
pub(super) fn is_thread_low_priority() -> bool {
    LOW_PRIORITY.get()
}

/// Total time since the start of the process in which low-priority work was paused in the middle of an operation.
pub fn preempted_time() -> Duration {
    Duration::from_nanos(PREEMPTED_NANOS.load(Ordering::Relaxed))
}

/// True if a low-priority operation is in progress, so that high-priority work delays it now.
pub fn is_low_priority_active() -> bool {
    LOW_PRIORITY_ACTIVE.load(Ordering::Relaxed) > 0
}

/// Link between a high-priority and a low-priority team.
#[derive(Debug, Default)]
pub(super) struct Preemption {
    /// Cheap copy of `requests.count > 0`, which the workers poll.
    requested: AtomicBool,
    requests: Mutex<Requests>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Requests {
    count: usize,
    /// Start of the current period with requests.
    since: Option<Instant>,
    /// Length of all earlier periods with requests.
    total: Duration,
    /// Threads that are paused now.
    paused: usize,
}

impl Requests {
    /// Length of all periods with requests, including the current one.
    fn total(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Preemption {
    /// Pauses the low-priority team until the guard is dropped.
    pub(super) fn preempt(&self) -> PreemptionGuard<'_> {
        let mut requests = self.requests.lock();
        requests.count += 1;
        if requests.count == 1 {
            requests.since = Some(Instant::now());
            self.requested.store(true, Ordering::Relaxed);
        }
        PreemptionGuard(self)
    }

    /// True while high-priority work is requested.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Pauses while high-priority work is requested.
    #[inline]
    pub(super) fn yield_point(&self) {
        if self.is_requested() {
            self.wait();
        }
    }

    #[cold]
    fn wait(&self) {
        let mut requests = self.requests.lock();
        requests.paused += 1;
        self.free.wait_while(&mut requests, |requests| requests.count > 0);
        requests.paused -= 1;
    }

    /// Number of threads that are paused now.
    #[cfg(test)]
    pub(super) fn paused_threads(&self) -> usize {
        self.requests.lock().paused
    }

    /// Until the timer is dropped, adds paused time to [`preempted_time`].
    pub(super) fn track_preempted_time(&self) -> PreemptedTimer<'_> {
        LOW_PRIORITY_ACTIVE.fetch_add(1, Ordering::Relaxed);
        PreemptedTimer { preemption: self, before: self.requests.lock().total() }
    }
}

/// High-priority work in progress.
#[derive(Debug)]
pub(super) struct PreemptionGuard<'a>(&'a Preemption);

impl Drop for PreemptionGuard<'_> {
    fn drop(&mut self) {
        let Preemption { requested, requests, free } = self.0;
        let mut requests = requests.lock();
        requests.count -= 1;
        if requests.count == 0 {
            requests.total = requests.total();
            requests.since = None;
            requested.store(false, Ordering::Relaxed);
            free.notify_all();
        }
    }
}

/// Measures the paused time of one low-priority call.
#[derive(Debug)]
pub(super) struct PreemptedTimer<'a> {
    preemption: &'a Preemption,
    before: Duration,
}

impl Drop for PreemptedTimer<'_> {
    fn drop(&mut self) {
        let taken = self.preemption.requests.lock().total().saturating_sub(self.before);
        LOW_PRIORITY_ACTIVE.fetch_sub(1, Ordering::Relaxed);
        PREEMPTED_NANOS.fetch_add(taken.as_nanos() as u64, Ordering::Relaxed);
    }
}
