//! Extremely randomised trees (Geurts, Ernst and Wehenkel 2006): a strong, fast classifier without hyperparameters to tune.

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const TREES: u64 = 100;

/// Maximum number of training images of a tree. Each tree of a larger training set gets a random sample of this size, so that the time
/// grows with the number of predicted images alone; together the trees still see most of the images.
const MAX_TREE_IMAGES: usize = 8192;

/// Minimum number of images for a split.
const MIN_SPLIT: usize = 5;

/// Features quantised to 256 ordered levels: `[feature][image]`.
pub(super) struct Columns(pub(super) Vec<Vec<u8>>);

impl Columns {
    /// Quantises numbers by rank: equal values share a level, and levels hold similar numbers of images.
    pub(super) fn ranked(values: &[f64]) -> Vec<u8> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |value: &f64| sorted.partition_point(|other| other < value);
        let mut distinct: Vec<usize> = values.iter().map(rank).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let many = distinct.len();
        let level = |value: &f64| {
            let position = distinct.partition_point(|other| *other < rank(value));
            if many <= 256 { position as u8 } else { (position * 256 / many) as u8 }
        };
        values.iter().map(level).collect()
    }
}

/// Fits the forest on `train` and predicts the class of each image of `test` (image indices). Deterministic for a seed. Runs on one
/// thread, which leaves the others to serving and training.
pub(super) fn predict(columns: &Columns, classes: &[usize], train: &[usize], test: &[usize], seed: u64) -> Vec<usize> {
    let count = classes.iter().max().map_or(0, |class| class + 1);
    let mut sums = vec![0.0; test.len() * count];
    for number in 0..TREES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        let tree = Tree::grow(columns, classes, count, sample(train, &mut random), &mut random);
        for (sums, image) in sums.chunks_mut(count.max(1)).zip(test) {
            sums.iter_mut().zip(tree.shares(columns, *image)).for_each(|(sum, share)| *sum += share);
        }
    }
    sums.chunks(count.max(1)).map(argmax).collect()
}

/// The training images of a tree.
fn sample(train: &[usize], random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut images = train.to_vec();
    if images.len() > MAX_TREE_IMAGES {
        images.partial_shuffle(random, MAX_TREE_IMAGES);
        // `partial_shuffle` puts the drawn ones at the end.
        images.drain(..images.len() - MAX_TREE_IMAGES);
    }
    images
}

/// Index of the largest value, the first on ties.
pub(super) fn argmax(shares: &[f32]) -> usize {
    let better = |best: usize, class: usize| if shares[class] > shares[best] { class } else { best };
    (0..shares.len()).fold(0, better)
}

enum Node {
    /// Images with a feature level of at most `level` go to `low`, the others to `high`.
    Split { feature: usize, level: u8, low: usize, high: usize },
    /// Class shares.
    Leaf(Vec<f32>),
}

struct Tree(Vec<Node>);

impl Tree {
    fn grow(columns: &Columns, classes: &[usize], count: usize, images: Vec<usize>, random: &mut ChaCha8Rng) -> Self {
        let mut nodes = vec![Node::Leaf(Vec::new())];
        let mut open = vec![(0, images)];
        while let Some((at, images)) = open.pop() {
            let counts = counted(classes, count, &images);
            let pure = counts.iter().filter(|n| **n > 0).count() <= 1;
            let split = if pure || images.len() < MIN_SPLIT {
                None
            } else {
                best_split(columns, classes, &counts, &images, random)
            };
            let Some((feature, level)) = split else {
                let n = images.len().max(1) as f32;
                nodes[at] = Node::Leaf(counts.into_iter().map(|of_class| of_class as f32 / n).collect());
                continue;
            };
            let column = &columns.0[feature];
            let (under, over) = images.into_iter().partition(|image| column[*image] <= level);
            let (low, high) = (nodes.len(), nodes.len() + 1);
            nodes[at] = Node::Split { feature, level, low, high };
            nodes.extend([Node::Leaf(Vec::new()), Node::Leaf(Vec::new())]);
            open.extend([(low, under), (high, over)]);
        }
        Self(nodes)
    }

    fn shares(&self, columns: &Columns, image: usize) -> &[f32] {
        let mut at = 0;
        loop {
            match &self.0[at] {
                Node::Leaf(shares) => return shares,
                Node::Split { feature, level, low, high } => {
                    at = if columns.0[*feature][image] <= *level { *low } else { *high };
                }
            }
        }
    }
}

/// Best random split by Gini impurity. Considers sqrt(features) random features (all if there are few), each at a random threshold
/// between its minimum and maximum in this node.
fn best_split(
    columns: &Columns,
    classes: &[usize],
    all: &[u32],
    images: &[usize],
    random: &mut ChaCha8Rng,
) -> Option<(usize, u8)> {
    let features = columns.0.len();
    let tries = if features <= 16 { features } else { (features as f64).sqrt().round() as usize };
    let mut best: Option<(f32, usize, u8)> = None;
    for n in 0..tries {
        let feature = if tries == features { n } else { random.random_range(0..features) };
        let column = &columns.0[feature];
        let range = |(low, high): (u8, u8), image: &usize| (low.min(column[*image]), high.max(column[*image]));
        let (low, high) = images.iter().fold((u8::MAX, u8::MIN), range);
        if low == high {
            continue;
        }
        let level = random.random_range(low..high);
        let mut under = vec![0; all.len()];
        images.iter().filter(|image| column[**image] <= level).for_each(|image| under[classes[*image]] += 1);
        let over: Vec<u32> = all.iter().zip(&under).map(|(all, under)| all - under).collect();
        let purity = purity(&under) + purity(&over);
        if best.is_none_or(|(most, _, _)| purity > most) {
            best = Some((purity, feature, level));
        }
    }
    best.map(|(_, feature, level)| (feature, level))
}

/// Sum of squared class counts divided by their total: larger for purer nodes, and additive over child nodes.
fn purity(counts: &[u32]) -> f32 {
    let n: u32 = counts.iter().sum();
    counts.iter().map(|of_class| (*of_class as f32).powi(2)).sum::<f32>() / n.max(1) as f32
}

fn counted(classes: &[usize], count: usize, images: &[usize]) -> Vec<u32> {
    let mut counts = vec![0; count];
    images.iter().for_each(|image| counts[classes[*image]] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_an_interaction_that_no_single_feature_shows() {
        // The class is whether two features are on the same side; a third is noise.
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let columns = Columns((0..3).map(|_| (0..600).map(|_| random.random()).collect()).collect());
        let side = |feature: usize, image: usize| columns.0[feature][image] > 127;
        let classes: Vec<usize> = (0..600).map(|image| usize::from(side(0, image) == side(1, image))).collect();
        let (train, test): (Vec<usize>, Vec<usize>) = ((0..400).collect(), (400..600).collect());
        let correct = |seed| {
            let predicted = predict(&columns, &classes, &train, &test, seed);
            predicted.iter().zip(&test).filter(|(predicted, image)| **predicted == classes[**image]).count()
        };
        assert!(correct(1) > 170, "{} of 200", correct(1));
        assert_eq!(predict(&columns, &classes, &train, &test, 1), predict(&columns, &classes, &train, &test, 1));
    }

    #[test]
    fn a_tree_grows_on_a_random_sample_of_a_large_training_set() {
        let train: Vec<usize> = (0..3 * MAX_TREE_IMAGES).collect();
        let drawn = |seed| sample(&train, &mut ChaCha8Rng::seed_from_u64(seed));
        let mut one = drawn(1);
        assert!(one != drawn(2) && one == drawn(1));
        one.sort_unstable();
        one.dedup();
        assert_eq!(one.len(), MAX_TREE_IMAGES, "no image twice");
        let from_each_third = one.chunk_by(|a, b| a / MAX_TREE_IMAGES == b / MAX_TREE_IMAGES).map(<[usize]>::len);
        assert!(from_each_third.clone().count() == 3 && from_each_third.clone().all(|n| n > MAX_TREE_IMAGES / 4));
        assert_eq!(sample(&train[..MAX_TREE_IMAGES], &mut ChaCha8Rng::seed_from_u64(1)), train[..MAX_TREE_IMAGES]);
    }

    #[test]
    fn ranking_preserves_order_and_ties() {
        assert_eq!(Columns::ranked(&[1e9, -3.0, 0.5, 0.5]), [2, 0, 1, 1]);
        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        let levels = Columns::ranked(&many);
        assert!(levels.is_sorted() && levels[0] == 0 && levels[999] == 255);
    }
}
