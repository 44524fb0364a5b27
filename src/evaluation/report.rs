//! Scores of one evaluation with confidence intervals, as returned by the HTTP API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Interval,
    interval::{Bootstrap, wilson},
};
use crate::domain::{ClassList, ClassMetrics, ConfusionMatrix, Split};

/// Seed of the bootstrap, fixed so that the same confusion matrix always gives the same report.
const BOOTSTRAP_SEED: u64 = 0;

/// A score with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Score.
    pub value: f64,
    /// Lower bound of the interval.
    pub low: f64,
    /// Upper bound of the interval.
    pub high: f64,
}

/// Scores of one class. Proportions have Wilson intervals.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassReport {
    /// Precision: share of the images predicted as this class that belong to it.
    pub precision: f64,
    /// Recall (sensitivity): share of the images of this class that were predicted as it. Null if the class has no images (support 0).
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall. Null if the class has no images (support 0).
    pub f1: Option<f64>,
    /// Specificity: share of the images of other classes that were not predicted as this one.
    pub specificity: f64,
    /// Number of images of this class.
    pub support: u64,
    /// Wilson interval of the precision.
    pub precision_interval: Interval,
    /// Wilson interval of the recall; null where it is undefined.
    pub recall_interval: Option<Interval>,
    /// Wilson interval of the specificity.
    pub specificity_interval: Interval,
    /// Bootstrap interval of F1; null where it is undefined.
    pub f1_interval: Option<Interval>,
}

/// Scores of an evaluation on one split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Number of images.
    pub n: u64,
    /// Share of images classified correctly; Wilson interval.
    pub accuracy: Estimate,
    /// F1 of the pooled counts, equal to the accuracy with one label per image; bootstrap interval.
    pub micro_f1: Estimate,
    /// Unweighted mean of the per-class F1, without classes that have no images; bootstrap interval.
    pub macro_f1: Estimate,
    /// Support-weighted mean of the per-class F1; bootstrap interval.
    pub weighted_f1: Estimate,
    /// Scores by class name.
    pub per_class: BTreeMap<String, ClassReport>,
    /// Classes without images in the split: their recall and F1 are undefined.
    #[serde(default)]
    pub undefined_classes: Vec<String>,
    /// Reason why the scores are optimistic, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
}

impl Report {
    /// Computes the scores of `confusion` on `split`. `selection_split` is the split on which the best epoch was selected.
    ///
    /// # Panics
    /// When the matrix and the class list differ in size.
    pub fn new(confusion: &ConfusionMatrix, classes: &ClassList, split: Split, selection_split: Option<Split>) -> Self {
        assert_eq!(confusion.rows().len(), classes.len(), "one row a class");
        let averages = confusion.averages();
        let bootstrap = Bootstrap::of(confusion, BOOTSTRAP_SEED);
        Self {
            n: confusion.total(),
            accuracy: estimate(averages.accuracy, share(confusion.correct(), confusion.total())),
            micro_f1: estimate(averages.micro_f1, bootstrap.interval(|a| a.micro_f1)),
            macro_f1: estimate(averages.macro_f1, bootstrap.interval(|a| a.macro_f1)),
            weighted_f1: estimate(averages.weighted_f1, bootstrap.interval(|a| a.weighted_f1)),
            per_class: per_class(confusion, classes, &bootstrap),
            undefined_classes: undefined_classes(confusion, classes),
            caveat: caveat(split, selection_split),
        }
    }
}

fn estimate(value: f64, Interval { low, high }: Interval) -> Estimate {
    Estimate { value, low, high }
}

fn share(part: u64, whole: u64) -> Interval {
    let (low, high) = wilson(part, whole);
    Interval { low, high }
}

fn per_class(confusion: &ConfusionMatrix, classes: &ClassList, bootstrap: &Bootstrap) -> BTreeMap<String, ClassReport> {
    let metrics = confusion.per_class().into_iter().enumerate();
    let reports = metrics.map(|(i, metrics)| class(confusion, i, metrics, bootstrap.f1(i)));
    classes.names().iter().cloned().zip(reports).collect()
}

fn undefined_classes(confusion: &ConfusionMatrix, classes: &ClassList) -> Vec<String> {
    let supports = confusion.per_class().into_iter().map(|class| class.support);
    classes.names().iter().zip(supports).filter(|(_, support)| *support == 0).map(|(class, _)| class.clone()).collect()
}

fn class(
    confusion: &ConfusionMatrix,
    index: usize,
    metrics: ClassMetrics,
    f1_interval: Option<Interval>,
) -> ClassReport {
    let true_positives = confusion.rows()[index][index];
    let predicted: u64 = confusion.rows().iter().map(|row| row[index]).sum();
    let others = confusion.total() - metrics.support;
    ClassReport {
        precision: metrics.precision,
        recall: metrics.recall,
        f1: metrics.f1,
        specificity: metrics.specificity,
        support: metrics.support,
        precision_interval: share(true_positives, predicted),
        recall_interval: metrics.recall.map(|_| share(true_positives, metrics.support)),
        specificity_interval: share(others - (predicted - true_positives), others),
        f1_interval: metrics.f1.and(f1_interval),
    }
}

fn caveat(split: Split, selection_split: Option<Split>) -> Option<String> {
    if split == Split::Train {
        return Some("The model was trained on these images: scores on new images will be lower.".into());
    }
    (Some(split) == selection_split).then(|| {
        format!(
            "The best epoch was selected on the {split} split, so these scores are optimistic: compare models on a split that \
             was not used for selection."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(split: Split, selection: Option<Split>) -> Report {
        let confusion = ConfusionMatrix::from_rows(vec![vec![8, 1, 1], vec![2, 5, 3], vec![0, 0, 4]]);
        Report::new(&confusion, &ClassList::default(), split, selection)
    }

    #[test]
    fn every_score_lies_within_its_interval() {
        let report = report(Split::Test, None);
        assert_eq!((report.n, report.accuracy.value), (24, 17.0 / 24.0));
        for estimate in [report.accuracy, report.micro_f1, report.macro_f1, report.weighted_f1] {
            assert!(0.0 <= estimate.low && estimate.low < estimate.value, "{estimate:?}");
            assert!(estimate.value < estimate.high && estimate.high <= 1.0, "{estimate:?}");
        }
    }

    #[test]
    fn class_intervals_use_the_right_counts() {
        let report = report(Split::Test, None);
        let pneumonia = report.per_class["pneumonia"];
        assert_eq!((pneumonia.precision, pneumonia.recall, pneumonia.support), (5.0 / 6.0, Some(0.5), 10));
        assert_eq!(pneumonia.precision_interval, share(5, 6));
        assert_eq!(pneumonia.recall_interval, Some(share(5, 10)));
        assert_eq!(pneumonia.specificity_interval, share(13, 14));
        let (f1, Interval { low, high }) = (pneumonia.f1.unwrap(), pneumonia.f1_interval.unwrap());
        assert!(0.0 < low && low < f1 && f1 < high && high < 1.0, "{low} to {high}");
    }

    #[test]
    fn a_class_without_images_has_no_recall_and_f1_and_is_named() {
        let confusion = ConfusionMatrix::from_rows(vec![vec![8, 2, 0], vec![1, 4, 1], vec![0, 0, 0]]);
        let report = Report::new(&confusion, &ClassList::default(), Split::Test, None);
        assert_eq!(report.undefined_classes, ["COVID-19"]);
        let covid = report.per_class["COVID-19"];
        assert_eq!((covid.recall, covid.f1, covid.recall_interval, covid.f1_interval), (None, None, None, None));
        assert!(report.macro_f1.low < report.macro_f1.value && report.macro_f1.value < report.macro_f1.high);
    }

    #[test]
    fn an_optimistic_score_carries_a_caveat() {
        let optimistic = report(Split::Test, Some(Split::Test)).caveat.unwrap();
        assert!(optimistic.contains("test split") && optimistic.contains("optimistic"), "{optimistic}");
        assert_eq!(report(Split::Test, Some(Split::Validation)).caveat, None);
        assert!(report(Split::Train, Some(Split::Validation)).caveat.unwrap().contains("trained on"));
    }
}
