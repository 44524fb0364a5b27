//! Targets of a batch and the loss function.

use burn::{
    nn::loss::CrossEntropyLossConfig,
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};

use super::{TrainingJob, mixup::Mixup};
use crate::domain::{ClassWeights, Split};

/// Labels of the images of a batch, mixed if the batch has mixup.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    truth: Vec<usize>,
    mixup: Option<Mixup>,
}

impl Targets {
    /// `truth` holds the labels of the images before mixup.
    pub(super) fn new(truth: Vec<usize>, mixup: Option<Mixup>) -> Self {
        Self { truth, mixup }
    }

    /// The labels of an image with their weights, which sum to 1. Labels of weight 0 are left out.
    pub(super) fn weighted_labels(&self, image: usize) -> impl Iterator<Item = (usize, f64)> {
        let own = self.truth[image];
        let (lambda, other) = match &self.mixup {
            Some(mixup) => (mixup.lambda, self.truth[mixup.partners[image]]),
            None => (1.0, own),
        };
        [(own, lambda), (other, 1.0 - lambda)].into_iter().filter(|(_, weight)| *weight > 0.0)
    }

    /// The label of each image; of a mixed image the one with the larger weight.
    pub(super) fn dominant_labels(&self) -> Vec<usize> {
        match &self.mixup {
            Some(mixup) if mixup.lambda < 0.5 => mixup.partners.iter().map(|&partner| self.truth[partner]).collect(),
            _ => self.truth.clone(),
        }
    }
}

/// Loss function of a run: cross-entropy with class weights and label smoothing.
#[derive(Clone, Debug)]
pub(super) struct Objective {
    /// Weight of each class; `None` if all are equal.
    weights: Option<Vec<f64>>,
    smoothing: f64,
}

impl Objective {
    pub(super) fn new(job: &TrainingJob) -> Self {
        let weights = match job.plan.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(balanced_class_weights(job)),
        };
        Self { weights, smoothing: job.plan.label_smoothing }
    }

    /// Mean over the batch of the weighted cross-entropy. Logits are `[batch, classes]`.
    pub(super) fn loss(&self, logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
        if self.weights.is_none() && self.smoothing == 0.0 && targets.mixup.is_none() {
            return mean_cross_entropy(logits, &targets.truth);
        }
        let [batch, classes] = logits.dims();
        let weights = TensorData::new(self.target_weights(targets, classes), [batch, classes]);
        let weights = Tensor::<2>::from_data(weights, &logits.device());
        (log_softmax(logits, 1) * weights).sum().div_scalar(-(batch as f64))
    }

    /// Target distribution of each image after smoothing, times the class weights: `[batch, classes]`, row-major.
    fn target_weights(&self, targets: &Targets, classes: usize) -> Vec<f32> {
        let mut rows = vec![0.0; targets.truth.len() * classes];
        for (image, row) in rows.chunks_exact_mut(classes).enumerate() {
            for (class, weight) in targets.weighted_labels(image) {
                let weight = weight * self.weights.as_ref().map_or(1.0, |weights| weights[class]);
                row.iter_mut().for_each(|target| *target += weight * self.smoothing / classes as f64);
                row[class] += weight * (1.0 - self.smoothing);
            }
        }
        rows.into_iter().map(|target: f64| target as f32).collect()
    }
}

/// Mean cross-entropy over the batch. Logits are `[batch, classes]`.
pub fn mean_cross_entropy(logits: Tensor<2>, truth: &[usize]) -> Tensor<1> {
    let device = logits.device();
    let truth: Vec<i32> = truth.iter().map(|&class| class as i32).collect();
    let batch = truth.len();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(truth, [batch]), &device);
    CrossEntropyLossConfig::new().init(&device).forward(logits, targets)
}

/// Balanced class weights over the training split: n / (k n_c) for class c, as in scikit-learn.
fn balanced_class_weights(job: &TrainingJob) -> Vec<f64> {
    let mut counts = vec![0_u32; job.classes.len()];
    let train = job.samples.iter().filter(|sample| sample.split == Split::Train);
    train.for_each(|sample| counts[sample.class] += 1);
    let all: u32 = counts.iter().sum();
    let weight = |&count: &u32| f64::from(all) / (counts.len() as f64 * f64::from(count));
    counts.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const LOGITS: [[f32; 3]; 2] = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]];

    fn loss(weights: Option<Vec<f64>>, smoothing: f64, mixup: Option<Mixup>) -> f64 {
        let logits = Tensor::<2>::from_data(LOGITS, &Device::flex());
        let loss = Objective { weights, smoothing }.loss(logits, &Targets::new(vec![1, 0], mixup));
        f64::from(loss.into_scalar::<f32>())
    }

    /// Cross-entropy of an image: minus the log-softmax.
    fn entropy(image: usize, class: usize) -> f64 {
        let row = LOGITS[image].map(f64::from);
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[class]
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
    }

    #[test]
    fn plain_loss_is_the_mean_cross_entropy() {
        let plain = (entropy(0, 1) + entropy(1, 0)) / 2.0;
        assert_close(loss(None, 0.0, None), plain);
        assert_close(loss(Some(vec![1.0; 3]), 0.0, None), plain);
    }

    #[test]
    fn class_weights_are_not_normalised_within_a_batch() {
        assert_close(loss(Some(vec![0.5, 2.0, 9.0]), 0.0, None), (2.0 * entropy(0, 1) + 0.5 * entropy(1, 0)) / 2.0);
    }

    #[test]
    fn label_smoothing_is_uniform_over_the_classes() {
        let all = |image| (0..3).map(|class| entropy(image, class)).sum::<f64>() / 3.0;
        let expected = [(0, 1), (1, 0)].map(|(image, class)| 0.9 * entropy(image, class) + 0.1 * all(image));
        assert_close(loss(None, 0.1, None), expected.iter().sum::<f64>() / 2.0);
    }

    #[test]
    fn mixup_loss_is_the_weighted_sum_of_both_losses() {
        let mixup = |lambda| Mixup { lambda, partners: vec![1, 0] };
        let expected = 0.3 * (entropy(0, 1) + entropy(1, 0)) / 2.0 + 0.7 * (entropy(0, 0) + entropy(1, 1)) / 2.0;
        assert_close(loss(None, 0.0, Some(mixup(0.3))), expected);
        let weighted =
            0.3 * (2.0 * entropy(0, 1) + entropy(1, 0)) / 2.0 + 0.7 * (entropy(0, 0) + 2.0 * entropy(1, 1)) / 2.0;
        assert_close(loss(Some(vec![1.0, 2.0, 1.0]), 0.0, Some(mixup(0.3))), weighted);
        assert_eq!(Targets::new(vec![1, 0], Some(mixup(0.3))).dominant_labels(), [0, 1]);
        assert_eq!(Targets::new(vec![1, 0], Some(mixup(0.6))).dominant_labels(), [1, 0]);
    }
}
