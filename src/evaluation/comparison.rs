//! Comparison of runs: plan differences, scores with intervals, and paired tests against the first run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PairedTest, PlanDifference, Report, differences::differences};
use crate::domain::{
    Architecture, ClassList, ConfusionMatrix, DatasetId, EpochRecord, EvaluatedImage, EvaluationId, ModelId, RunId,
    RunStatus, Split, TrainingPlan,
};

/// Input of a comparison: one run.
#[derive(Clone, Debug)]
pub struct ComparisonInput {
    /// Identifier.
    pub id: RunId,
    /// Name given by the user.
    pub name: Option<String>,
    /// Recipe of the run.
    pub recipe: Option<String>,
    /// State.
    pub status: RunStatus,
    /// Complete plan.
    pub plan: TrainingPlan,
    /// Random seed.
    pub seed: u32,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Fingerprint of the data set.
    pub dataset_fingerprint: String,
    /// Wall time in seconds.
    pub training_seconds: Option<f64>,
    /// Epochs trained so far.
    pub epochs: Vec<EpochRecord>,
    /// Evaluated model; `None` until its stage has finished.
    pub evaluated: Option<ModelEvaluation>,
}

/// Model of a stage with its evaluation on the compared split.
#[derive(Clone, Debug)]
pub struct ModelEvaluation {
    /// Model.
    pub model: ComparedModel,
    /// Split on which its best epoch was selected.
    pub selection_split: Option<Split>,
    /// Confusion matrix.
    pub confusion: ConfusionMatrix,
    /// Prediction for each image; empty for evaluations stored by versions that did not record them.
    pub outcomes: Vec<EvaluatedImage>,
}

/// Compared model of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedModel {
    /// Identifier.
    pub id: ModelId,
    /// Evaluation that the scores come from.
    pub evaluation_id: EvaluationId,
    /// Stage, from 1.
    pub stage: u32,
    /// Classes in the order of the network outputs.
    pub classes: ClassList,
    /// Side of the input image in pixels.
    pub image_size: u32,
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Size of the model file in bytes.
    pub byte_length: u64,
    /// True if trained on synthetic phantoms.
    pub synthetic: bool,
}

/// Scores of one epoch on the selection split of its run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComparedEpoch {
    /// Epoch number over the whole run, from 1.
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
    /// Identifier of the run.
    pub id: RunId,
    /// Name given by the user.
    pub name: Option<String>,
    /// Recipe of the run.
    pub recipe: Option<String>,
    /// State.
    pub status: RunStatus,
    /// Architecture.
    pub architecture: Architecture,
    /// Random seed for shuffling, initialisation, augmentation and dropout.
    pub seed: u32,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Fingerprint of the data set at submission.
    pub dataset_fingerprint: String,
    /// Wall time in seconds, including decoding, evaluations and pauses; null until the run has finished.
    pub training_seconds: Option<f64>,
    /// Compared model; null if the run has no model of that stage evaluated on that split.
    pub model: Option<ComparedModel>,
    /// Scores with 95 % confidence intervals.
    pub scores: Option<Report>,
    /// Scores of every epoch so far on the selection split of the run.
    pub epochs: Vec<ComparedEpoch>,
    /// Paired test against the model of the first run, on the images both were evaluated on; not corrected for multiple comparisons.
    pub paired: Option<PairedTest>,
    /// Reason if there is no paired test.
    pub paired_reason: Option<String>,
}

/// Comparison of runs, in the requested order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Split of the scores.
    pub split: Split,
    /// Stage of the compared models; null: the last stage of each run.
    pub stage: Option<u32>,
    /// Runs; the first is the reference of the paired tests.
    pub items: Vec<ComparedRun>,
    /// Plan fields that differ between the runs.
    pub plan_differences: Vec<PlanDifference>,
}

impl Comparison {
    /// Compares one or more runs. The bootstrap intervals take tenths of a second per run.
    ///
    /// # Panics
    /// When a confusion matrix and its class list differ in size.
    pub fn new(split: Split, stage: Option<u32>, inputs: Vec<ComparisonInput>) -> Self {
        let plan_differences = differences(inputs.iter().map(|input| &input.plan));
        let first = inputs.first().and_then(|input| input.evaluated.clone());
        let compared = inputs.into_iter().enumerate().map(|(index, input)| {
            let paired = match index {
                0 => Err("this run is the reference of the paired tests".into()),
                _ => paired(first.as_ref(), input.evaluated.as_ref()),
            };
            input.compared(split, paired)
        });
        Self { split, stage, items: compared.collect(), plan_differences }
    }
}

fn paired(first: Option<&ModelEvaluation>, this: Option<&ModelEvaluation>) -> Result<PairedTest, String> {
    let this = this.ok_or("the run has no model of that stage evaluated on that split")?;
    let first = first.ok_or("the first run has no model of that stage evaluated on that split")?;
    if first.model.classes != this.model.classes {
        return Err("the two models have different classes".into());
    }
    if first.outcomes.is_empty() || this.outcomes.is_empty() {
        return Err("one of the evaluations has no stored predictions per image (made by an older version)".into());
    }
    PairedTest::new(&first.outcomes, &this.outcomes, this.model.classes.len())
}

impl ComparisonInput {
    fn compared(self, split: Split, paired: Result<PairedTest, String>) -> ComparedRun {
        let report = |evaluated: &ModelEvaluation| {
            Report::new(&evaluated.confusion, &evaluated.model.classes, split, evaluated.selection_split)
        };
        let scores = self.evaluated.as_ref().map(report);
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
            model: self.evaluated.map(|evaluated| evaluated.model),
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

    /// A run whose model misclassifies every `wrong`th of twelve images as the next class.
    pub fn input(name: &str, wrong: usize) -> ComparisonInput {
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
        ComparisonInput {
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
            evaluated: Some(ModelEvaluation { model, selection_split: Some(Split::Validation), confusion, outcomes }),
        }
    }

    fn outcome(image: usize, wrong: bool) -> EvaluatedImage {
        let truth = image % 3;
        let predicted = if wrong { (truth + 1) % 3 } else { truth };
        let probabilities = (0..3).map(|class| if class == predicted { 0.8 } else { 0.1 }).collect();
        EvaluatedImage { sha256: Sha256::of(&[image as u8]), patient: None, truth, predicted, probabilities }
    }

    fn compare(inputs: Vec<ComparisonInput>) -> Comparison {
        Comparison::new(Split::Test, None, inputs)
    }

    #[test]
    fn each_run_is_tested_against_the_first_on_the_same_images() {
        let compared = compare(vec![input("a", 2), input("b", 4), input("c", 13)]);
        assert!(compared.items[0].paired.is_none() && compared.items[0].paired_reason.is_some());
        let (b, c) = (compared.items[1].paired.unwrap(), compared.items[2].paired.unwrap());
        // Six of twelve are wrong in a: the even ones. b has three of them wrong, c only the first.
        assert_eq!((b.n, b.only_first_correct, b.only_this_correct, b.neither_correct), (12, 0, 3, 3));
        assert_eq!((c.only_this_correct, c.neither_correct), (5, 1));
        assert_eq!(compared.items[1].scores.as_ref().unwrap().accuracy.value, 0.75);
    }

    #[test]
    fn a_run_without_an_evaluation_has_no_scores_and_a_reason_for_the_missing_test() {
        let unfinished = ComparisonInput { evaluated: None, training_seconds: None, ..input("b", 2) };
        let compared = compare(vec![input("a", 2), unfinished.clone()]);
        let shown = &compared.items[1];
        assert!(shown.scores.is_none() && shown.model.is_none() && shown.paired.is_none());
        assert!(shown.paired_reason.as_ref().unwrap().starts_with("the run has no model"));
        let compared = compare(vec![unfinished, input("a", 2)]);
        assert!(compared.items[1].paired_reason.as_ref().unwrap().starts_with("the first run has no model"));
    }

    #[test]
    fn models_with_other_classes_or_without_stored_predictions_are_not_tested() {
        let reason = |change: fn(&mut ModelEvaluation)| {
            let mut other = input("b", 4);
            change(other.evaluated.as_mut().unwrap());
            compare(vec![input("a", 2), other]).items[1].paired_reason.clone().unwrap()
        };
        assert!(reason(|evaluated| evaluated.model.classes = other_classes()).contains("different classes"));
        assert!(reason(|evaluated| evaluated.outcomes.clear()).contains("no stored predictions"));
    }

    fn other_classes() -> ClassList {
        ClassList::new(["COVID-19", "normal", "pneumonia"].map(String::from).to_vec()).unwrap()
    }
}
