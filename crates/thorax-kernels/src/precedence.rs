//! Predictions before training: two teams have the same processors, and the members of one stand still between two pieces of their work
//! while the other has something to do. A piece is some hundred microseconds of an operation, whose result is the same as without.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Time in which calls from threads that give way had others before them, in nanoseconds.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// Calls from threads that give way that are under way.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// From now on what this thread computes gives way to what other threads do: for the thread that trains.
pub fn give_way_here() {
    GIVES_WAY.set(true);
}

/// Whether it does.
pub(super) fn gives_way_here() -> bool {
    GIVES_WAY.get()
}

/// For how long training has stood still for predictions in the midst of an operation, since the process began.
pub fn waited() -> Duration {
    Duration::from_nanos(WAITED.load(Ordering::Relaxed))
}

/// Whether training is in the midst of an operation, so that what another thread computes now holds it up.
pub fn is_training() -> bool {
    UNDER_WAY.load(Ordering::Relaxed) > 0
}

/// Between a team that goes first and one that gives way.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    /// What the members look at, who do so often: whether `claims` has any.
    claimed: AtomicBool,
    claims: Mutex<Claims>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Claims {
    count: usize,
    /// When the first of those that are there came.
    since: Option<Instant>,
    /// For how long there were any, up to the last time that there were none.
    total: Duration,
}

impl Claims {
    /// For how long there have been any.
    fn total(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Precedence {
    /// Has the others stand still until the claim is dropped.
    pub(super) fn go_first(&self) -> Claim<'_> {
        let mut claims = self.claims.lock();
        claims.count += 1;
        if claims.count == 1 {
            claims.since = Some(Instant::now());
            self.claimed.store(true, Ordering::Relaxed);
        }
        Claim(self)
    }

    /// Whether anybody goes first now.
    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }

    /// Returns when nobody goes first.
    #[inline]
    pub(super) fn give_way(&self) {
        if self.is_claimed() {
            self.wait();
        }
    }

    #[cold]
    fn wait(&self) {
        let mut claims = self.claims.lock();
        self.free.wait_while(&mut claims, |claims| claims.count > 0);
    }

    /// Adds to [`waited`] what others take of the time until it is dropped.
    pub(super) fn count_waits(&self) -> Waits<'_> {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        Waits { precedence: self, before: self.claims.lock().total() }
    }
}

/// Somebody goes first.
#[derive(Debug)]
pub(super) struct Claim<'a>(&'a Precedence);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let Precedence { claimed, claims, free } = self.0;
        let mut claims = claims.lock();
        claims.count -= 1;
        if claims.count == 0 {
            claims.total = claims.total();
            claims.since = None;
            claimed.store(false, Ordering::Relaxed);
            free.notify_all();
        }
    }
}

/// Somebody's waits are counted.
#[derive(Debug)]
pub(super) struct Waits<'a> {
    precedence: &'a Precedence,
    before: Duration,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let taken = self.precedence.claims.lock().total().saturating_sub(self.before);
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        WAITED.fetch_add(taken.as_nanos() as u64, Ordering::Relaxed);
    }
}
