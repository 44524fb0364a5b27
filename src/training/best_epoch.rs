//! The best epoch of a stage.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{bits, position::EpochIndex, running_metrics::RunningMetrics, selection_score};
use crate::domain::SelectionMetric;

/// Keeps the best epoch so far with its model file; among equal ones the first.
pub(super) struct BestEpochTracker {
    metric: SelectionMetric,
    best: Option<(BestEpoch, Arc<Vec<u8>>)>,
}

/// The best epoch and its selection score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BestEpoch {
    #[serde(rename = "place")]
    pub(super) epoch: EpochIndex,
    #[serde(with = "bits")]
    score: f64,
}

impl BestEpochTracker {
    /// Before the first epoch.
    pub(super) fn new(metric: SelectionMetric) -> Self {
        Self { metric, best: None }
    }

    /// Restores the tracker from what [`BestEpochTracker::parts`] returned.
    pub(super) fn restore(metric: SelectionMetric, best: Option<BestEpoch>, model: Option<Arc<Vec<u8>>>) -> Self {
        Self { metric, best: best.zip(model) }
    }

    /// The best epoch and its model file, for a checkpoint.
    pub(super) fn parts(&self) -> (Option<BestEpoch>, Option<Arc<Vec<u8>>>) {
        self.best.clone().unzip()
    }

    /// Compares a finished epoch, given its metrics on the selection split and its model file.
    pub(super) fn update(&mut self, epoch: EpochIndex, selection: &RunningMetrics, model: &Arc<Vec<u8>>) {
        let score = selection_score(self.metric, selection.confusion(), selection.loss());
        if self.best.as_ref().is_none_or(|(best, _)| score > best.score) {
            self.best = Some((BestEpoch { epoch, score }, Arc::clone(model)));
        }
    }

    /// The best epoch and its model file; `None` before the first epoch.
    pub(super) fn model(&self) -> Option<(EpochIndex, &Arc<Vec<u8>>)> {
        self.best.as_ref().map(|(best, model)| (best.epoch, model))
    }
}
