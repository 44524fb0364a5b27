//! The confusion matrix and what follows from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Sha256;

/// Counts of images; rows are true classes, columns predicted ones, both in class-list order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ConfusionMatrix(Vec<Vec<u64>>);

/// What a model made of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluatedImage {
    /// Of the image's bytes.
    pub sha256: Sha256,
    /// Its class, as a place in the class list.
    pub truth: usize,
    /// The most probable class.
    pub predicted: usize,
    /// In the order of the class list; they add up to 1.
    pub probabilities: Vec<f32>,
}

/// One class's scores. A score whose denominator is zero is 0, as in scikit-learn's default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassMetrics {
    /// Of the images predicted as this class, the share that is (positive predictive value).
    pub precision: f64,
    /// Of the images of this class, the share that was found (sensitivity).
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Of the images of other classes, the share not called this one.
    pub specificity: f64,
    /// Images of this class.
    pub support: u64,
}

/// Scores over all classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Averages {
    /// Share of images classified correctly.
    pub accuracy: f64,
    /// F1 from pooled counts. With one label an image it equals the accuracy; the COVID-ResNet report's
    /// "average F1" of 0.9457 is this one.
    pub micro_f1: f64,
    /// Unweighted mean of the classes' F1.
    pub macro_f1: f64,
    /// Mean of the classes' F1 weighted by support.
    pub weighted_f1: f64,
}

impl ConfusionMatrix {
    /// An empty matrix for `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self(vec![vec![0; classes]; classes])
    }

    /// A matrix of counts, rows true, columns predicted.
    ///
    /// # Panics
    /// When it is not square.
    pub fn from_rows(rows: Vec<Vec<u64>>) -> Self {
        assert!(rows.iter().all(|row| row.len() == rows.len()), "a confusion matrix is square");
        Self(rows)
    }

    /// Counts one image.
    ///
    /// # Panics
    /// When an index is not below the number of classes.
    pub fn record(&mut self, truth: usize, predicted: usize) {
        self.0[truth][predicted] += 1;
    }

    /// The counts, rows true, columns predicted.
    pub fn rows(&self) -> &[Vec<u64>] {
        &self.0
    }

    /// All images counted.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// Images on the diagonal.
    pub fn correct(&self) -> u64 {
        (0..self.0.len()).map(|i| self.0[i][i]).sum()
    }

    /// Scores of each class, in class-list order.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        (0..self.0.len()).map(|class| self.class(class)).collect()
    }

    fn class(&self, class: usize) -> ClassMetrics {
        let hit = self.0[class][class];
        let support: u64 = self.0[class].iter().sum();
        let predicted: u64 = self.0.iter().map(|row| row[class]).sum();
        let others = self.total() - support;
        ClassMetrics {
            precision: ratio(hit, predicted),
            recall: ratio(hit, support),
            f1: ratio(2 * hit, support + predicted),
            specificity: ratio(others - (predicted - hit), others),
            support,
        }
    }

    /// Scores over all classes.
    pub fn averages(&self) -> Averages {
        let classes = self.per_class();
        let accuracy = ratio(self.correct(), self.total());
        let weighted: f64 = classes.iter().map(|c| c.f1 * c.support as f64).sum();
        Averages {
            accuracy,
            micro_f1: accuracy,
            macro_f1: classes.iter().map(|c| c.f1).sum::<f64>() / classes.len().max(1) as f64,
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
    fn scores_agree_with_the_textbook() {
        let classes = report().per_class();
        assert_eq!(classes[0].precision, 0.8);
        assert_eq!(classes[0].recall, 0.8);
        assert_eq!(classes[1].precision, 5.0 / 6.0);
        assert_eq!(classes[1].f1, 0.625);
        assert_eq!(classes[2].recall, 1.0);
        assert_eq!(classes[2].specificity, 0.8);
        assert_eq!(classes[2].support, 4);
    }

    #[test]
    fn micro_f1_is_accuracy_and_macro_weighs_classes_alike() {
        let averages = report().averages();
        assert_eq!(averages.micro_f1, 17.0 / 24.0);
        assert!((averages.macro_f1 - (0.8 + 0.625 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((averages.weighted_f1 - (8.0 + 6.25 + 8.0 / 3.0) / 24.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_matrix_scores_zero_and_does_not_divide_by_it() {
        let averages = ConfusionMatrix::new(3).averages();
        assert_eq!((averages.accuracy, averages.macro_f1, averages.weighted_f1), (0.0, 0.0, 0.0));
    }
}
