//! Loss and confusion matrix accumulated over batches, on the host in double precision.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{bits, loss::Targets};
use crate::domain::{ConfusionMatrix, EpochScores};

/// Metrics over the images added so far, and the prediction for each of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningMetrics {
    confusion: ConfusionMatrix,
    #[serde(with = "bits")]
    loss_sum: f64,
    /// Mean loss of the last batch.
    #[serde(skip)]
    batch_loss: f64,
    /// Logits of each image, in the order in which they were added. They are not stored in checkpoints: nothing reads those of a training
    /// epoch, and there is no checkpoint during an evaluation.
    #[serde(skip)]
    logits: Vec<f32>,
}

impl RunningMetrics {
    /// Metrics of no images yet.
    pub fn new(classes: usize) -> Self {
        Self { confusion: ConfusionMatrix::new(classes), loss_sum: 0.0, batch_loss: 0.0, logits: Vec::new() }
    }

    /// Adds a batch with logits `[batch, classes]`. Returns false if the loss or a logit is not finite. Waits for the device.
    #[must_use]
    pub fn add(&mut self, logits: Tensor<2>, truth: &[usize]) -> bool {
        self.accumulate(logits, truth, |row, image| cross_entropy(row, truth[image]))
    }

    /// Adds a batch that may have mixup. The loss is the weighted sum over both labels; accuracy counts the label with the larger weight.
    #[must_use]
    pub(super) fn add_mixed(&mut self, logits: Tensor<2>, targets: &Targets) -> bool {
        self.accumulate(logits, &targets.dominant_labels(), |row, image| {
            targets.weighted_labels(image).map(|(class, weight)| weight * cross_entropy(row, class)).sum()
        })
    }

    fn accumulate(&mut self, logits: Tensor<2>, truth: &[usize], loss: impl Fn(&[f32], usize) -> f64) -> bool {
        let classes = self.confusion.rows().len();
        let logits: Vec<f32> = logits.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        let mut batch_sum = 0.0;
        for (image, (row, &truth)) in logits.chunks_exact(classes).zip(truth).enumerate() {
            let loss = loss(row, image);
            batch_sum += loss;
            self.loss_sum += loss;
            // An infinite logit of another class does not show in the loss.
            if !self.loss_sum.is_finite() || row.iter().any(|logit| !logit.is_finite()) {
                return false;
            }
            self.confusion.record(truth, argmax(row));
        }
        self.batch_loss = batch_sum / truth.len().max(1) as f64;
        self.logits.extend(logits);
        true
    }

    /// Prediction for each image: the most probable class and the probabilities of all classes.
    pub(super) fn predictions(&self) -> impl Iterator<Item = (usize, Vec<f32>)> {
        self.logits.chunks_exact(self.confusion.rows().len()).map(|row| (argmax(row), softmax(row)))
    }

    pub(super) fn confusion(&self) -> &ConfusionMatrix {
        &self.confusion
    }

    /// Mean loss over all images, in nats; 0 if there are none.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.confusion.total().max(1) as f64
    }

    /// Mean loss of the last batch, in nats.
    pub(super) fn batch_loss(&self) -> f64 {
        self.batch_loss
    }

    /// Training scores, without macro-F1: it means little while the weights change from batch to batch.
    pub(super) fn training_scores(&self) -> EpochScores {
        EpochScores { loss: self.loss(), accuracy: self.confusion.averages().accuracy, macro_f1: None }
    }

    pub(super) fn scores(&self) -> EpochScores {
        EpochScores { macro_f1: Some(self.confusion.averages().macro_f1), ..self.training_scores() }
    }
}

/// Cross-entropy `ln(sum(exp(logits))) - logits[truth]`, shifted by the maximum to avoid overflow. Not finite if the logit of `truth` or the
/// largest one is not.
fn cross_entropy(logits: &[f32], truth: usize) -> f64 {
    let shift = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - shift).exp()).sum();
    sum.ln() + shift - f64::from(logits[truth])
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let shift = f64::from(logits[argmax(logits)]);
    let parts: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - shift).exp()).collect();
    let sum: f64 = parts.iter().sum();
    parts.into_iter().map(|part| (part / sum) as f32).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_is_the_negative_log_softmax() {
        let expected = -(2.0f64.exp() / (1.0f64.exp() + 2.0f64.exp() + 0.5f64.exp())).ln();
        assert!((cross_entropy(&[1.0, 2.0, 0.5], 1) - expected).abs() < 1e-12);
        assert!((cross_entropy(&[0.0; 3], 2) - 3.0f64.ln()).abs() < 1e-12);
        assert!((cross_entropy(&[1e30, 0.0], 1) - f64::from(1e30f32)).abs() < 1e20);
    }

    #[test]
    fn predictions_are_in_the_order_of_the_batches() {
        let mut metrics = RunningMetrics::new(2);
        let device = Default::default();
        assert!(metrics.add(Tensor::from_data([[0.0, 3.0f32.ln()], [1.0, 0.0]], &device), &[1, 1]));
        assert!(metrics.add(Tensor::from_data([[-200.0, 200.0f32]], &device), &[0]));
        let predictions: Vec<_> = metrics.predictions().collect();
        assert_eq!(predictions.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(predictions[2].1, [0.0, 1.0]);
        assert!((predictions[0].1[0] - 0.25).abs() < 1e-6 && (predictions[0].1[1] - 0.75).abs() < 1e-6);
    }

    #[test]
    fn a_non_finite_logit_makes_the_loss_non_finite() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for truth in 0..2 {
                let finite = cross_entropy(&[bad, 1.0], truth).is_finite();
                assert!(!finite || bad == f32::NEG_INFINITY && truth == 1, "{bad} {truth}");
            }
        }
    }
}
