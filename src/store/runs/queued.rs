//! New runs.

use jiff::Timestamp;

use super::Run;
use crate::domain::{DatasetId, RunId, RunProgress, RunStatus, TrainingPlan};

impl Run {
    /// A new queued run without name and recipe.
    pub fn queued(dataset_id: DatasetId, dataset_fingerprint: String, plan: TrainingPlan, seed: u32) -> Self {
        Self {
            id: RunId::new(),
            dataset_id,
            dataset_fingerprint,
            name: None,
            recipe: None,
            plan,
            seed,
            initial_weights_sha256: None,
            repeats: None,
            status: RunStatus::Queued,
            progress: RunProgress::default(),
            device: None,
            error: None,
            synthetic: false,
            starts: 0,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
        }
    }
}
