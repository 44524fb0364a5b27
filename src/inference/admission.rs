//! Who may come in: a counted gate that refuses instead of queueing without bound, and tells the trainer to wait.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Counts the predictions between admission and answer.
#[derive(Debug)]
pub(super) struct Gate {
    inside: Mutex<usize>,
    emptied: Condvar,
    capacity: usize,
}

/// A place inside; given back when dropped, also when the client hangs up.
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
    use super::*;

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
