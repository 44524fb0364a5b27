//! Values of the scores for weighted images, in a fixed order.

use super::{
    log_loss,
    ranking::{Areas, Ranking},
};
use crate::domain::EvaluatedImage;

/// Predictions, prepared so that their scores can be computed for many resamples.
pub(super) struct Evaluated<'a> {
    images: &'a [EvaluatedImage],
    classes: usize,
    rankings: Vec<Ranking>,
    pooled: Ranking,
    /// Negative logarithm of the true class's probability, by image.
    log_losses: Vec<f64>,
    /// Squared differences of the probabilities from 0 or 1, by image and class.
    squares: Vec<f64>,
}

impl<'a> Evaluated<'a> {
    pub(super) fn new(images: &'a [EvaluatedImage], classes: usize) -> Self {
        assert!(images.iter().all(|image| image.probabilities.len() == classes), "one probability for each class");
        let entry = |class: usize| {
            move |(at, image): (usize, &EvaluatedImage)| (at as u32, image.probabilities[class], image.truth == class)
        };
        let of_class = |class| images.iter().enumerate().map(entry(class)).collect::<Vec<_>>();
        let difference = |image: &EvaluatedImage, class: usize| {
            f64::from(image.probabilities[class]) - f64::from(u8::from(image.truth == class))
        };
        Self {
            images,
            classes,
            rankings: (0..classes).map(|class| Ranking::new(of_class(class))).collect(),
            pooled: Ranking::new((0..classes).flat_map(of_class).collect()),
            log_losses: images.iter().map(log_loss).collect(),
            squares: images
                .iter()
                .flat_map(|image| (0..classes).map(move |class| difference(image, class).powi(2)))
                .collect(),
        }
    }

    /// All scores where each image counts as often as its weight says, in the order of [`Scores::assemble`](super::Scores).
    pub(super) fn values(&self, weights: &[u32]) -> Vec<Option<f64>> {
        let counts = self.counts(weights);
        let areas: Vec<Option<Areas>> = self.rankings.iter().map(|ranking| ranking.areas(weights)).collect();
        let class_squares = self.class_squares(weights);
        let total: f64 = counts.total();
        let mean = |sum: f64| (total > 0.0).then(|| sum / total);
        let log_losses: f64 = self.log_losses.iter().zip(weights).map(|(loss, &weight)| loss * f64::from(weight)).sum();
        let mut values = vec![
            mean(counts.correct()),
            counts.unweighted(|class| counts.recall(class)),
            counts.mcc(),
            mean(class_squares.iter().sum()),
            mean(log_losses),
        ];
        let pooled = self.pooled.areas(weights);
        // With one label for each image, pooled precision, recall and F1 are the accuracy.
        values.extend([mean(counts.correct()); 3]);
        values.extend([pooled.map(|areas| areas.roc), pooled.map(|areas| areas.precision_recall)]);
        let precision = |class| Some(counts.precision(class).unwrap_or(0.0));
        let roc = |class: usize| areas[class].map(|areas| areas.roc);
        let precision_recall = |class: usize| areas[class].map(|areas| areas.precision_recall);
        values.extend([
            counts.unweighted(precision),
            counts.unweighted(|class| counts.recall(class)),
            counts.unweighted(|class| counts.f1(class)),
            counts.unweighted(roc),
            counts.unweighted(precision_recall),
            counts.weighted(precision),
            counts.weighted(|class| counts.recall(class)),
            counts.weighted(|class| counts.f1(class)),
            counts.weighted(roc),
            counts.weighted(precision_recall),
        ]);
        for (class, &squares) in class_squares.iter().enumerate() {
            values.extend([
                counts.precision(class),
                counts.recall(class),
                counts.specificity(class),
                counts.npv(class),
                counts.f1(class),
                counts.class_mcc(class),
                roc(class),
                precision_recall(class),
                mean(squares),
            ]);
        }
        values
    }

    fn counts(&self, weights: &[u32]) -> Counts {
        let mut cells = vec![0_u64; self.classes * self.classes];
        for (image, &weight) in self.images.iter().zip(weights) {
            cells[image.truth * self.classes + image.predicted] += u64::from(weight);
        }
        let cells: Vec<f64> = cells.into_iter().map(|count| count as f64).collect();
        let of_truth = cells.chunks(self.classes).map(|row| row.iter().sum()).collect();
        let predicted = |class: usize| cells.iter().skip(class).step_by(self.classes).sum();
        Counts { of_truth, predicted: (0..self.classes).map(predicted).collect(), cells }
    }

    fn class_squares(&self, weights: &[u32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.classes];
        for (squares, &weight) in self.squares.chunks(self.classes).zip(weights) {
            for (sum, square) in sums.iter_mut().zip(squares) {
                *sum += square * f64::from(weight);
            }
        }
        sums
    }
}

/// Confusion matrix with its margins, as numbers of images.
struct Counts {
    cells: Vec<f64>,
    of_truth: Vec<f64>,
    predicted: Vec<f64>,
}

impl Counts {
    fn total(&self) -> f64 {
        self.of_truth.iter().sum()
    }

    fn hits(&self, class: usize) -> f64 {
        self.cells[class * self.of_truth.len() + class]
    }

    fn correct(&self) -> f64 {
        (0..self.of_truth.len()).map(|class| self.hits(class)).sum()
    }

    fn precision(&self, class: usize) -> Option<f64> {
        ratio(self.hits(class), self.predicted[class])
    }

    fn recall(&self, class: usize) -> Option<f64> {
        ratio(self.hits(class), self.of_truth[class])
    }

    /// Images that neither belong to the class nor were predicted as it.
    fn true_negatives(&self, class: usize) -> f64 {
        self.total() - self.of_truth[class] - self.predicted[class] + self.hits(class)
    }

    fn specificity(&self, class: usize) -> Option<f64> {
        ratio(self.true_negatives(class), self.total() - self.of_truth[class])
    }

    fn npv(&self, class: usize) -> Option<f64> {
        ratio(self.true_negatives(class), self.total() - self.predicted[class])
    }

    /// Undefined for a class without images.
    fn f1(&self, class: usize) -> Option<f64> {
        (self.of_truth[class] > 0.0).then(|| 2.0 * self.hits(class) / (self.of_truth[class] + self.predicted[class]))
    }

    /// Gorodkin's R_K: the covariance of truth and prediction over the root of their variances.
    fn mcc(&self) -> Option<f64> {
        let total = self.total();
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let covariance = self.correct() * total - product(&self.of_truth, &self.predicted);
        let variance = |margin: &[f64]| total * total - product(margin, margin);
        ratio(covariance, (variance(&self.of_truth) * variance(&self.predicted)).sqrt())
    }

    fn class_mcc(&self, class: usize) -> Option<f64> {
        let (total, truth, predicted) = (self.total(), self.of_truth[class], self.predicted[class]);
        let covariance = self.hits(class) * total - truth * predicted;
        ratio(covariance, (truth * (total - truth) * predicted * (total - predicted)).sqrt())
    }

    /// Mean over the classes that have images; undefined if a value is.
    fn unweighted(&self, value: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        self.mean(value, |_| 1.0)
    }

    /// Mean over the classes, weighted by their numbers of images; undefined if a value is.
    fn weighted(&self, value: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        self.mean(value, |class| self.of_truth[class])
    }

    fn mean(&self, value: impl Fn(usize) -> Option<f64>, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let classes = (0..self.of_truth.len()).filter(|&class| self.of_truth[class] > 0.0);
        let (mut sum, mut weights) = (0.0, 0.0);
        for class in classes {
            sum += weight(class) * value(class)?;
            weights += weight(class);
        }
        ratio(sum, weights)
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
