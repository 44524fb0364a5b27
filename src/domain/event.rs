//! What happens to a run, as it is told to those who watch it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EpochRecord, EpochScores, ModelId, RangeTestResult, RunStatus};

/// Something that happened to a run, and is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RunEvent {
    /// The run moved from one state to another.
    Status {
        /// Where it stood; null when it was submitted.
        from: Option<RunStatus>,
        /// Where it stands now.
        to: RunStatus,
        /// Why, where the state does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// An epoch ended.
    Epoch {
        /// Of the epoch within the run, from 1.
        sequence: u32,
        /// Stage, from 1.
        stage: u32,
        /// Step within the stage, from 1.
        step: u32,
        /// Epoch within the step, from 1.
        epoch: u32,
        /// What it scored.
        scores: SplitScores,
    },
    /// The run can go on from here if it is interrupted.
    Checkpoint {
        /// Stage, from 1.
        stage: u32,
        /// Step within the stage, from 1.
        step: u32,
        /// Epoch within the step, from 1.
        epoch: u32,
        /// Batches done in the epoch.
        batch: u32,
        /// Size of the checkpoint.
        byte_length: u64,
    },
    /// A stage ended and left a model.
    Stage {
        /// Stage, from 1.
        stage: u32,
        /// Its model.
        model_id: ModelId,
    },
    /// A step's learning-rate range test ended.
    #[serde(rename = "range_test")]
    RangeTest(RangeTestResult),
    /// Something that a user should know, and that did not end the run.
    Warning {
        /// What.
        message: String,
    },
}

/// The scores of an epoch's two passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SplitScores {
    /// Running mean over the epoch's training batches.
    pub train: EpochScores,
    /// On the selection split, after the epoch.
    pub selection: EpochScores,
}

impl RunEvent {
    /// The name of its kind on the wire.
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

/// One trained batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct TrainedBatch {
    /// Stage, from 1.
    pub stage: u32,
    /// Step within the stage, from 1.
    pub step: u32,
    /// Epoch within the step, from 1.
    pub epoch: u32,
    /// Batch within the epoch, from 1.
    pub batch: u32,
    /// Mean cross-entropy over the batch before its update, in nats.
    pub loss: f64,
    /// The optimizer's learning rate.
    pub learning_rate: f64,
    /// Training images per second in the epoch so far.
    pub images_per_second: f64,
}

/// A trained batch as it is told to those who watch at that moment; it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct BatchEvent {
    /// Batches trained in the run up to this one, from 1: the `step` of a point of the loss curve.
    pub steps: u64,
    /// The batch.
    #[serde(flatten)]
    pub batch: TrainedBatch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RangeTestPoint;

    #[test]
    fn the_kind_of_an_event_is_the_tag_that_it_is_written_with() {
        let place = (1, 1, 1);
        let scores = EpochScores { loss: 1.0, accuracy: 0.5, macro_f1: None };
        let (stage, step, epoch) = place;
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
