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
    /// Stopped by a user within a batch; goes on when asked to.
    Paused,
    /// Asked to stop; ends within one batch.
    Cancelling,
    /// Stopped for good by a user.
    Cancelled,
    /// Ended by an error; may go on from its last checkpoint.
    Failed,
    /// All stages done.
    Succeeded,
}

/// What a user may ask of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAction {
    /// Stop and keep what was learnt.
    Pause,
    /// Go on from the last checkpoint.
    Resume,
    /// Stop for good.
    Cancel,
    /// Remove it with all that is its own.
    Delete,
}

impl RunAction {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Cancel, Self::Delete];
}

impl fmt::Display for RunAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Cancel => "cancelled",
            Self::Delete => "removed",
        })
    }
}

/// The state does not allow the move.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IllegalMove {
    /// From the program.
    #[error("a run that is {from} cannot become {to}")]
    Move {
        /// State before.
        from: RunStatus,
        /// State that was to come.
        to: RunStatus,
    },
    /// From a user.
    #[error("a run that is {status} cannot be {action}")]
    Action {
        /// Its state.
        status: RunStatus,
        /// What was asked.
        action: RunAction,
    },
}

impl RunStatus {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Cancelling, Self::Cancelled, Self::Failed, Self::Succeeded];

    /// The one place that says what a user may ask for in which state, and the state that follows. Asked for what is so already, the
    /// state stays: a second request is answered as the first one.
    pub fn asked(self, action: RunAction) -> Result<Self, IllegalMove> {
        use RunStatus::*;
        match (action, self) {
            (RunAction::Pause, Queued | Running | Paused) => Ok(Paused),
            (RunAction::Resume, Queued | Running) => Ok(self),
            (RunAction::Resume, Paused | Failed) => Ok(Queued),
            (RunAction::Cancel, Queued | Paused | Cancelled) => Ok(Cancelled),
            (RunAction::Cancel, Running | Cancelling) => Ok(Cancelling),
            (RunAction::Delete, Paused | Cancelled | Failed | Succeeded) => Ok(self),
            _ => Err(IllegalMove::Action { status: self, action }),
        }
    }

    /// The one place that says which moves the program makes by itself. A run that was paused, and perhaps resumed, in its last moment
    /// may have come to its end all the same.
    pub fn move_to(self, to: Self) -> Result<Self, IllegalMove> {
        use RunStatus::*;
        let legal = matches!(
            (self, to),
            (Queued, Running | Failed | Succeeded)
                | (Running, Queued | Failed | Succeeded)
                | (Paused, Failed | Succeeded)
                | (Cancelling, Cancelled | Failed | Succeeded)
        );
        if legal { Ok(to) } else { Err(IllegalMove::Move { from: self, to }) }
    }

    /// The run has ended; only from failed can it be made to go on.
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

/// A batch in a run: the next one to be trained on. Stage, step and epoch count from 1, batches from 0. A step beyond the last one of its
/// stage stands for the stage's evaluation, a stage beyond the last one for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// Stage.
    pub stage: u32,
    /// Step of the stage.
    pub step: u32,
    /// Epoch of the step.
    pub epoch: u32,
    /// Batch of the epoch.
    pub batch: u32,
}

impl Position {
    /// Where a stage begins.
    pub fn start_of_stage(stage: u32) -> Self {
        Self { stage, step: 1, epoch: 1, batch: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, step, epoch, batch } = self;
        write!(f, "stage {stage}, step {step}, epoch {epoch}, batch {batch}")
    }
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
    /// Share of the training pass's time in which it stood still for predictions, 0 to 1; null where that was not measured.
    #[serde(default)]
    pub serving_wait_share: Option<f64>,
}
