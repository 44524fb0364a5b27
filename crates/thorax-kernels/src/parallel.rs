//! Parallel iteration over disjoint pieces of buffers.

use std::sync::{Mutex, PoisonError};

use super::team::Team;

/// Calls `work` once for each part, on any worker of the team. Parts may hold mutable slices.
pub(super) fn for_each<P: Send>(team: &Team, parts: Vec<P>, work: impl Fn(P) + Sync) {
    if parts.len() < 2 || team.threads() == 1 {
        return parts.into_iter().for_each(work);
    }
    let slots: Vec<Mutex<Option<P>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    team.run(|worker| {
        worker.parallel_for(slots.len(), |index| {
            let part = slots[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            work(part.expect("each index is processed once"));
        });
    });
}
