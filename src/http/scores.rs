//! Evaluations with the scores that are computed from their counts.

use serde::Serialize;
use utoipa::ToSchema;

use super::ApiError;
use crate::{evaluation::Report, store::Evaluation};

/// An evaluation with its scores and their 95 % intervals.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoredEvaluation {
    #[serde(flatten)]
    evaluation: Evaluation,
    #[serde(flatten)]
    report: Report,
}

/// Scores evaluations on a blocking thread, because the intervals of F1 are bootstrapped.
pub async fn scored(evaluations: Vec<Evaluation>) -> Result<Vec<ScoredEvaluation>, ApiError> {
    let score = || evaluations.into_iter().map(ScoredEvaluation::from).collect();
    tokio::task::spawn_blocking(score).await.map_err(ApiError::internal)
}

impl From<Evaluation> for ScoredEvaluation {
    fn from(evaluation: Evaluation) -> Self {
        let Evaluation { confusion_matrix, classes, split, selection_split, .. } = &evaluation;
        let report = Report::new(confusion_matrix, classes, *split, *selection_split);
        Self { evaluation, report }
    }
}
