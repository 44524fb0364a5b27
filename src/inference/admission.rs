//! Admission control: a bounded number of requests and images in flight, refused instead of queued without bound; the `Retry-After` of a
//! refusal; and a gate at which the trainer waits until no prediction is in flight.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use crate::metrics::{Outcome, Predictions};

/// Weight of the newest interval in the moving average of intervals: a memory of some batches' worth of responses.
const EMA_WEIGHT: f64 = 1.0 / 16.0;

/// Largest `Retry-After` in seconds: the load may be gone by then.
const MAX_RETRY_AFTER: f64 = 120.0;

/// Maximum time that a request whose body is complete waits for a permit.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Counts the requests in flight, from the beginning of their body to their response. A request whose images are classified concurrently counts once for
/// each of them. A request beyond the capacity is refused, with the number of seconds after which to retry.
#[derive(Debug)]
pub(super) struct Admission {
    state: Mutex<State>,
    /// Notified when a permit is returned.
    returned: Notify,
    capacity: usize,
    metrics: Predictions,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    /// Requests whose body is complete and that wait for a permit. New requests do not overtake them.
    waiting: usize,
    throughput: Throughput,
}

/// Moving average of the interval between two completions, measured only while other requests are in flight.
#[derive(Debug, Default)]
struct Throughput {
    seconds_per_request: Option<f64>,
    /// Time of the last completion that left other requests in flight.
    last_completion: Option<Instant>,
}

/// Permit of a request in flight. Dropping it frees the slot, also when the client hangs up.
#[derive(Debug)]
pub struct RequestPermit(Arc<Admission>);

impl Admission {
    pub(super) fn new(capacity: usize, metrics: Predictions) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), returned: Notify::new(), capacity, metrics })
    }

    /// Returns a permit, or without waiting the number of seconds after which to retry.
    pub(super) fn try_enter(self: &Arc<Self>) -> Result<RequestPermit, u64> {
        let mut state = self.lock();
        self.check(&state)?;
        Ok(self.enter(&mut state))
    }

    /// Succeeds where [`Admission::try_enter`] would.
    pub(super) fn check_capacity(&self) -> Result<(), u64> {
        self.check(&self.lock())
    }

    /// Waits for a permit, for a request whose body is complete. At most as many requests wait as can be in flight.
    pub(super) async fn enter_later(self: &Arc<Self>) -> Result<RequestPermit, u64> {
        let refused = || {
            self.metrics.ended(Outcome::Refused);
            self.retry_after_seconds()
        };
        let Some(_waiting) = WaitingRequest::new(self) else { return Err(refused()) };
        let entered = async {
            loop {
                let returned = self.returned.notified();
                let permit = {
                    let mut state = self.lock();
                    (state.in_flight < self.capacity).then(|| self.enter(&mut state))
                };
                if let Some(permit) = permit {
                    return permit;
                }
                returned.await;
            }
        };
        timeout(MAX_WAIT, entered).await.map_err(|_| refused())
    }

    fn check(&self, state: &State) -> Result<(), u64> {
        if state.in_flight + state.waiting < self.capacity {
            return Ok(());
        }
        self.metrics.ended(Outcome::Refused);
        Err(state.retry_after_seconds())
    }

    fn enter(self: &Arc<Self>, state: &mut State) -> RequestPermit {
        state.in_flight += 1;
        self.metrics.entered();
        RequestPermit(Arc::clone(self))
    }

    /// Returns an additional permit for a request that holds one, while less than half of the capacity is in use.
    pub(super) fn try_enter_additional(self: &Arc<Self>) -> Option<RequestPermit> {
        let mut state = self.lock();
        if 2 * (state.in_flight + state.waiting) >= self.capacity {
            return None;
        }
        Some(self.enter(&mut state))
    }

    /// Estimated seconds until all requests now in flight have completed.
    pub(super) fn retry_after_seconds(&self) -> u64 {
        self.lock().retry_after_seconds()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for a permit.
struct WaitingRequest<'a>(&'a Admission);

impl<'a> WaitingRequest<'a> {
    /// `None` where too many wait.
    fn new(admission: &'a Admission) -> Option<Self> {
        let mut state = admission.lock();
        if state.waiting >= admission.capacity {
            return None;
        }
        state.waiting += 1;
        drop(state);
        Some(Self(admission))
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
        // It may have been notified, and given up at the same time.
        self.0.returned.notify_one();
    }
}

impl State {
    fn retry_after_seconds(&self) -> u64 {
        let all = self.throughput.seconds_per_request.unwrap_or_default() * self.in_flight as f64;
        all.ceil().clamp(1.0, MAX_RETRY_AFTER) as u64
    }
}

impl Throughput {
    fn record_completion(&mut self, now: Instant, others_in_flight: bool) {
        if let Some(before) = self.last_completion {
            let seconds = now.saturating_duration_since(before).as_secs_f64();
            let mean = self.seconds_per_request.unwrap_or(seconds);
            self.seconds_per_request = Some(mean + EMA_WEIGHT * (seconds - mean));
        }
        self.last_completion = others_in_flight.then_some(now);
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight -= 1;
        let others_in_flight = state.in_flight > 0;
        state.throughput.record_completion(Instant::now(), others_in_flight);
        self.0.metrics.left();
        self.0.returned.notify_one();
    }
}

/// Counts the images in flight in the engine. The trainer waits here until there are none.
#[derive(Debug)]
pub(super) struct Gate {
    in_flight: Mutex<usize>,
    emptied: Condvar,
    capacity: usize,
}

/// Permit of an image in flight. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct ImagePermit(Arc<Gate>);

impl Gate {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { in_flight: Mutex::new(0), emptied: Condvar::new(), capacity })
    }

    /// Returns a permit, or `None` without waiting when the capacity is in use.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<ImagePermit> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if *in_flight >= self.capacity {
            return None;
        }
        *in_flight += 1;
        Some(ImagePermit(Arc::clone(self)))
    }

    /// Blocks until no image is in flight.
    pub(super) fn wait_until_empty(&self) {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.emptied.wait_while(in_flight, |in_flight| *in_flight > 0));
    }
}

impl Drop for ImagePermit {
    fn drop(&mut self) {
        let mut in_flight = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        *in_flight -= 1;
        if *in_flight == 0 {
            self.0.emptied.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refuses_requests_at_capacity_until_one_completes() {
        let admission = Admission::new(1, Predictions::new(1));
        let permit = admission.try_enter();
        assert!(permit.is_ok());
        assert_eq!(admission.try_enter().err(), Some(1));
        assert_eq!(admission.metrics.count(Outcome::Refused), 1);
        drop(permit);
        assert!(admission.try_enter().is_ok());
    }

    #[tokio::test]
    async fn a_complete_request_waits_for_a_permit_and_new_ones_do_not_overtake_it() {
        let admission = Admission::new(1, Predictions::new(1));
        let permit = admission.try_enter().unwrap();
        let mut waiting = Box::pin(admission.enter_later());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(admission.enter_later().await.is_err(), "no more wait than can be in flight");
        drop(permit);
        assert!(admission.try_enter().is_err() && admission.check_capacity().is_err());
        let permit = waiting.await.unwrap();
        assert!(admission.try_enter().is_err());
        drop(permit);
        assert!(admission.check_capacity().is_ok() && admission.try_enter().is_ok());
    }

    #[test]
    fn grants_additional_permits_only_while_half_of_the_capacity_is_free() {
        let admission = Admission::new(4, Predictions::new(4));
        let first = admission.try_enter();
        let second = admission.try_enter_additional();
        assert!(first.is_ok() && second.is_some());
        assert!(admission.try_enter_additional().is_none(), "two of four are in use");
        let (third, fourth) = (admission.try_enter(), admission.try_enter());
        assert!(third.is_ok() && fourth.is_ok() && admission.try_enter().is_err());
        assert_eq!(admission.metrics.count(Outcome::Refused), 1, "only a new request counts as refused");
        drop((second, third, fourth));
        assert!(admission.try_enter_additional().is_some());
    }

    #[test]
    fn retry_after_follows_the_measured_throughput() {
        let start = Instant::now();
        let mut state = State { in_flight: 64, waiting: 0, throughput: Throughput::default() };
        assert_eq!(state.retry_after_seconds(), 1, "nothing is measured yet");
        // Four requests complete together every two seconds.
        for batch in 0..50 {
            let now = start + Duration::from_secs(2 * batch);
            (0..4).for_each(|_| state.throughput.record_completion(now, true));
        }
        let seconds = state.retry_after_seconds();
        assert!((20..=45).contains(&seconds), "64 requests at half a second each, estimated {seconds} s");
        state.in_flight = 1;
        assert!(state.retry_after_seconds() <= 2);
    }

    #[test]
    fn idle_time_does_not_count_as_slow_service() {
        let (start, mut throughput) = (Instant::now(), Throughput::default());
        throughput.record_completion(start, true);
        throughput.record_completion(start + Duration::from_secs(1), false);
        throughput.record_completion(start + Duration::from_secs(3600), true);
        assert_eq!(throughput.seconds_per_request, Some(1.0));
    }

    #[test]
    fn gate_refuses_images_at_capacity_until_one_completes() {
        let gate = Gate::new(1);
        let permit = gate.try_enter();
        assert!(permit.is_some());
        assert!(gate.try_enter().is_none());
        drop(permit);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn gate_wait_ends_when_the_last_image_completes() {
        let gate = Gate::new(2);
        let permit = gate.try_enter();
        let waiter = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait_until_empty()
        });
        drop(permit);
        waiter.join().expect("the waiter returns");
    }
}
