//! A training run's states, progress and epochs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a training run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Waits for the device.
    Queued,
    /// Trains.
    Running,
    /// Stopped by a user, may go on.
    Paused,
    /// Asked to stop; ends within one batch.
    Cancelling,
    /// Stopped for good by a user.
    Cancelled,
    /// Ended by an error or by the server's end.
    Failed,
    /// All stages done.
    Succeeded,
}

/// The state does not allow the move.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a run that is {from} cannot become {to}")]
pub struct IllegalMove {
    from: RunStatus,
    to: RunStatus,
}

impl RunStatus {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Cancelling, Self::Cancelled, Self::Failed, Self::Succeeded];

    /// The one place that says which moves are legal.
    pub fn move_to(self, to: Self) -> Result<Self, IllegalMove> {
        use RunStatus::*;
        let legal = matches!(
            (self, to),
            (Queued, Running | Cancelled | Failed)
                | (Running, Cancelling | Failed | Succeeded)
                | (Cancelling, Cancelled | Failed | Succeeded)
        );
        if legal { Ok(to) } else { Err(IllegalMove { from: self, to }) }
    }

    /// No move leads out of this state.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed | Self::Succeeded)
    }

    /// The name in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Succeeded => "succeeded",
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("unknown run status {text:?}"))
    }
}

/// How far a run has come. Stages, steps and epochs count from 1; 0 means not started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunProgress {
    /// Stage now training.
    pub stage: u32,
    /// Step of the stage.
    pub step: u32,
    /// Epoch within the step.
    pub epoch: u32,
    /// Batches done in the epoch.
    pub batch: u32,
    /// Batches in an epoch.
    pub batches: u32,
    /// Share of the run's epochs that is done, 0 to 1.
    pub fraction: f64,
    /// Training images per second in the current epoch.
    pub images_per_second: f64,
    /// Estimated seconds to the end, from the measured rate; absent before there is one.
    pub eta_seconds: Option<f64>,
}

/// Loss and scores of one pass over a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpochScores {
    /// Mean categorical cross-entropy, in nats.
    pub loss: f64,
    /// Share of images classified correctly.
    pub accuracy: f64,
    /// Unweighted mean of the classes' F1; absent for training batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
}

/// One finished epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpochRecord {
    /// Counts up over the whole run from 1; the cursor of the list.
    pub sequence: u32,
    /// Stage, from 1.
    pub stage: u32,
    /// Step within the stage, from 1.
    pub step: u32,
    /// Epoch within the step, from 1.
    pub epoch: u32,
    /// Running mean over the epoch's training batches (dropout on, weights moving, images changed as the plan says), without class
    /// weights and smoothing. With mixup the loss is the mix of both classes' and right is who finds the larger part.
    pub train: EpochScores,
    /// On the selection split, after the epoch.
    pub selection: EpochScores,
    /// The optimizer's learning rate for the head in the epoch's last batch.
    pub learning_rate: f64,
    /// Wall time of the epoch, selection pass included, in seconds.
    pub seconds: f64,
    /// Training images per second of the training pass.
    pub images_per_second: f64,
    /// Share of the training pass's time in which it waited for its batches, 0 to 1; null where that was not measured.
    #[serde(default)]
    pub data_wait_share: Option<f64>,
}
