//! What happens to the images of a training batch between the cache and the network.

use super::{
    TrainingJob,
    batches::Place,
    mixup::Mix,
    random::{Draw, generator},
};
use crate::{domain::Augmentation, imaging::Transform};

/// The changes of an epoch's images. What becomes of an image depends on the seed, the epoch's place, the number of its batch and its
/// position in there, and on nothing that happened before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes {
    augmentation: Augmentation,
    mixup: f64,
    seed: u64,
    place: Place,
}

impl Changes {
    pub(super) fn new(job: &TrainingJob, place: Place) -> Self {
        Self { augmentation: job.plan.augmentation, mixup: job.plan.mixup, seed: job.seed, place }
    }

    /// How the images of batch `batch` (from 0) are mixed, if they are.
    pub(super) fn mix(&self, batch: usize, images: usize) -> Option<Mix> {
        let mut generator = generator(self.seed, self.place, batch, Draw::Mix);
        (self.mixup > 0.0).then(|| Mix::draw(self.mixup, images, &mut generator))
    }

    /// The grey squares of batch `batch` (from 0), changed each for itself and then mixed.
    pub(super) fn applied(&self, batch: usize, mut squares: Vec<Vec<u8>>, side: u32) -> Vec<Vec<u8>> {
        if !self.augmentation.is_off() {
            for (position, square) in squares.iter_mut().enumerate() {
                let mut generator = generator(self.seed, self.place, batch, Draw::Change(position));
                *square = Transform::sample(&self.augmentation, &mut generator).apply(square, side);
            }
        }
        match self.mix(batch, squares.len()) {
            Some(mix) => mix.squares(&squares),
            None => squares,
        }
    }
}
