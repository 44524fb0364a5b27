//! Random number generators of a run. Each is a pure function of the seed and of what it is used for; it does not depend on what was drawn
//! before or on which thread.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::position::EpochIndex;

/// Purpose of a generator.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Augmentation of an image, given its position in the batch.
    Augmentation(usize),
    /// Mixup of a batch.
    Mixup,
}

/// The generator for batch `batch` (from 0) of an epoch.
pub(super) fn generator(seed: u64, epoch: EpochIndex, batch: usize, purpose: Purpose) -> ChaCha8Rng {
    let (purpose, image) = match purpose {
        Purpose::Augmentation(image) => (1, image),
        Purpose::Mixup => (2, 0),
    };
    seeded(seed, &[epoch.stage, epoch.step, epoch.epoch, batch as u32, image as u32, purpose])
}

/// A generator seeded with the run's seed and at most six numbers that identify its use.
pub(super) fn seeded(seed: u64, parts: &[u32]) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    for (slot, part) in bytes[8..].chunks_mut(4).zip(parts) {
        slot.copy_from_slice(&part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}
