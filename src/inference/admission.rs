//! Who may come in: counted places that are refused instead of queueing without bound, how soon one is free again, and a gate that
//! tells the trainer to wait.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::metrics::{Outcome, Predictions};

/// What one interval counts for against those before it: some batches' worth of answers.
const WEIGHT: f64 = 1.0 / 16.0;

/// Nobody is told to stay away for longer, in seconds: the load may be gone by then.
const LONGEST_WAIT: f64 = 120.0;

/// Counts the requests between their head and their answer, and those of their images that are under way beside the first. Whoever finds all places taken is told when to come back.
#[derive(Debug)]
pub(super) struct Admission {
    inside: Mutex<Inside>,
    capacity: usize,
    metrics: Predictions,
}

#[derive(Debug, Default)]
struct Inside {
    requests: usize,
    pace: Pace,
}

/// How fast places are given back while others are taken.
#[derive(Debug, Default)]
struct Pace {
    seconds_each: Option<f64>,
    /// When the last one left and others stayed.
    left: Option<Instant>,
}

/// A request's place; given back when dropped, also when the client hangs up.
#[derive(Debug)]
pub struct Admitted(Arc<Admission>);

impl Admission {
    pub(super) fn new(capacity: usize, metrics: Predictions) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::default(), capacity, metrics })
    }

    /// A place, or at once the seconds after which to try again.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Admitted, u64> {
        let mut inside = self.lock();
        if inside.requests >= self.capacity {
            self.metrics.ended(Outcome::Refused);
            return Err(inside.wait_seconds());
        }
        inside.requests += 1;
        self.metrics.entered();
        Ok(Admitted(Arc::clone(self)))
    }

    /// One more place for who has one, while less than half of them are taken.
    pub(super) fn enter_again(self: &Arc<Self>) -> Option<Admitted> {
        let mut inside = self.lock();
        if 2 * inside.requests >= self.capacity {
            return None;
        }
        inside.requests += 1;
        self.metrics.entered();
        Some(Admitted(Arc::clone(self)))
    }

    /// The seconds in which all that is inside now will have been answered.
    pub(super) fn wait_seconds(&self) -> u64 {
        self.lock().wait_seconds()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn wait_seconds(&self) -> u64 {
        let all = self.pace.seconds_each.unwrap_or_default() * self.requests as f64;
        all.ceil().clamp(1.0, LONGEST_WAIT) as u64
    }
}

impl Pace {
    fn leaves(&mut self, now: Instant, others_stay: bool) {
        if let Some(before) = self.left {
            let seconds = now.saturating_duration_since(before).as_secs_f64();
            let mean = self.seconds_each.unwrap_or(seconds);
            self.seconds_each = Some(mean + WEIGHT * (seconds - mean));
        }
        self.left = others_stay.then_some(now);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inside = self.0.lock();
        inside.requests -= 1;
        let others_stay = inside.requests > 0;
        inside.pace.leaves(Instant::now(), others_stay);
        self.0.metrics.left();
    }
}

/// Counts the images between the engine's door and their answer.
#[derive(Debug)]
pub(super) struct Gate {
    inside: Mutex<usize>,
    emptied: Condvar,
    capacity: usize,
}

/// An image's place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Gate>);

impl Gate {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { inside: Mutex::new(0), emptied: Condvar::new(), capacity })
    }

    /// A place, or `None` at once when all are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if *inside >= self.capacity {
            return None;
        }
        *inside += 1;
        Some(Place(Arc::clone(self)))
    }

    /// Blocks while anybody is inside.
    pub(super) fn wait_until_empty(&self) {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.emptied.wait_while(inside, |inside| *inside > 0));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside -= 1;
        if *inside == 0 {
            self.0.emptied.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_house_refuses_until_somebody_leaves() {
        let admission = Admission::new(1, Predictions::new(1));
        let place = admission.enter();
        assert!(place.is_ok());
        assert_eq!(admission.enter().err(), Some(1));
        assert_eq!(admission.metrics.count(Outcome::Refused), 1);
        drop(place);
        assert!(admission.enter().is_ok());
    }

    #[test]
    fn who_is_inside_gets_more_only_while_half_is_free() {
        let admission = Admission::new(4, Predictions::new(4));
        let first = admission.enter();
        let second = admission.enter_again();
        assert!(first.is_ok() && second.is_some());
        assert!(admission.enter_again().is_none(), "two of four are taken");
        let (third, fourth) = (admission.enter(), admission.enter());
        assert!(third.is_ok() && fourth.is_ok() && admission.enter().is_err());
        assert_eq!(admission.metrics.count(Outcome::Refused), 1, "only who comes anew is refused");
        drop((second, third, fourth));
        assert!(admission.enter_again().is_some());
    }

    #[test]
    fn whoever_is_refused_is_told_how_long_those_inside_will_take() {
        let start = Instant::now();
        let mut inside = Inside { requests: 64, pace: Pace::default() };
        assert_eq!(inside.wait_seconds(), 1, "nothing is measured yet");
        // Four leave together, every two seconds.
        for batch in 0..50 {
            (0..4).for_each(|_| inside.pace.leaves(start + Duration::from_secs(2 * batch), true));
        }
        let wait = inside.wait_seconds();
        assert!((20..=45).contains(&wait), "64 at half a second each, told {wait}");
        inside.requests = 1;
        assert!(inside.wait_seconds() <= 2);
    }

    #[test]
    fn an_idle_hour_does_not_count_as_slowness() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.leaves(start, true);
        pace.leaves(start + Duration::from_secs(1), false);
        pace.leaves(start + Duration::from_secs(3600), true);
        assert_eq!(pace.seconds_each, Some(1.0));
    }

    #[test]
    fn a_full_gate_refuses_until_somebody_leaves() {
        let gate = Gate::new(1);
        let place = gate.enter();
        assert!(place.is_some());
        assert!(gate.enter().is_none());
        drop(place);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn waiting_ends_when_the_last_one_leaves() {
        let gate = Gate::new(2);
        let place = gate.enter();
        let waiter = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait_until_empty()
        });
        drop(place);
        waiter.join().expect("the waiter returns");
    }
}
