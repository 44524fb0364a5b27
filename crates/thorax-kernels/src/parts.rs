//! Pieces of buffers, each handed to one member of a team.

use std::sync::{Mutex, PoisonError};

use super::team::Team;

/// Calls `work` once for each part, on any member. Parts may hold mutable slices: nothing is shared but the order in which they go.
pub(super) fn each<P: Send>(team: &Team, parts: Vec<P>, work: impl Fn(P) + Sync) {
    if parts.len() < 2 || team.threads() == 1 {
        return parts.into_iter().for_each(work);
    }
    let slots: Vec<Mutex<Option<P>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    team.run(|member| {
        member.each(slots.len(), |index| {
            let part = slots[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            work(part.expect("each index comes once"));
        });
    });
}
