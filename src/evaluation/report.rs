//! The scores of one evaluation as the interface gives them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Interval,
    interval::{Bootstrap, wilson},
};
use crate::domain::{ClassList, ClassMetrics, ConfusionMatrix, Split};

/// Seed of the bootstrap: a report on the same counts reads the same each time.
const BOOTSTRAP_SEED: u64 = 0;

/// A score with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// The score itself.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// One class's scores, with Wilson intervals where the score is a share of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassReport {
    /// Of the images predicted as this class, the share that is.
    pub precision: f64,
    /// Of the images of this class, the share that was found.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Of the images of other classes, the share not called this one.
    pub specificity: f64,
    /// Images of this class.
    pub support: u64,
    /// Of the precision.
    pub precision_interval: Interval,
    /// Of the recall.
    pub recall_interval: Interval,
    /// Of the specificity.
    pub specificity_interval: Interval,
    /// Of F1, which is no share of images; bootstrap.
    pub f1_interval: Interval,
}

/// What an evaluation on one split says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Images counted.
    pub n: u64,
    /// Share of images classified correctly; Wilson interval.
    pub accuracy: Estimate,
    /// F1 from pooled counts, which with one label an image is the accuracy; bootstrap interval.
    pub micro_f1: Estimate,
    /// Unweighted mean of the classes' F1; bootstrap interval.
    pub macro_f1: Estimate,
    /// Mean of the classes' F1 weighted by support; bootstrap interval.
    pub weighted_f1: Estimate,
    /// By class name.
    pub per_class: BTreeMap<String, ClassReport>,
    /// Why the scores are better than they would be on new images, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
}

impl Report {
    /// Scores of `confusion`, counted on `split`; `selection_split` chose the model's epoch, if one did.
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

fn class(confusion: &ConfusionMatrix, index: usize, metrics: ClassMetrics, f1_interval: Interval) -> ClassReport {
    let hit = confusion.rows()[index][index];
    let predicted: u64 = confusion.rows().iter().map(|row| row[index]).sum();
    let others = confusion.total() - metrics.support;
    ClassReport {
        precision: metrics.precision,
        recall: metrics.recall,
        f1: metrics.f1,
        specificity: metrics.specificity,
        support: metrics.support,
        precision_interval: share(hit, predicted),
        recall_interval: share(hit, metrics.support),
        specificity_interval: share(others - (predicted - hit), others),
        f1_interval,
    }
}

fn caveat(split: Split, selection_split: Option<Split>) -> Option<String> {
    if split == Split::Train {
        return Some("The weights were fitted on these images: scores on new images will be lower.".into());
    }
    (Some(split) == selection_split).then(|| {
        format!(
            "The {split} split also chose the epoch, so these scores are optimistic: compare models on a split that \
             chose nothing."
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
    fn class_intervals_count_the_right_images() {
        let report = report(Split::Test, None);
        let pneumonia = report.per_class["pneumonia"];
        assert_eq!((pneumonia.precision, pneumonia.recall, pneumonia.support), (5.0 / 6.0, 0.5, 10));
        assert_eq!(pneumonia.precision_interval, share(5, 6));
        assert_eq!(pneumonia.recall_interval, share(5, 10));
        assert_eq!(pneumonia.specificity_interval, share(13, 14));
        let Interval { low, high } = pneumonia.f1_interval;
        assert!(0.0 < low && low < pneumonia.f1 && pneumonia.f1 < high && high < 1.0, "{low} to {high}");
    }

    #[test]
    fn an_optimistic_score_says_so() {
        let optimistic = report(Split::Test, Some(Split::Test)).caveat.unwrap();
        assert!(optimistic.contains("test split") && optimistic.contains("optimistic"), "{optimistic}");
        assert_eq!(report(Split::Test, Some(Split::Validation)).caveat, None);
        assert!(report(Split::Train, Some(Split::Validation)).caveat.unwrap().contains("fitted"));
    }
}
