//! Generators for what is drawn within an epoch: each a pure function of the run's seed and of what it is for, whatever was drawn before
//! and on which thread.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::batches::Place;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Draw {
    /// The change of an image, by its position in the batch.
    Change(usize),
    /// With which images those of a batch are mixed, and how much.
    Mix,
}

/// The generator of a draw in batch `batch` (from 0) of an epoch.
pub(super) fn generator(seed: u64, place: Place, batch: usize, draw: Draw) -> ChaCha8Rng {
    let (purpose, image) = match draw {
        Draw::Change(image) => (1, image),
        Draw::Mix => (2, 0),
    };
    seeded(seed, &[place.stage, place.step, place.epoch, batch as u32, image as u32, purpose])
}

/// The generator of a run's seed and of at most six numbers that say what it is for.
pub(super) fn seeded(seed: u64, parts: &[u32]) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    for (slot, part) in bytes[8..].chunks_mut(4).zip(parts) {
        slot.copy_from_slice(&part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}
