//! Events of a training run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EpochRecord, EpochScores, ModelId, RangeTestResult, RunStatus};

/// Stored event of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RunEvent {
    /// The status of the run changed.
    Status {
        /// Previous status; null when the run was submitted.
        from: Option<RunStatus>,
        /// New status.
        to: RunStatus,
        /// Reason for the change, if the status alone does not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// An epoch ended.
    Epoch {
        /// Number of the epoch within the run, from 1.
        sequence: u32,
        /// Number of the stage, from 1.
        stage: u32,
        /// Number of the step within the stage, from 1.
        step: u32,
        /// Number of the epoch within the step, from 1.
        epoch: u32,
        /// Scores on the training and the selection split.
        scores: SplitScores,
    },
    /// A checkpoint was written. An interrupted run resumes from it.
    Checkpoint {
        /// Number of the stage, from 1.
        stage: u32,
        /// Number of the step within the stage, from 1.
        step: u32,
        /// Number of the epoch within the step, from 1.
        epoch: u32,
        /// Number of batches trained in the epoch.
        batch: u32,
        /// Size of the checkpoint in bytes.
        byte_length: u64,
    },
    /// A stage ended; its best epoch was stored as a model.
    Stage {
        /// Number of the stage, from 1.
        stage: u32,
        /// Id of the model.
        model_id: ModelId,
    },
    /// The learning-rate range test of a step ended.
    #[serde(rename = "range_test")]
    RangeTest(RangeTestResult),
    /// A problem that did not stop the run.
    Warning {
        /// Description of the problem.
        message: String,
    },
}

/// Scores of an epoch on the training and the selection split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SplitScores {
    /// Running mean over the training batches of the epoch.
    pub train: EpochScores,
    /// Scores on the selection split after the epoch.
    pub selection: EpochScores,
}

impl RunEvent {
    /// The value of the `kind` field in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Epoch { .. } => "epoch",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Stage { .. } => "stage",
            Self::RangeTest(_) => "range_test",
            Self::Warning { .. } => "warning",
        }
    }
}

impl From<&EpochRecord> for RunEvent {
    fn from(record: &EpochRecord) -> Self {
        let EpochRecord { sequence, stage, step, epoch, train, selection, .. } = *record;
        Self::Epoch { sequence, stage, step, epoch, scores: SplitScores { train, selection } }
    }
}

/// A trained batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct TrainedBatch {
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Number of the step within the stage, from 1.
    pub step: u32,
    /// Number of the epoch within the step, from 1.
    pub epoch: u32,
    /// Number of the batch within the epoch, from 1.
    pub batch: u32,
    /// Mean cross-entropy of the batch before its weight update, in nats.
    pub loss: f64,
    /// Learning rate of the optimizer.
    pub learning_rate: f64,
    /// Training images per second in the epoch so far.
    pub images_per_second: f64,
}

/// Event of a trained batch. It is streamed to connected clients and not stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct BatchEvent {
    /// Global batch index: number of batches trained in the run including this one, from 1. Equals `step` of a point of the loss curve.
    pub steps: u64,
    /// The trained batch.
    #[serde(flatten)]
    pub batch: TrainedBatch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RangeTestPoint;

    #[test]
    fn kind_is_the_tag_in_json() {
        let scores = EpochScores { loss: 1.0, accuracy: 0.5, macro_f1: None };
        let (stage, step, epoch) = (1, 1, 1);
        let events = [
            RunEvent::Status { from: None, to: RunStatus::Queued, cause: None },
            RunEvent::Epoch {
                sequence: 1,
                stage,
                step,
                epoch,
                scores: SplitScores { train: scores, selection: scores },
            },
            RunEvent::Checkpoint { stage, step, epoch, batch: 7, byte_length: 1 << 40 },
            RunEvent::Stage { stage, model_id: ModelId::new() },
            RunEvent::RangeTest(RangeTestResult {
                stage,
                step,
                curve: vec![RangeTestPoint { learning_rate: 1e-7, loss: 1.1 }],
                chosen: None,
                planned: 1e-3,
            }),
            RunEvent::Warning { message: "the image cache was damaged".into() },
        ];
        for event in events {
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["kind"], event.kind());
            assert_eq!(serde_json::from_value::<RunEvent>(json).unwrap(), event);
        }
    }
}
