//! What a batch's logits are compared with, and the loss that comes of it.

use burn::{
    nn::loss::CrossEntropyLossConfig,
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};

use super::{TrainingJob, mixup::Mix};
use crate::domain::{ClassWeights, Split};

/// What the images of a batch show.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    truth: Vec<usize>,
    mix: Option<Mix>,
}

impl Targets {
    /// `truth` has the classes before the images were mixed.
    pub(super) fn new(truth: Vec<usize>, mix: Option<Mix>) -> Self {
        Self { truth, mix }
    }

    /// The classes an image shows, each with its share; the shares sum to 1 and none is 0.
    pub(super) fn shares(&self, image: usize) -> impl Iterator<Item = (usize, f64)> {
        let own = self.truth[image];
        let (share, other) = match &self.mix {
            Some(mix) => (mix.share, self.truth[mix.partners[image]]),
            None => (1.0, own),
        };
        [(own, share), (other, 1.0 - share)].into_iter().filter(|(_, share)| *share > 0.0)
    }

    /// The class of each image, of a mixed one that of its larger part.
    pub(super) fn larger(&self) -> Vec<usize> {
        match &self.mix {
            Some(mix) if mix.share < 0.5 => mix.partners.iter().map(|&partner| self.truth[partner]).collect(),
            _ => self.truth.clone(),
        }
    }
}

/// The loss of a run: what each class counts and how far targets are smoothed.
#[derive(Clone, Debug)]
pub(super) struct Objective {
    /// By class; none when all count the same.
    weights: Option<Vec<f64>>,
    smoothing: f64,
}

impl Objective {
    pub(super) fn new(job: &TrainingJob) -> Self {
        let weights = match job.plan.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(balanced(job)),
        };
        Self { weights, smoothing: job.plan.label_smoothing }
    }

    /// Mean over the batch of each image's weighted cross-entropy; logits are `[batch, classes]`.
    pub(super) fn loss(&self, logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
        if self.weights.is_none() && self.smoothing == 0.0 && targets.mix.is_none() {
            return mean_cross_entropy(logits, &targets.truth);
        }
        let [batch, classes] = logits.dims();
        let wanted = TensorData::new(self.wanted(targets, classes), [batch, classes]);
        let wanted = Tensor::<2>::from_data(wanted, &logits.device());
        (log_softmax(logits, 1) * wanted).sum().div_scalar(-(batch as f64))
    }

    /// The weighted and smoothed target of each image, `[batch, classes]` row by row.
    fn wanted(&self, targets: &Targets, classes: usize) -> Vec<f32> {
        let mut wanted = vec![0.0; targets.truth.len() * classes];
        for (image, row) in wanted.chunks_exact_mut(classes).enumerate() {
            for (class, share) in targets.shares(image) {
                let weight = share * self.weights.as_ref().map_or(1.0, |weights| weights[class]);
                row.iter_mut().for_each(|target| *target += weight * self.smoothing / classes as f64);
                row[class] += weight * (1.0 - self.smoothing);
            }
        }
        wanted.into_iter().map(|target: f64| target as f32).collect()
    }
}

/// Mean over the batch of the cross-entropy; logits are `[batch, classes]`.
pub fn mean_cross_entropy(logits: Tensor<2>, truth: &[usize]) -> Tensor<1> {
    let device = logits.device();
    let truth: Vec<i32> = truth.iter().map(|&class| class as i32).collect();
    let batch = truth.len();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(truth, [batch]), &device);
    CrossEntropyLossConfig::new().init(&device).forward(logits, targets)
}

/// n / (k n_c) for each class, over the training images.
fn balanced(job: &TrainingJob) -> Vec<f64> {
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

    fn loss(weights: Option<Vec<f64>>, smoothing: f64, mix: Option<Mix>) -> f64 {
        let logits = Tensor::<2>::from_data(LOGITS, &Device::flex());
        let loss = Objective { weights, smoothing }.loss(logits, &Targets::new(vec![1, 0], mix));
        f64::from(loss.into_scalar::<f32>())
    }

    /// Minus the log of the softmax.
    fn entropy(image: usize, class: usize) -> f64 {
        let row = LOGITS[image].map(f64::from);
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[class]
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }

    #[test]
    fn without_any_of_it_the_loss_is_the_mean_cross_entropy() {
        let plain = (entropy(0, 1) + entropy(1, 0)) / 2.0;
        assert_close(loss(None, 0.0, None), plain);
        assert_close(loss(Some(vec![1.0; 3]), 0.0, None), plain);
    }

    #[test]
    fn weights_multiply_and_do_not_cancel_in_a_batch_of_one_class() {
        assert_close(loss(Some(vec![0.5, 2.0, 9.0]), 0.0, None), (2.0 * entropy(0, 1) + 0.5 * entropy(1, 0)) / 2.0);
    }

    #[test]
    fn smoothing_gives_a_share_to_all_classes_alike() {
        let all = |image| (0..3).map(|class| entropy(image, class)).sum::<f64>() / 3.0;
        let expected = [(0, 1), (1, 0)].map(|(image, class)| 0.9 * entropy(image, class) + 0.1 * all(image));
        assert_close(loss(None, 0.1, None), expected.iter().sum::<f64>() / 2.0);
    }

    #[test]
    fn a_mixed_batch_has_the_mix_of_both_losses_and_counts_the_larger_part() {
        let mix = |share| Mix { share, partners: vec![1, 0] };
        let expected = 0.3 * (entropy(0, 1) + entropy(1, 0)) / 2.0 + 0.7 * (entropy(0, 0) + entropy(1, 1)) / 2.0;
        assert_close(loss(None, 0.0, Some(mix(0.3))), expected);
        let weighted =
            0.3 * (2.0 * entropy(0, 1) + entropy(1, 0)) / 2.0 + 0.7 * (entropy(0, 0) + 2.0 * entropy(1, 1)) / 2.0;
        assert_close(loss(Some(vec![1.0, 2.0, 1.0]), 0.0, Some(mix(0.3))), weighted);
        assert_eq!(Targets::new(vec![1, 0], Some(mix(0.3))).larger(), [0, 1]);
        assert_eq!(Targets::new(vec![1, 0], Some(mix(0.6))).larger(), [1, 0]);
    }
}
