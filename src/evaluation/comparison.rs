//! Runs side by side: what their plans differ in, what their models score, and whether the scores differ.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PairedTest, PlanDifference, Report, differences::differences};
use crate::domain::{
    Architecture, ClassList, ConfusionMatrix, DatasetId, EpochRecord, EvaluatedImage, EvaluationId, ModelId, RunId,
    RunStatus, Split, TrainingPlan,
};

/// A run as it goes into a comparison.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Identifier.
    pub id: RunId,
    /// Free name.
    pub name: Option<String>,
    /// Recipe it came from.
    pub recipe: Option<String>,
    /// State.
    pub status: RunStatus,
    /// Complete plan.
    pub plan: TrainingPlan,
    /// Of shuffling, initialisation and dropout.
    pub seed: u32,
    /// Data.
    pub dataset_id: DatasetId,
    /// The data's content.
    pub dataset_fingerprint: String,
    /// From its start to its end.
    pub training_seconds: Option<f64>,
    /// What it has trained.
    pub epochs: Vec<EpochRecord>,
    /// The model that is compared; none before its stage has ended.
    pub judged: Option<Judged>,
}

/// A stage's model and its evaluation on the split that is compared.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The model.
    pub model: ComparedModel,
    /// The split that chose its epoch.
    pub selection_split: Option<Split>,
    /// Counts.
    pub confusion: ConfusionMatrix,
    /// What was predicted of each image; empty for evaluations from before this was kept.
    pub outcomes: Vec<EvaluatedImage>,
}

/// The model of a run that is compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedModel {
    /// Identifier.
    pub id: ModelId,
    /// The evaluation whose scores are shown.
    pub evaluation_id: EvaluationId,
    /// The stage it comes from, from 1.
    pub stage: u32,
    /// Order of its outputs.
    pub classes: ClassList,
    /// Input side in pixels.
    pub image_size: u32,
    /// Numbers that training can move; the running statistics of batch norms are not counted.
    pub parameters: u64,
    /// Size of the model file.
    pub byte_length: u64,
    /// Trained on drawn phantoms.
    pub synthetic: bool,
}

/// Scores of one epoch on its run's selection split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedEpoch {
    /// Counts up over the whole run from 1.
    pub sequence: u32,
    /// Stage, from 1.
    pub stage: u32,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Share of images classified correctly.
    pub accuracy: f64,
    /// Unweighted mean of the classes' F1.
    pub macro_f1: Option<f64>,
}

/// One run of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedRun {
    /// The run.
    pub id: RunId,
    /// Its free name.
    pub name: Option<String>,
    /// Recipe it came from.
    pub recipe: Option<String>,
    /// State.
    pub status: RunStatus,
    /// The network.
    pub architecture: Architecture,
    /// Seed of shuffling, initialisation and dropout.
    pub seed: u32,
    /// Data.
    pub dataset_id: DatasetId,
    /// The data's content when the run was submitted.
    pub dataset_fingerprint: String,
    /// Wall time from start to end, decoding, evaluations and pauses included; null until the run has ended.
    pub training_seconds: Option<f64>,
    /// The model that is compared; null where the run has none of that stage evaluated on that split.
    pub model: Option<ComparedModel>,
    /// Its scores with their 95 % intervals.
    pub scores: Option<Report>,
    /// Of every epoch so far, on the run's selection split.
    pub epochs: Vec<ComparedEpoch>,
    /// Its model against the first run's, on the images that both were evaluated on; not corrected for how many are made.
    pub paired: Option<PairedTest>,
    /// Why there is no test, if there is none.
    pub paired_reason: Option<String>,
}

/// Runs side by side, in the order in which they were named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Where the scores come from.
    pub split: Split,
    /// The stage whose models are compared; null: each run's last one.
    pub stage: Option<u32>,
    /// The first is what the others are tested against.
    pub items: Vec<ComparedRun>,
    /// The plans' fields that are not the same in all runs.
    pub plan_differences: Vec<PlanDifference>,
}

impl Comparison {
    /// Compares `contenders`, of which there is one at least. Takes tenths of a second a run: the intervals are bootstraps.
    ///
    /// # Panics
    /// When a confusion matrix and its class list differ in size.
    pub fn new(split: Split, stage: Option<u32>, contenders: Vec<Contender>) -> Self {
        let plan_differences = differences(contenders.iter().map(|contender| &contender.plan));
        let first = contenders.first().and_then(|contender| contender.judged.clone());
        let compared = contenders.into_iter().enumerate().map(|(place, contender)| {
            let paired = match place {
                0 => Err("the other runs are tested against this one".into()),
                _ => paired(first.as_ref(), contender.judged.as_ref()),
            };
            contender.compared(split, paired)
        });
        Self { split, stage, items: compared.collect(), plan_differences }
    }
}

fn paired(first: Option<&Judged>, this: Option<&Judged>) -> Result<PairedTest, String> {
    let this = this.ok_or("the run has no model of that stage evaluated on that split")?;
    let first = first.ok_or("the first run has no model of that stage evaluated on that split")?;
    if first.model.classes != this.model.classes {
        return Err("the two models tell different classes apart".into());
    }
    if first.outcomes.is_empty() || this.outcomes.is_empty() {
        return Err("one of the evaluations is from before what was predicted of each image was kept".into());
    }
    PairedTest::new(&first.outcomes, &this.outcomes, this.model.classes.len())
}

impl Contender {
    fn compared(self, split: Split, paired: Result<PairedTest, String>) -> ComparedRun {
        let report =
            |judged: &Judged| Report::new(&judged.confusion, &judged.model.classes, split, judged.selection_split);
        let scores = self.judged.as_ref().map(report);
        let (paired, paired_reason) = match paired {
            Ok(test) => (Some(test), None),
            Err(reason) => (None, Some(reason)),
        };
        ComparedRun {
            id: self.id,
            name: self.name,
            recipe: self.recipe,
            status: self.status,
            architecture: self.plan.architecture,
            seed: self.seed,
            dataset_id: self.dataset_id,
            dataset_fingerprint: self.dataset_fingerprint,
            training_seconds: self.training_seconds,
            model: self.judged.map(|judged| judged.model),
            scores,
            epochs: self.epochs.iter().map(ComparedEpoch::from).collect(),
            paired,
            paired_reason,
        }
    }
}

impl From<&EpochRecord> for ComparedEpoch {
    fn from(epoch: &EpochRecord) -> Self {
        let EpochRecord { sequence, stage, selection, .. } = epoch;
        let (loss, accuracy, macro_f1) = (selection.loss, selection.accuracy, selection.macro_f1);
        Self { sequence: *sequence, stage: *stage, loss, accuracy, macro_f1 }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{Sha256, recipe};

    /// A run whose model took every `wrong`th of twelve images for the next class.
    pub fn contender(name: &str, wrong: usize) -> Contender {
        let outcomes: Vec<_> = (0..12).map(|image| outcome(image, image % wrong == 0)).collect();
        let mut confusion = ConfusionMatrix::new(3);
        outcomes.iter().for_each(|outcome| confusion.record(outcome.truth, outcome.predicted));
        let model = ComparedModel {
            id: ModelId::new(),
            evaluation_id: EvaluationId::new(),
            stage: 1,
            classes: ClassList::default(),
            image_size: 229,
            parameters: 425_731,
            byte_length: 1_703_000,
            synthetic: false,
        };
        Contender {
            id: RunId::new(),
            name: Some(name.into()),
            recipe: Some("simple-cnn".into()),
            status: RunStatus::Succeeded,
            plan: recipe("simple-cnn").unwrap().plan,
            seed: 1,
            dataset_id: DatasetId::new(),
            dataset_fingerprint: "f".repeat(64),
            training_seconds: Some(754.6),
            epochs: vec![],
            judged: Some(Judged { model, selection_split: Some(Split::Validation), confusion, outcomes }),
        }
    }

    fn outcome(image: usize, wrong: bool) -> EvaluatedImage {
        let truth = image % 3;
        let predicted = if wrong { (truth + 1) % 3 } else { truth };
        EvaluatedImage { sha256: Sha256::of(&[image as u8]), truth, predicted, probabilities: vec![] }
    }

    fn compare(contenders: Vec<Contender>) -> Comparison {
        Comparison::new(Split::Test, None, contenders)
    }

    #[test]
    fn each_run_is_tested_against_the_first_on_the_same_images() {
        let compared = compare(vec![contender("a", 2), contender("b", 4), contender("c", 13)]);
        assert!(compared.items[0].paired.is_none() && compared.items[0].paired_reason.is_some());
        let (b, c) = (compared.items[1].paired.unwrap(), compared.items[2].paired.unwrap());
        // Six of twelve are wrong in a: the even ones. b has three of them wrong, c only the first.
        assert_eq!((b.n, b.only_first_correct, b.only_this_correct, b.neither_correct), (12, 0, 3, 3));
        assert_eq!((c.only_this_correct, c.neither_correct), (5, 1));
        assert_eq!(compared.items[1].scores.as_ref().unwrap().accuracy.value, 0.75);
    }

    #[test]
    fn a_run_without_evaluation_is_shown_without_figures_and_says_why_there_is_no_test() {
        let unfinished = Contender { judged: None, training_seconds: None, ..contender("b", 2) };
        let compared = compare(vec![contender("a", 2), unfinished.clone()]);
        let shown = &compared.items[1];
        assert!(shown.scores.is_none() && shown.model.is_none() && shown.paired.is_none());
        assert!(shown.paired_reason.as_ref().unwrap().starts_with("the run has no model"));
        let compared = compare(vec![unfinished, contender("a", 2)]);
        assert!(compared.items[1].paired_reason.as_ref().unwrap().starts_with("the first run has no model"));
    }

    #[test]
    fn models_of_other_classes_and_evaluations_without_outcomes_are_not_tested() {
        let reason = |change: fn(&mut Judged)| {
            let mut other = contender("b", 4);
            change(other.judged.as_mut().unwrap());
            compare(vec![contender("a", 2), other]).items[1].paired_reason.clone().unwrap()
        };
        assert!(reason(|judged| judged.model.classes = other_classes()).contains("different classes"));
        assert!(reason(|judged| judged.outcomes.clear()).contains("before"));
    }

    fn other_classes() -> ClassList {
        ClassList::new(["COVID-19", "normal", "pneumonia"].map(String::from).to_vec()).unwrap()
    }
}
