//! Confusion matrix and the classification metrics derived from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Sha256;

/// Confusion matrix: image counts with the true class as row and the predicted class as column, both in class-list order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ConfusionMatrix(Vec<Vec<u64>>);

/// Evaluated image: its true class and what the model predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluatedImage {
    /// SHA-256 of the image file.
    pub sha256: Sha256,
    /// Number of its patient within the evaluation. Null if the patient is unknown.
    #[serde(default)]
    pub patient: Option<u32>,
    /// True class, as index in the class list.
    pub truth: usize,
    /// Class with the highest probability, as index in the class list.
    pub predicted: usize,
    /// Class probabilities in class-list order; they sum to 1.
    pub probabilities: Vec<f32>,
}

/// Metrics of one class. Recall and F1 of a class without images are undefined. Precision and specificity whose denominator is zero are 0,
/// as in scikit-learn by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassMetrics {
    /// Precision (positive predictive value): fraction of the images predicted as this class that belong to it.
    pub precision: f64,
    /// Recall (sensitivity): fraction of the images of this class that are predicted as this class.
    /// Null if the class has no images (support 0).
    pub recall: Option<f64>,
    /// F1: harmonic mean of precision and recall. Null if the class has no images (support 0).
    pub f1: Option<f64>,
    /// Specificity: fraction of the images of other classes that are not predicted as this class.
    pub specificity: f64,
    /// Support: number of images of this class.
    pub support: u64,
}

/// Metrics over all classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Averages {
    /// Accuracy: fraction of correctly classified images.
    pub accuracy: f64,
    /// Micro-averaged F1, from pooled counts. With one label per image it equals the accuracy. The "average F1" of 0.9457 in the
    /// COVID-ResNet report is this metric.
    pub micro_f1: f64,
    /// Macro-averaged F1: unweighted mean of the per-class F1 scores. Classes without images are left out.
    pub macro_f1: f64,
    /// Weighted F1: mean of the per-class F1 scores, weighted by support.
    pub weighted_f1: f64,
}

impl ConfusionMatrix {
    /// A matrix of zeros for `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self(vec![vec![0; classes]; classes])
    }

    /// A matrix from its rows of counts: true classes by predicted classes.
    ///
    /// # Panics
    /// If the matrix is not square.
    pub fn from_rows(rows: Vec<Vec<u64>>) -> Self {
        assert!(rows.iter().all(|row| row.len() == rows.len()), "a confusion matrix is square");
        Self(rows)
    }

    /// Counts one image.
    ///
    /// # Panics
    /// If an index is not below the number of classes.
    pub fn record(&mut self, truth: usize, predicted: usize) {
        self.0[truth][predicted] += 1;
    }

    /// The rows of counts: true classes by predicted classes.
    pub fn rows(&self) -> &[Vec<u64>] {
        &self.0
    }

    /// The number of images.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// The number of correctly classified images.
    pub fn correct(&self) -> u64 {
        (0..self.0.len()).map(|i| self.0[i][i]).sum()
    }

    /// Metrics of each class, in class-list order.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        (0..self.0.len()).map(|class| self.class(class)).collect()
    }

    fn class(&self, class: usize) -> ClassMetrics {
        let true_positives = self.0[class][class];
        let support: u64 = self.0[class].iter().sum();
        let predicted: u64 = self.0.iter().map(|row| row[class]).sum();
        let others = self.total() - support;
        ClassMetrics {
            precision: ratio(true_positives, predicted),
            recall: (support > 0).then(|| ratio(true_positives, support)),
            f1: (support > 0).then(|| ratio(2 * true_positives, support + predicted)),
            specificity: ratio(others - (predicted - true_positives), others),
            support,
        }
    }

    /// Metrics over all classes.
    pub fn averages(&self) -> Averages {
        let classes = self.per_class();
        let accuracy = ratio(self.correct(), self.total());
        let defined: Vec<(f64, u64)> = classes.iter().filter_map(|class| Some((class.f1?, class.support))).collect();
        let weighted: f64 = defined.iter().map(|(f1, support)| f1 * *support as f64).sum();
        Averages {
            accuracy,
            micro_f1: accuracy,
            macro_f1: defined.iter().map(|(f1, _)| f1).sum::<f64>() / defined.len().max(1) as f64,
            weighted_f1: if self.total() == 0 { 0.0 } else { weighted / self.total() as f64 },
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ConfusionMatrix {
        // A 3x3 example with scores from scikit-learn 1.5: classification_report on the same counts.
        ConfusionMatrix(vec![vec![8, 1, 1], vec![2, 5, 3], vec![0, 0, 4]])
    }

    #[test]
    fn metrics_agree_with_scikit_learn() {
        let classes = report().per_class();
        assert_eq!(classes[0].precision, 0.8);
        assert_eq!(classes[0].recall, Some(0.8));
        assert_eq!(classes[1].precision, 5.0 / 6.0);
        assert_eq!(classes[1].f1, Some(0.625));
        assert_eq!(classes[2].recall, Some(1.0));
        assert_eq!(classes[2].specificity, 0.8);
        assert_eq!(classes[2].support, 4);
    }

    #[test]
    fn micro_f1_is_accuracy_and_macro_f1_weights_classes_equally() {
        let averages = report().averages();
        assert_eq!(averages.micro_f1, 17.0 / 24.0);
        assert!((averages.macro_f1 - (0.8 + 0.625 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((averages.weighted_f1 - (8.0 + 6.25 + 8.0 / 3.0) / 24.0).abs() < 1e-12);
    }

    #[test]
    fn recall_and_f1_of_a_class_without_images_are_undefined_and_left_out_of_averages() {
        // The third class has no images, and one image of the second is taken for it. Of the others: F1 = 16 / 19 and 8 / 12.
        let confusion = ConfusionMatrix(vec![vec![8, 2, 0], vec![1, 4, 1], vec![0, 0, 0]]);
        let classes = confusion.per_class();
        let ClassMetrics { precision, recall, f1, support, .. } = classes[2];
        assert_eq!((precision, recall, f1, support), (0.0, None, None, 0));
        let averages = confusion.averages();
        let expected = (16.0 / 19.0 + 8.0 / 12.0) / 2.0;
        assert!((averages.macro_f1 - expected).abs() < 1e-12, "{averages:?}");
        let weighted = (10.0 * 16.0 / 19.0 + 6.0 * 8.0 / 12.0) / 16.0;
        assert!((averages.weighted_f1 - weighted).abs() < 1e-12, "{averages:?}");
    }

    #[test]
    fn metrics_of_an_empty_matrix_are_zero() {
        let averages = ConfusionMatrix::new(3).averages();
        assert_eq!((averages.accuracy, averages.macro_f1, averages.weighted_f1), (0.0, 0.0, 0.0));
    }
}
