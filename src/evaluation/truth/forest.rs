//! Extremely randomised trees (Geurts, Ernst and Wehenkel 2006): a strong, fast reader of whatever features there are, with nothing to tune.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TREES: u64 = 100;

/// Below so many images a node is not parted any more.
const LEAST_TO_PART: usize = 5;

/// Features column by column, each value one of 256 levels in order: `[feature][image]`.
pub(super) struct Columns(pub(super) Vec<Vec<u8>>);

impl Columns {
    /// Numbers of any scale by their rank: equal values have equal levels, and no level has many more images than another.
    pub(super) fn ranked(values: &[f64]) -> Vec<u8> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |value: &f64| sorted.partition_point(|other| other < value);
        let mut distinct: Vec<usize> = values.iter().map(rank).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let many = distinct.len();
        let level = |value: &f64| {
            let place = distinct.partition_point(|other| *other < rank(value));
            if many <= 256 { place as u8 } else { (place * 256 / many) as u8 }
        };
        values.iter().map(level).collect()
    }
}

/// What is learnt from `train` says of each of `asked`: a class. All are places of images; `classes` are theirs. The same seed gives the
/// same answers. On one thread: the others are left to predictions and training.
pub(super) fn predict(columns: &Columns, classes: &[usize], train: &[usize], asked: &[usize], seed: u64) -> Vec<usize> {
    let count = classes.iter().max().map_or(0, |class| class + 1);
    let mut sums = vec![0.0; asked.len() * count];
    for number in 0..TREES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        let tree = Tree::grow(columns, classes, count, train.to_vec(), &mut random);
        for (sums, image) in sums.chunks_mut(count.max(1)).zip(asked) {
            sums.iter_mut().zip(tree.shares(columns, *image)).for_each(|(sum, share)| *sum += share);
        }
    }
    sums.chunks(count.max(1)).map(most).collect()
}

/// The first of the largest.
pub(super) fn most(shares: &[f32]) -> usize {
    let better = |best: usize, class: usize| if shares[class] > shares[best] { class } else { best };
    (0..shares.len()).fold(0, better)
}

enum Node {
    /// Images at most at the level go to `low`, the others to `high`.
    Part { feature: usize, level: u8, low: usize, high: usize },
    /// Shares of the classes.
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
            let part = if pure || images.len() < LEAST_TO_PART {
                None
            } else {
                best_part(columns, classes, &counts, &images, random)
            };
            let Some((feature, level)) = part else {
                let n = images.len().max(1) as f32;
                nodes[at] = Node::Leaf(counts.into_iter().map(|of_class| of_class as f32 / n).collect());
                continue;
            };
            let column = &columns.0[feature];
            let (under, over) = images.into_iter().partition(|image| column[*image] <= level);
            let (low, high) = (nodes.len(), nodes.len() + 1);
            nodes[at] = Node::Part { feature, level, low, high };
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
                Node::Part { feature, level, low, high } => {
                    at = if columns.0[*feature][image] <= *level { *low } else { *high };
                }
            }
        }
    }
}

/// Of as many features as the square root of their number, and of all where there are few, each parted at a random level between its lowest
/// and its highest value here: the part after which the classes are least mixed (Gini).
fn best_part(
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

/// Sum of squares over the number: larger the less the classes are mixed, and additive over parts.
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
    fn a_forest_learns_what_no_single_feature_tells() {
        // The class is whether two features are on the same side; a third is noise.
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let columns = Columns((0..3).map(|_| (0..600).map(|_| random.random()).collect()).collect());
        let side = |feature: usize, image: usize| columns.0[feature][image] > 127;
        let classes: Vec<usize> = (0..600).map(|image| usize::from(side(0, image) == side(1, image))).collect();
        let (train, asked): (Vec<usize>, Vec<usize>) = ((0..400).collect(), (400..600).collect());
        let right = |seed| {
            let said = predict(&columns, &classes, &train, &asked, seed);
            said.iter().zip(&asked).filter(|(said, image)| **said == classes[**image]).count()
        };
        assert!(right(1) > 170, "{} of 200", right(1));
        assert_eq!(predict(&columns, &classes, &train, &asked, 1), predict(&columns, &classes, &train, &asked, 1));
    }

    #[test]
    fn ranks_keep_the_order_and_equal_values_together() {
        assert_eq!(Columns::ranked(&[1e9, -3.0, 0.5, 0.5]), [2, 0, 1, 1]);
        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        let levels = Columns::ranked(&many);
        assert!(levels.is_sorted() && levels[0] == 0 && levels[999] == 255);
    }
}
