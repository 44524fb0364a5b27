//! Columns of a run.

use super::Run;
use crate::store::{StoreError, columns};

/// Columns of the table `runs`.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) dataset_id: String,
    pub(super) dataset_fingerprint: String,
    pub(super) name: Option<String>,
    pub(super) recipe: Option<String>,
    pub(super) plan_json: String,
    pub(super) seed: i64,
    pub(super) status: String,
    pub(super) progress_json: String,
    pub(super) device: Option<String>,
    pub(super) error: Option<String>,
    pub(super) starts: i64,
    pub(super) created_at: String,
    pub(super) started_at: Option<String>,
    pub(super) finished_at: Option<String>,
    pub(super) repeats: Option<String>,
    pub(super) initial_weights_sha256: Option<String>,
    pub(super) synthetic: i64,
}

impl Row {
    /// Converts the columns to a run.
    pub(super) fn read(self) -> Result<Run, StoreError> {
        Ok(Run {
            id: columns::parse("runs.id", &self.id)?,
            dataset_id: columns::parse("runs.dataset_id", &self.dataset_id)?,
            dataset_fingerprint: self.dataset_fingerprint,
            name: self.name,
            recipe: self.recipe,
            plan: columns::from_json("runs.plan_json", &self.plan_json)?,
            seed: columns::number("runs.seed", self.seed)?,
            initial_weights_sha256: self
                .initial_weights_sha256
                .map(|hash| columns::hash("runs.initial_weights_sha256", hash))
                .transpose()?,
            repeats: columns::parse_some("runs.repeats", self.repeats.as_deref())?,
            status: columns::parse("runs.status", &self.status)?,
            progress: columns::from_json("runs.progress_json", &self.progress_json)?,
            device: self.device,
            error: self.error,
            synthetic: self.synthetic != 0,
            starts: columns::number("runs.starts", self.starts)?,
            created_at: columns::parse("runs.created_at", &self.created_at)?,
            started_at: columns::parse_some("runs.started_at", self.started_at.as_deref())?,
            finished_at: columns::parse_some("runs.finished_at", self.finished_at.as_deref())?,
        })
    }
}
