//! Augmentation and mixup of the training images, between the image cache and the network.

use super::{
    TrainingJob,
    mixup::Mixup,
    position::EpochIndex,
    random::{Purpose, generator},
};
use crate::{domain::Augmentation, imaging::Transform};

/// Augments the training images of an epoch. The result depends on the seed, the epoch, the number of the batch and the position of the
/// image in the batch, and on nothing that happened before.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchAugmenter {
    augmentation: Augmentation,
    mixup: f64,
    seed: u64,
    epoch: EpochIndex,
}

impl BatchAugmenter {
    pub(super) fn new(job: &TrainingJob, epoch: EpochIndex) -> Self {
        Self { augmentation: job.plan.augmentation, mixup: job.plan.mixup, seed: job.seed, epoch }
    }

    /// Mixup of batch `batch` (from 0), or `None` if the plan has no mixup.
    pub(super) fn mixup(&self, batch: usize, images: usize) -> Option<Mixup> {
        let mut generator = generator(self.seed, self.epoch, batch, Purpose::Mixup);
        (self.mixup > 0.0).then(|| Mixup::sample(self.mixup, images, &mut generator))
    }

    /// Augments each image of batch `batch` (from 0), then mixes them. Images are greyscale, `side` by `side`.
    pub(super) fn augment(&self, batch: usize, mut images: Vec<Vec<u8>>, side: u32) -> Vec<Vec<u8>> {
        if !self.augmentation.is_off() {
            for (position, image) in images.iter_mut().enumerate() {
                let mut generator = generator(self.seed, self.epoch, batch, Purpose::Augmentation(position));
                *image = Transform::sample(&self.augmentation, &mut generator).apply(image, side);
            }
        }
        match self.mixup(batch, images.len()) {
            Some(mixup) => mixup.apply(&images),
            None => images,
        }
    }
}
