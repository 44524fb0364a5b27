//! Identifies an epoch within a plan.

use serde::{Deserialize, Serialize};

/// Stage, step and epoch; each counts from 1. An epoch of 0 stands for what happens before the first epoch of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochIndex {
    pub(super) stage: u32,
    pub(super) step: u32,
    pub(super) epoch: u32,
}
