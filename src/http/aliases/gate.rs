//! What a model has to reach before an alias moves to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    domain::{DatasetId, EvaluationId, ModelId, SelectionMetric, Split},
    evaluation::PairedTest,
    http::{ApiError, AppState, predictions::find_model},
    store::{self, Db, Evaluation, Model},
    training::selection_score,
};

/// A condition on a score.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    /// Which score.
    metric: SelectionMetric,
    /// An alias or a model's identifier; the model may have the same score. An alias that points nowhere yet lets every model pass.
    not_worse_than: String,
    /// On which data; both models need an evaluation on it as it is now.
    dataset_id: DatasetId,
    /// On which split.
    split: Split,
}

/// Two models by their newest evaluations on the same data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateComparison {
    /// Which score.
    pub metric: SelectionMetric,
    /// The model that the alias was to point at.
    pub candidate: GateScore,
    /// The model that it had to be compared with.
    pub reference: GateScore,
    /// The candidate against the reference, image by image; null where outcomes were not kept or the classes are others.
    pub paired: Option<PairedTest>,
}

/// A model's score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateScore {
    /// The model.
    pub model_id: ModelId,
    /// Where the score is from.
    pub evaluation_id: EvaluationId,
    /// Accuracy and macro-F1 from 0 to 1; the loss in nats, of which less is better.
    pub score: f64,
    /// Images.
    pub n: u64,
}

impl Gate {
    /// Error, with both scores, unless the candidate passes.
    pub(super) async fn check(&self, state: &AppState, candidate: &Model) -> Result<(), ApiError> {
        let reference = match find_model(state, &self.not_worse_than).await {
            Ok((reference, _)) => reference,
            Err(ApiError::NotFound(_)) if super::is_alias(&self.not_worse_than) => return Ok(()),
            Err(ApiError::NotFound(_)) => {
                return Err(ApiError::invalid("/require/not_worse_than", "there is no such model or alias"));
            }
            Err(error) => return Err(error),
        };
        let fingerprint = self.fingerprint(&state.db).await?;
        let ours = self.evaluation(&state.db, candidate.id, &fingerprint).await?;
        let theirs = self.evaluation(&state.db, reference.id, &fingerprint).await?;
        if self.value(&ours).better >= self.value(&theirs).better {
            return Ok(());
        }
        let paired = paired(&state.db, &theirs, &ours).await?;
        let (candidate, reference) = (self.score(&ours), self.score(&theirs));
        Err(ApiError::Gate(Box::new(GateComparison { metric: self.metric, candidate, reference, paired })))
    }

    async fn fingerprint(&self, db: &Db) -> Result<String, ApiError> {
        let dataset = store::datasets::get(db, self.dataset_id).await?;
        dataset.ok_or_else(|| ApiError::invalid("/require/dataset_id", "there is no such data set"))?;
        Ok(store::datasets::fingerprint(db, self.dataset_id).await?)
    }

    /// The newest on the data as it is now.
    async fn evaluation(&self, db: &Db, model: ModelId, fingerprint: &str) -> Result<Evaluation, ApiError> {
        let of_model = store::evaluations::of_model(db, model).await?;
        let fits = |evaluation: &Evaluation| {
            evaluation.dataset_id == self.dataset_id
                && evaluation.split == self.split
                && evaluation.dataset_fingerprint == fingerprint
        };
        of_model.into_iter().rev().find(fits).ok_or_else(|| {
            ApiError::Conflict(format!(
                "model {model} has no evaluation on the split {} of the data set as it is now, so that nothing can be compared",
                self.split.as_str()
            ))
        })
    }

    fn value(&self, evaluation: &Evaluation) -> Value {
        let better = selection_score(self.metric, &evaluation.confusion_matrix, evaluation.loss);
        Value { better, shown: if self.metric == SelectionMetric::Loss { evaluation.loss } else { better } }
    }

    fn score(&self, evaluation: &Evaluation) -> GateScore {
        GateScore {
            model_id: evaluation.model_id,
            evaluation_id: evaluation.id,
            score: self.value(evaluation).shown,
            n: evaluation.confusion_matrix.total(),
        }
    }
}

struct Value {
    /// More is better, whatever the metric.
    better: f64,
    /// As the metric is written.
    shown: f64,
}

async fn paired(db: &Db, reference: &Evaluation, candidate: &Evaluation) -> Result<Option<PairedTest>, ApiError> {
    if reference.classes != candidate.classes {
        return Ok(None);
    }
    let theirs = store::outcomes::of_evaluation(db, reference.id).await?;
    let ours = store::outcomes::of_evaluation(db, candidate.id).await?;
    let classes = candidate.classes.len();
    let test = move || PairedTest::new(&theirs, &ours, classes).ok();
    tokio::task::spawn_blocking(test).await.map_err(ApiError::internal)
}
