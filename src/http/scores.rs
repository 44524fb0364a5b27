//! An evaluation as it is answered: its counts and the scores that follow from them.

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

/// Scores evaluations on a blocking thread: the intervals of F1 are a bootstrap.
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
