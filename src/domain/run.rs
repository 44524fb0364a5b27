//! Status, progress and epochs of a training run.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Status of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Waits for the device.
    Queued,
    /// Trains.
    Running,
    /// Stopped within a batch by a user; can be resumed.
    Paused,
    /// Cancelled by a user; ends within one batch.
    Cancelling,
    /// Cancelled by a user; cannot be resumed.
    Cancelled,
    /// Ended by an error; can be resumed from its last checkpoint.
    Failed,
    /// All stages are done.
    Succeeded,
}

/// Action of a user on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAction {
    /// Stop, to be resumed later.
    Pause,
    /// Continue from the last checkpoint.
    Resume,
    /// Stop for good.
    Cancel,
    /// Delete the run with its epochs, events and checkpoints.
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

/// A change of status that is not legal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTransition {
    /// A change by the program.
    #[error("{subject} that is {from} cannot become {to}")]
    Status {
        /// Record with the status, including its article, such as "a run".
        subject: &'static str,
        /// Status before.
        from: &'static str,
        /// Status that was to come.
        to: &'static str,
    },
    /// An action of a user.
    #[error("a run that is {status} cannot be {action}")]
    Action {
        /// Status of the run.
        status: RunStatus,
        /// The action.
        action: RunAction,
    },
}

impl InvalidTransition {
    pub(super) fn status(subject: &'static str, from: &'static str, to: &'static str) -> Self {
        Self::Status { subject, from, to }
    }
}

impl RunStatus {
    /// All statuses.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Cancelling, Self::Cancelled, Self::Failed, Self::Succeeded];

    /// The status after an action of a user. This is the only place that says which actions are legal in which status. Actions are
    /// idempotent: repeating one leaves the status as it is.
    ///
    /// # Errors
    /// When the action is not legal in this status.
    pub fn apply(self, action: RunAction) -> Result<Self, InvalidTransition> {
        use RunStatus::*;
        match (action, self) {
            (RunAction::Pause, Queued | Running | Paused) => Ok(Paused),
            (RunAction::Resume, Queued | Running) => Ok(self),
            (RunAction::Resume, Paused | Failed) => Ok(Queued),
            (RunAction::Cancel, Queued | Paused | Cancelled) => Ok(Cancelled),
            (RunAction::Cancel, Running | Cancelling) => Ok(Cancelling),
            (RunAction::Delete, Paused | Cancelled | Failed | Succeeded) => Ok(self),
            _ => Err(InvalidTransition::Action { status: self, action }),
        }
    }

    /// The status after a change that the program makes. This function alone defines which of these changes are legal. A run that is
    /// paused during its last batch, and perhaps resumed, may still fail or succeed.
    ///
    /// # Errors
    /// When the change is not legal.
    pub fn transition(self, to: Self) -> Result<Self, InvalidTransition> {
        use RunStatus::*;
        let legal = matches!(
            (self, to),
            (Queued, Running | Failed | Succeeded)
                | (Running, Queued | Failed | Succeeded)
                | (Paused, Failed | Succeeded)
                | (Cancelling, Cancelled | Failed | Succeeded)
        );
        if legal { Ok(to) } else { Err(InvalidTransition::status("a run", self.as_str(), to.as_str())) }
    }

    /// True if the run has ended. A failed run can be resumed all the same.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed | Self::Succeeded)
    }

    /// Name in the database and in the API.
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

/// Progress of a run. Stages, steps and epochs are numbered from 1; 0 means not started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunProgress {
    /// Number of the current stage.
    pub stage: u32,
    /// Number of the current step within the stage.
    pub step: u32,
    /// Number of the current epoch within the step.
    pub epoch: u32,
    /// Number of batches trained in the epoch.
    pub batch: u32,
    /// Number of batches in an epoch.
    pub batches: u32,
    /// Fraction of the run's epochs that are finished, 0 to 1.
    pub fraction: f64,
    /// Training throughput in the current epoch, in images per second.
    pub images_per_second: f64,
    /// Estimated remaining time in seconds, from the measured throughput; null before there is a measurement.
    pub eta_seconds: Option<f64>,
}

/// Position in a run: the next batch to train. Stages, steps and epochs are numbered from 1, batches from 0. A step after the last one of
/// its stage means the evaluation of the stage; a stage after the last one means the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Number of the step within the stage, from 1.
    pub step: u32,
    /// Number of the epoch within the step, from 1.
    pub epoch: u32,
    /// Index of the batch within the epoch, from 0.
    pub batch: u32,
}

impl Position {
    /// The first batch of a stage.
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

/// Loss and metrics of one epoch on one split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpochScores {
    /// Mean categorical cross-entropy, in nats.
    pub loss: f64,
    /// Accuracy: fraction of correctly classified images.
    pub accuracy: f64,
    /// Macro-averaged F1; absent for the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
}

/// A finished epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EpochRecord {
    /// Number of the epoch within the run, from 1. Cursor of the list of epochs.
    pub sequence: u32,
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Number of the step within the stage, from 1.
    pub step: u32,
    /// Number of the epoch within the step, from 1.
    pub epoch: u32,
    /// Running mean over the training batches of the epoch, with dropout and augmentation, while the weights change; without class weights
    /// and label smoothing. With mixup the loss is the mix of the losses for both labels, and accuracy counts the label with the larger
    /// weight.
    pub train: EpochScores,
    /// Scores on the selection split after the epoch.
    pub selection: EpochScores,
    /// Learning rate of the head in the last batch of the epoch.
    pub learning_rate: f64,
    /// Wall-clock time of the epoch in seconds, including the evaluation on the selection split.
    pub seconds: f64,
    /// Training throughput in images per second, without the evaluation.
    pub images_per_second: f64,
    /// Fraction of the training time spent waiting for data, 0 to 1; null if not measured.
    #[serde(default)]
    pub data_wait_share: Option<f64>,
    /// Fraction of the training time spent paused for predictions, 0 to 1; null if not measured.
    #[serde(default)]
    pub serving_wait_share: Option<f64>,
}
