//! The order of the training images: a pure function of seed and place, so that a run can be repeated.

use rand::{RngCore, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{TrainingJob, random::seeded};
use crate::domain::Sampling;

/// Where in a plan an epoch stands; each counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) stage: u32,
    pub(super) step: u32,
    pub(super) epoch: u32,
}

/// The batches of one epoch.
pub(super) struct Epoch {
    pub(super) batches: Vec<Vec<usize>>,
    seed: u64,
    place: Place,
}

impl Epoch {
    /// The epoch at `place` as the plan asks for it, of the samples at `train`.
    pub(super) fn draw(job: &TrainingJob, train: &[usize], place: Place) -> Self {
        match job.plan.sampling {
            Sampling::Shuffle => Self::shuffled(train, job.plan.batch_size, job.seed, place),
            Sampling::Balanced => Self::balanced(&by_class(job, train), job.plan.batch_size, job.seed, place),
        }
    }

    /// Shuffles the samples at `train` and cuts them into batches. The last batch may be smaller; it is left out when
    /// it would hold a single image among larger ones, because the variance of one image is zero and batch
    /// normalisation would learn from it that all activations are alike.
    pub(super) fn shuffled(train: &[usize], batch_size: u32, seed: u64, place: Place) -> Self {
        let mut rng = rng(seed, place);
        let mut order = train.to_vec();
        order.shuffle(&mut rng);
        Self::cut(&order, batch_size, seed, place)
    }

    /// As many samples as there are, of each class equally many, in batches as [`Epoch::shuffled`] cuts them. A class that is too small
    /// is gone through several times; of one that is too large some samples wait for another epoch.
    fn balanced(classes: &[Vec<usize>], batch_size: u32, seed: u64, place: Place) -> Self {
        let mut rng = rng(seed, place);
        let all: usize = classes.iter().map(Vec::len).sum();
        let mut order = Vec::with_capacity(all);
        for (class, samples) in classes.iter().enumerate() {
            let wanted = all / classes.len() + usize::from(class < all % classes.len());
            order.extend(in_turns(samples, &mut rng).take(wanted));
        }
        order.shuffle(&mut rng);
        Self::cut(&order, batch_size, seed, place)
    }

    fn cut(order: &[usize], batch_size: u32, seed: u64, place: Place) -> Self {
        let size = batch_size as usize;
        let mut batches = in_order(order, batch_size);
        if batches.len() > 1 && size > 1 {
            batches.pop_if(|last| last.len() == 1);
        }
        Self { batches, seed, place }
    }

    /// What the dropout of a batch is seeded with: of this batch alone, so that an epoch can go on in its midst.
    pub(super) fn dropout_seed(&self, batch: usize) -> u64 {
        let mut rng = rng(self.seed, self.place);
        // The first stream has shuffled.
        rng.set_stream(1 + batch as u64);
        rng.next_u64()
    }
}

/// The samples at `indices` by their class.
fn by_class(job: &TrainingJob, indices: &[usize]) -> Vec<Vec<usize>> {
    let mut classes = vec![Vec::new(); job.classes.len()];
    indices.iter().for_each(|&index| classes[job.samples[index].class].push(index));
    classes
}

/// All samples in a drawn order, then all of them in another one, without end.
fn in_turns(samples: &[usize], rng: &mut ChaCha8Rng) -> impl Iterator<Item = usize> {
    std::iter::repeat_with(|| {
        let mut order = samples.to_vec();
        order.shuffle(rng);
        order
    })
    .flatten()
}

/// Batches of the samples at `indices` as they stand.
pub(super) fn in_order(indices: &[usize], batch_size: u32) -> Vec<Vec<usize>> {
    indices.chunks(batch_size as usize).map(<[usize]>::to_vec).collect()
}

/// A generator of its own for each epoch: an epoch can be repeated without the ones before it.
fn rng(seed: u64, Place { stage, step, epoch }: Place) -> ChaCha8Rng {
    seeded(seed, &[stage, step, epoch])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Place = Place { stage: 1, step: 1, epoch: 1 };

    fn batches(images: usize, size: u32, seed: u64, place: Place) -> Vec<Vec<usize>> {
        Epoch::shuffled(&(0..images).collect::<Vec<_>>(), size, seed, place).batches
    }

    #[test]
    fn every_image_comes_once_an_epoch_the_last_batch_smaller() {
        let batches = batches(10, 4, 1, FIRST);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_single_left_over_image_waits_for_another_epoch() {
        assert_eq!(batches(9, 4, 1, FIRST).concat().len(), 8);
        assert_eq!(batches(9, 1, 1, FIRST).concat().len(), 9);
        assert_eq!(batches(1, 4, 1, FIRST).concat().len(), 1);
    }

    #[test]
    fn each_batch_has_draws_of_its_own_which_depend_on_seed_and_place() {
        let seeds = |seed, place| {
            let epoch = Epoch::shuffled(&[0, 1, 2], 1, seed, place);
            (0..3).map(|batch| epoch.dropout_seed(batch)).collect::<Vec<_>>()
        };
        let drawn = seeds(1, FIRST);
        assert_eq!(drawn, seeds(1, FIRST));
        let others = [drawn.clone(), seeds(2, FIRST), seeds(1, Place { epoch: 2, ..FIRST })].concat();
        assert_eq!(std::collections::BTreeSet::from_iter(&others).len(), 9, "{others:?}");
    }

    #[test]
    fn a_balanced_epoch_is_as_long_and_has_every_class_equally_often() {
        let classes = [(0..20).collect::<Vec<_>>(), vec![20, 21], vec![22, 23, 24, 25, 26]];
        let epoch = |epoch| Epoch::balanced(&classes, 4, 1, Place { epoch, ..FIRST }).batches;
        let batches = epoch(1);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 3]);
        let drawn = batches.concat();
        for class in &classes {
            let times: Vec<_> =
                class.iter().map(|sample| drawn.iter().filter(|drawn| *drawn == sample).count()).collect();
            assert_eq!(times.iter().sum::<usize>(), 9, "{times:?}");
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(most - least <= 1, "no sample comes twice as long as another waits: {times:?}");
        }
        assert_eq!(batches, epoch(1));
        assert_ne!(batches, epoch(2));
    }

    #[test]
    fn the_order_depends_on_seed_and_place_alone() {
        let order = batches(50, 50, 1, FIRST);
        assert_eq!(order, batches(50, 50, 1, FIRST));
        assert_ne!(order, batches(50, 50, 2, FIRST));
        for place in [Place { stage: 2, ..FIRST }, Place { step: 2, ..FIRST }, Place { epoch: 2, ..FIRST }] {
            assert_ne!(order, batches(50, 50, 1, place), "{place:?}");
        }
    }
}
