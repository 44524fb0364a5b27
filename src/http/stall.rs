//! Deadlines of transfers: a peer must keep a minimum rate, and may pause for a limited time.
//!
//! Only time in which this side waits for its peer counts. A server that is busy with what it has received does not make its client late.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Minimum rate of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time that the transfer may wait for its peer: waiting uses it up, and each byte restores its share at the minimum rate.
    pub allowance: Duration,
    /// Minimum rate.
    pub min_bytes_per_second: u64,
    /// Maximum time of waiting in all.
    pub max_wait: Duration,
}

/// Pace of transfers while the server shuts down: fast ones complete, and the shutdown does not wait for others.
const SHUTDOWN: Pace =
    Pace { allowance: Duration::from_secs(5), min_bytes_per_second: 256 << 10, max_wait: Duration::MAX };

/// Measures the waiting of one transfer against its [`Pace`].
pub struct StallTimer {
    waiting: Waiting,
    timer: Option<Pin<Box<Sleep>>>,
    /// Cancelled when the server shuts down.
    shutdown: CancellationToken,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    is_hurried: bool,
}

impl StallTimer {
    /// A timer that holds the peer to `pace`, and to a faster one once `shutdown` is cancelled.
    pub fn new(pace: Pace, shutdown: CancellationToken) -> Self {
        Self { waiting: Waiting::new(pace), timer: None, shutdown, cancelled: None, is_hurried: false }
    }

    /// Records bytes that the peer sent or accepted.
    pub fn progress(&mut self, bytes: usize) {
        self.waiting.end(bytes, Instant::now());
    }

    /// Ready once the peer is too late. Call it whenever the transfer has to wait.
    pub fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if !self.is_hurried && self.shutdown.is_cancelled() {
            self.is_hurried = true;
            self.waiting.hurry(SHUTDOWN, now);
        }
        let deadline = self.waiting.deadline(now);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if !self.is_hurried {
            let shutdown = &self.shutdown;
            let cancelled = self.cancelled.get_or_insert_with(|| Box::pin(shutdown.clone().cancelled_owned()));
            if cancelled.as_mut().poll(context).is_ready() {
                return self.poll_expired(context);
            }
        }
        Poll::Pending
    }

    /// True if the peer was held to the pace of a shutdown.
    pub fn is_hurried(&self) -> bool {
        self.is_hurried
    }
}

/// Time that a transfer may still wait.
struct Waiting {
    pace: Pace,
    allowance: Duration,
    max_wait: Duration,
    since: Option<Instant>,
}

impl Waiting {
    fn new(pace: Pace) -> Self {
        Self { pace, allowance: pace.allowance, max_wait: pace.max_wait, since: None }
    }

    /// The time at which the peer is too late, unless bytes arrive before.
    fn deadline(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        // A century is more than any wait, and less than the clock overflows at.
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        since + self.allowance.min(self.max_wait).min(CENTURY)
    }

    /// Ends the waiting with this number of bytes.
    fn end(&mut self, bytes: usize, now: Instant) {
        let waited = self.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let seconds = bytes as f64 / self.pace.min_bytes_per_second.max(1) as f64;
        let restored = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.allowance = self.allowance.saturating_sub(waited).saturating_add(restored).min(self.pace.allowance);
        self.max_wait = self.max_wait.saturating_sub(waited);
    }

    /// Holds the peer to another pace from now on.
    fn hurry(&mut self, pace: Pace, now: Instant) {
        self.end(0, now);
        self.pace = pace;
        self.allowance = self.allowance.min(pace.allowance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { allowance: Duration::from_secs(10), min_bytes_per_second: 100, max_wait: Duration::from_secs(60) };

    /// A transfer and its clock, in seconds.
    struct Transfer {
        waiting: Waiting,
        began: Instant,
        now: u64,
    }

    impl Transfer {
        fn new() -> Self {
            Self { waiting: Waiting::new(PACE), began: Instant::now(), now: 0 }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.began + Duration::from_secs(seconds)
        }

        /// Receives `bytes` bytes after `seconds` seconds; false if the deadline has passed.
        fn receive(&mut self, bytes: usize, seconds: u64) -> bool {
            let deadline = self.waiting.deadline(self.at(self.now));
            self.now += seconds;
            let in_time = self.at(self.now) < deadline;
            self.waiting.end(bytes, self.at(self.now));
            in_time
        }
    }

    #[test]
    fn a_peer_that_sends_nothing_is_late_after_the_allowance() {
        assert!(Transfer::new().receive(1, 9));
        assert!(!Transfer::new().receive(1, 10));
    }

    #[test]
    fn bytes_at_the_minimum_rate_restore_the_allowance_and_fewer_do_not() {
        let mut steady = Transfer::new();
        assert!((0..8).all(|_| steady.receive(500, 5)));
        let mut drip = Transfer::new();
        assert!(drip.receive(1, 4) && drip.receive(1, 4));
        assert!(!drip.receive(1, 4), "three bytes in twelve seconds");
    }

    #[test]
    fn the_whole_wait_is_limited_whatever_arrives() {
        let mut fast = Transfer::new();
        assert!((0..11).all(|_| fast.receive(1 << 20, 5)));
        assert!(!fast.receive(1 << 20, 5));
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let mut busy = Transfer::new();
        assert!(busy.receive(1000, 9));
        busy.now += 3600;
        assert!(busy.receive(1000, 9));
    }

    #[tokio::test]
    async fn a_shutdown_hurries_a_peer_that_is_waited_for() {
        let hour = Duration::from_secs(3600);
        let pace = Pace { allowance: hour, min_bytes_per_second: 1, max_wait: hour };
        let shutdown = CancellationToken::new();
        let mut timer = StallTimer::new(pace, shutdown.clone());
        let expired = std::future::poll_fn(|context| {
            let polled = timer.poll_expired(context);
            shutdown.cancel();
            polled
        });
        expired.await;
        assert!(timer.is_hurried());
    }
}
