//! The order of the training images: a pure function of the seed and the epoch, so that a run is reproducible.

use rand::{RngCore, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{TrainingJob, position::EpochIndex, random::seeded};
use crate::domain::Sampling;

/// The training batches of one epoch, as indices of samples.
pub(super) struct EpochBatches {
    pub(super) batches: Vec<Vec<usize>>,
    seed: u64,
    index: EpochIndex,
}

impl EpochBatches {
    /// The batches of an epoch of the samples at `train`, with the sampling of the plan.
    pub(super) fn new(job: &TrainingJob, train: &[usize], index: EpochIndex) -> Self {
        match job.plan.sampling {
            Sampling::Shuffle => Self::shuffled(train, job.plan.batch_size, job.seed, index),
            Sampling::Balanced => Self::balanced(&by_class(job, train), job.plan.batch_size, job.seed, index),
        }
    }

    /// Shuffles the samples at `train` and splits them into batches. The last batch may be smaller. It is dropped if it would hold a single
    /// image while others are larger: the variance of one image is zero, which would corrupt the running statistics of batch normalisation.
    pub(super) fn shuffled(train: &[usize], batch_size: u32, seed: u64, index: EpochIndex) -> Self {
        let mut rng = rng(seed, index);
        let mut order = train.to_vec();
        order.shuffle(&mut rng);
        Self::split(&order, batch_size, seed, index)
    }

    /// Class-balanced sampling: as many samples as the split has, equally many of each class, in batches as in
    /// [`EpochBatches::shuffled`]. Samples of a small class occur several times; some samples of a large class are left out in this epoch.
    fn balanced(classes: &[Vec<usize>], batch_size: u32, seed: u64, index: EpochIndex) -> Self {
        let mut rng = rng(seed, index);
        let all: usize = classes.iter().map(Vec::len).sum();
        let mut order = Vec::with_capacity(all);
        for (class, samples) in classes.iter().enumerate() {
            let count = all / classes.len() + usize::from(class < all % classes.len());
            order.extend(repeated_shuffles(samples, &mut rng).take(count));
        }
        order.shuffle(&mut rng);
        Self::split(&order, batch_size, seed, index)
    }

    fn split(order: &[usize], batch_size: u32, seed: u64, index: EpochIndex) -> Self {
        let size = batch_size as usize;
        let mut batches = sequential(order, batch_size);
        if batches.len() > 1 && size > 1 {
            batches.pop_if(|last| last.len() == 1);
        }
        Self { batches, seed, index }
    }

    /// Seed of the dropout of a batch. It depends on no other batch, so that an epoch can resume at any batch.
    pub(super) fn dropout_seed(&self, batch: usize) -> u64 {
        let mut rng = rng(self.seed, self.index);
        // Stream 0 shuffles.
        rng.set_stream(1 + batch as u64);
        rng.next_u64()
    }
}

/// The samples at `indices`, grouped by class.
fn by_class(job: &TrainingJob, indices: &[usize]) -> Vec<Vec<usize>> {
    let mut classes = vec![Vec::new(); job.classes.len()];
    indices.iter().for_each(|&index| classes[job.samples[index].class].push(index));
    classes
}

/// An endless sequence of shuffled copies of `samples`.
fn repeated_shuffles(samples: &[usize], rng: &mut ChaCha8Rng) -> impl Iterator<Item = usize> {
    std::iter::repeat_with(|| {
        let mut order = samples.to_vec();
        order.shuffle(rng);
        order
    })
    .flatten()
}

/// Batches of the samples at `indices`, in order.
pub(super) fn sequential(indices: &[usize], batch_size: u32) -> Vec<Vec<usize>> {
    indices.chunks(batch_size as usize).map(<[usize]>::to_vec).collect()
}

/// Random number generator of an epoch; independent of all other epochs.
fn rng(seed: u64, EpochIndex { stage, step, epoch }: EpochIndex) -> ChaCha8Rng {
    seeded(seed, &[stage, step, epoch])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: EpochIndex = EpochIndex { stage: 1, step: 1, epoch: 1 };

    fn batches(images: usize, size: u32, seed: u64, index: EpochIndex) -> Vec<Vec<usize>> {
        EpochBatches::shuffled(&(0..images).collect::<Vec<_>>(), size, seed, index).batches
    }

    #[test]
    fn an_epoch_has_every_image_once_and_a_smaller_last_batch() {
        let batches = batches(10, 4, 1, FIRST);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn drops_a_last_batch_of_a_single_image() {
        assert_eq!(batches(9, 4, 1, FIRST).concat().len(), 8);
        assert_eq!(batches(9, 1, 1, FIRST).concat().len(), 9);
        assert_eq!(batches(1, 4, 1, FIRST).concat().len(), 1);
    }

    #[test]
    fn dropout_seeds_depend_on_seed_epoch_and_batch() {
        let seeds = |seed, index| {
            let epoch = EpochBatches::shuffled(&[0, 1, 2], 1, seed, index);
            (0..3).map(|batch| epoch.dropout_seed(batch)).collect::<Vec<_>>()
        };
        let first = seeds(1, FIRST);
        assert_eq!(first, seeds(1, FIRST));
        let others = [first.clone(), seeds(2, FIRST), seeds(1, EpochIndex { epoch: 2, ..FIRST })].concat();
        assert_eq!(std::collections::BTreeSet::from_iter(&others).len(), 9, "{others:?}");
    }

    #[test]
    fn balanced_epoch_has_the_same_length_and_every_class_equally_often() {
        let classes = [(0..20).collect::<Vec<_>>(), vec![20, 21], vec![22, 23, 24, 25, 26]];
        let epoch = |epoch| EpochBatches::balanced(&classes, 4, 1, EpochIndex { epoch, ..FIRST }).batches;
        let batches = epoch(1);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 3]);
        let sampled = batches.concat();
        for class in &classes {
            let times: Vec<_> =
                class.iter().map(|sample| sampled.iter().filter(|sampled| *sampled == sample).count()).collect();
            assert_eq!(times.iter().sum::<usize>(), 9, "{times:?}");
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(most - least <= 1, "no sample occurs twice before every other has occurred: {times:?}");
        }
        assert_eq!(batches, epoch(1));
        assert_ne!(batches, epoch(2));
    }

    #[test]
    fn order_depends_only_on_seed_and_epoch() {
        let order = batches(50, 50, 1, FIRST);
        assert_eq!(order, batches(50, 50, 1, FIRST));
        assert_ne!(order, batches(50, 50, 2, FIRST));
        for index in
            [EpochIndex { stage: 2, ..FIRST }, EpochIndex { step: 2, ..FIRST }, EpochIndex { epoch: 2, ..FIRST }]
        {
            assert_ne!(order, batches(50, 50, 1, index), "{index:?}");
        }
    }
}
