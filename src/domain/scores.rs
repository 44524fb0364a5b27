//! Scores of predictions with their intervals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A score with its 95 % confidence interval. An undefined score is null, with the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// Score. Null if it is undefined.
    pub value: Option<f64>,
    /// Lower bound of the interval. Null if there is none.
    pub low: Option<f64>,
    /// Upper bound of the interval. Null if there is none.
    pub high: Option<f64>,
    /// Number of images that the score is about: for a recall, those of the class.
    pub n: u64,
    /// Number of patients of these images. An image without a patient id counts as a patient.
    pub patients: u64,
    /// Reason why the score is undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undefined: Option<String>,
}

/// Scores of one class against the other classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassScores {
    /// Precision (positive predictive value): share of the images predicted as this class that belong to it.
    pub precision: Score,
    /// Recall (sensitivity): share of the images of this class that were predicted as it.
    pub recall: Score,
    /// Specificity: share of the images of other classes that were not predicted as this class.
    pub specificity: Score,
    /// Negative predictive value: share of the images not predicted as this class that do not belong to it.
    pub npv: Score,
    /// Harmonic mean of precision and recall.
    pub f1: Score,
    /// Matthews correlation coefficient of the class and the prediction of the class, -1 to 1.
    pub mcc: Score,
    /// Area under the ROC curve of the class's probability: probability that an image of the class gets a higher one than another image.
    pub roc_auc: Score,
    /// Average precision: area under the precision-recall curve of the class's probability, without interpolation.
    pub pr_auc: Score,
    /// Brier score of the class's probability: mean squared difference from 0 or 1. Lower is better.
    pub brier: Score,
}

/// Averages over the classes that have images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AverageScores {
    /// Precision. A class that was never predicted counts with 0.
    pub precision: Score,
    /// Recall.
    pub recall: Score,
    /// F1.
    pub f1: Score,
    /// Area under the ROC curve.
    pub roc_auc: Score,
    /// Average precision.
    pub pr_auc: Score,
}

/// Scores of the predictions for a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scores {
    /// Share of images classified correctly.
    pub accuracy: Score,
    /// Mean of the classes' recalls.
    pub balanced_accuracy: Score,
    /// Matthews correlation coefficient of all classes (Gorodkin 2004, Computational Biology and Chemistry 28:367), -1 to 1.
    pub mcc: Score,
    /// Brier score (1950, Monthly Weather Review 78:1): mean over the images of the sum of squared differences, 0 to 2. Lower is better.
    pub brier: Score,
    /// Log loss: mean negative logarithm of the true class's probability. Lower is better.
    pub log_loss: Score,
    /// Averages of pooled decisions: each image counts once for each class.
    pub micro: AverageScores,
    /// Unweighted means over the classes.
    #[serde(rename = "macro")]
    pub macro_: AverageScores,
    /// Means over the classes, weighted by their numbers of images.
    pub weighted: AverageScores,
    /// Scores by class name.
    pub per_class: BTreeMap<String, ClassScores>,
}
