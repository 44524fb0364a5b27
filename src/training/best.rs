//! The best epoch of a stage.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{batches::Place, checkpoint::bits, selection_score, tally::Tally};
use crate::domain::SelectionMetric;

/// The best epoch so far; of equal ones the first.
pub(super) struct Best {
    metric: SelectionMetric,
    found: Option<(Found, Arc<Vec<u8>>)>,
}

/// Which one it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) place: Place,
    #[serde(with = "bits")]
    score: f64,
}

impl Best {
    /// None yet.
    pub(super) fn new(metric: SelectionMetric) -> Self {
        Self { metric, found: None }
    }

    /// As [`Best::parts`] gave it.
    pub(super) fn of(metric: SelectionMetric, found: Option<Found>, model: Option<Arc<Vec<u8>>>) -> Self {
        Self { metric, found: found.zip(model) }
    }

    /// What is written of it: which epoch, and its model file.
    pub(super) fn parts(&self) -> (Option<Found>, Option<Arc<Vec<u8>>>) {
        self.found.clone().unzip()
    }

    /// An epoch is done: its tally on the selection split, and its model file.
    pub(super) fn offer(&mut self, place: Place, tally: &Tally, model: &Arc<Vec<u8>>) {
        let score = selection_score(self.metric, tally.confusion(), tally.loss());
        if self.found.as_ref().is_none_or(|(found, _)| score > found.score) {
            self.found = Some((Found { place, score }, Arc::clone(model)));
        }
    }

    /// Its place and model file, once an epoch is done.
    pub(super) fn model(&self) -> Option<(Place, &Arc<Vec<u8>>)> {
        self.found.as_ref().map(|(found, model)| (found.place, model))
    }
}
