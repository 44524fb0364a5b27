//! Promotion gate: the score that a model must reach before an alias moves to it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Error, Models, models::is_alias};
use crate::{
    domain::{DatasetId, EvaluationId, ModelId, SelectionMetric, Split},
    evaluation::PairedTest,
    store::{self, Db, Evaluation, Model},
    training::selection_score,
};

/// Condition on a model's score.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Score to compare.
    metric: SelectionMetric,
    /// Alias or identifier of the reference model; an equal score passes. An alias that points nowhere yet lets every model pass.
    not_worse_than: String,
    /// Data set of the comparison; both models need an evaluation on its current content.
    dataset_id: DatasetId,
    /// Split of the data set.
    split: Split,
}

/// Scores of two models by their newest evaluations on the same data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateComparison {
    /// Score that was compared.
    pub metric: SelectionMetric,
    /// Model that the alias was to point at.
    pub candidate: GateScore,
    /// Reference model.
    pub reference: GateScore,
    /// Paired test of the candidate against the reference on the same images; null where outcomes were not stored or the classes differ.
    pub paired: Option<PairedTest>,
}

/// Score of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateScore {
    /// Model.
    pub model_id: ModelId,
    /// Evaluation that the score comes from.
    pub evaluation_id: EvaluationId,
    /// Accuracy and macro-F1 from 0 to 1; the loss in nats (lower is better).
    pub score: f64,
    /// Number of images.
    pub n: u64,
}

impl std::fmt::Display for GateComparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (metric, candidate, reference) = (self.metric.as_str(), self.candidate.score, self.reference.score);
        write!(
            f,
            "the model fails the promotion gate: its {metric} is {candidate:.4}, worse than {reference:.4} of the reference model"
        )
    }
}

impl Gate {
    /// [`Error::Gate`] with both scores unless the candidate passes.
    pub(super) async fn check(&self, models: &Models, candidate: &Model) -> Result<(), Error> {
        let db = &models.stores.db;
        let reference = match models.find(&self.not_worse_than).await {
            Ok((reference, _)) => reference,
            Err(Error::NotFound(_)) if is_alias(&self.not_worse_than) => return Ok(()),
            Err(Error::NotFound(_)) => {
                return Err(Error::invalid("/require/not_worse_than", "there is no such model or alias"));
            }
            Err(error) => return Err(error),
        };
        let fingerprint = self.fingerprint(db).await?;
        let ours = self.evaluation(db, candidate.id, &fingerprint).await?;
        let theirs = self.evaluation(db, reference.id, &fingerprint).await?;
        if self.value(&ours).better >= self.value(&theirs).better {
            return Ok(());
        }
        let paired = paired(db, &theirs, &ours).await?;
        let (candidate, reference) = (self.score(&ours), self.score(&theirs));
        Err(Error::Gate(Box::new(GateComparison { metric: self.metric, candidate, reference, paired })))
    }

    async fn fingerprint(&self, db: &Db) -> Result<String, Error> {
        let dataset = store::datasets::get(db, self.dataset_id).await?;
        dataset.ok_or_else(|| Error::invalid("/require/dataset_id", "there is no such data set"))?;
        Ok(store::datasets::fingerprint(db, self.dataset_id).await?)
    }

    /// Newest evaluation on the current content of the data set.
    async fn evaluation(&self, db: &Db, model: ModelId, fingerprint: &str) -> Result<Evaluation, Error> {
        let of_model = store::evaluations::of_model(db, model).await?;
        let fits = |evaluation: &Evaluation| {
            evaluation.dataset_id == self.dataset_id
                && evaluation.split == self.split
                && evaluation.dataset_fingerprint == fingerprint
        };
        of_model.into_iter().rev().find(fits).ok_or_else(|| {
            Error::Conflict(format!(
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
    /// Higher is better, whatever the metric.
    better: f64,
    /// The value of the metric itself.
    shown: f64,
}

async fn paired(db: &Db, reference: &Evaluation, candidate: &Evaluation) -> Result<Option<PairedTest>, Error> {
    if reference.classes != candidate.classes {
        return Ok(None);
    }
    let theirs = store::outcomes::of_evaluation(db, reference.id).await?;
    let ours = store::outcomes::of_evaluation(db, candidate.id).await?;
    let classes = candidate.classes.len();
    let test = move || PairedTest::new(&theirs, &ours, classes).ok();
    Ok(tokio::task::spawn_blocking(test).await?)
}
