//! How well the class is predicted from what is no disease: the bar that a network must beat before its score says anything about lungs.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::forest::{self, Columns};
use crate::{
    domain::Split,
    evaluation::{Estimate, Interval, interval::redraw},
};

const FOLDS: usize = 5;
const SEED: u64 = 0;

/// How well something that is no disease predicts the class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Shortcut {
    /// `source`, `collection`, `file`, `original` or `thumbnail`.
    pub name: String,
    /// What is looked at.
    pub features: String,
    /// How it predicts.
    pub model: String,
    /// Over all labelled images, five-fold: no patient, and no two images that look the same, are in two folds.
    pub cross_validated: Accuracy,
    /// Learnt from `train` and scored on `test`, as a network is; null where one of them is empty.
    pub on_test: Option<Accuracy>,
}

/// A share of images called rightly, beside that of who always calls the commonest class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accuracy {
    /// Images.
    pub n: u64,
    /// Patients; an image without a patient id counts as one, and images that look the same as one together.
    pub patients: u64,
    /// With its 95 % interval: a bootstrap over patients.
    pub accuracy: Estimate,
    /// The same of who always calls the commonest class: of all images, or of those learnt from where these are apart.
    pub majority: Estimate,
}

/// The images as far as a shortcut sees them: who has which class, whose they are and where they stand.
pub(super) struct Examples<'a> {
    pub(super) class: &'a [usize],
    pub(super) patient: &'a [usize],
    pub(super) split: &'a [Option<Split>],
}

/// What is learnt from.
pub(super) enum Seen<'a> {
    /// One value an image; the unknown are a value too.
    Category(&'a [Option<String>]),
    /// Any features.
    Features(Columns),
}

impl Shortcut {
    pub(super) fn measure(name: &str, features: &str, seen: &Seen<'_>, examples: &Examples<'_>) -> Self {
        let model = match seen {
            Seen::Category(_) => "the commonest class of each value",
            Seen::Features(_) => "extremely randomised trees",
        };
        Self {
            name: name.to_owned(),
            features: features.to_owned(),
            model: model.to_owned(),
            cross_validated: examples.cross_validated(seen),
            on_test: examples.on_test(seen),
        }
    }
}

impl Examples<'_> {
    fn cross_validated(&self, seen: &Seen<'_>) -> Accuracy {
        let fold = self.folds();
        let all: Vec<usize> = (0..fold.len()).collect();
        let mut called = Called::default();
        for held_out in 0..FOLDS {
            let (asked, train): (Vec<usize>, Vec<usize>) = all.iter().partition(|image| fold[**image] == held_out);
            self.call(seen, &train, &asked, &mut called);
        }
        // Of all images, not of each fold's others: where classes are about equally common, the commonest of the others is the rarest of
        // those held out, and the bar would lie too low.
        let commonest = self.commonest(all.iter());
        called.majority_right = called.images.iter().map(|image| self.class[*image] == commonest).collect();
        called.accuracy(self)
    }

    fn on_test(&self, seen: &Seen<'_>) -> Option<Accuracy> {
        let of = |split| (0..self.split.len()).filter(|image| self.split[*image] == Some(split)).collect::<Vec<_>>();
        let (train, test) = (of(Split::Train), of(Split::Test));
        if train.is_empty() || test.is_empty() {
            return None;
        }
        let mut called = Called::default();
        self.call(seen, &train, &test, &mut called);
        Some(called.accuracy(self))
    }

    fn call(&self, seen: &Seen<'_>, train: &[usize], asked: &[usize], called: &mut Called) {
        let said = match seen {
            Seen::Category(values) => self.commonest_of_each(values, train, asked),
            Seen::Features(columns) => forest::predict(columns, self.class, train, asked, SEED),
        };
        let commonest = self.commonest(train.iter());
        for (image, said) in asked.iter().zip(said) {
            called.images.push(*image);
            called.right.push(said == self.class[*image]);
            called.majority_right.push(commonest == self.class[*image]);
        }
    }

    fn commonest_of_each(&self, values: &[Option<String>], train: &[usize], asked: &[usize]) -> Vec<usize> {
        let mut by_value: HashMap<&Option<String>, Vec<usize>> = HashMap::new();
        train.iter().for_each(|image| by_value.entry(&values[*image]).or_default().push(*image));
        let of_all = self.commonest(train.iter());
        let of_value: HashMap<_, usize> =
            by_value.into_iter().map(|(value, images)| (value, self.commonest(images.iter()))).collect();
        asked.iter().map(|image| of_value.get(&values[*image]).copied().unwrap_or(of_all)).collect()
    }

    fn commonest<'i>(&self, images: impl Iterator<Item = &'i usize>) -> usize {
        let mut counts = vec![0.0; self.class.iter().max().map_or(1, |class| class + 1)];
        images.for_each(|image| counts[self.class[*image]] += 1.0);
        forest::most(&counts)
    }

    /// A fold for each image, all of a patient in the same: patients in a random order, each to the fold that has the fewest images yet.
    fn folds(&self) -> Vec<usize> {
        let mut patients: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        (0..self.patient.len()).for_each(|image| patients.entry(self.patient[image]).or_default().push(image));
        let mut patients: Vec<Vec<usize>> = patients.into_values().collect();
        patients.shuffle(&mut ChaCha8Rng::seed_from_u64(SEED));
        let (mut fold, mut sizes) = (vec![0; self.patient.len()], [0; FOLDS]);
        for images in patients {
            let smallest = (0..FOLDS).min_by_key(|fold| sizes[*fold]).unwrap_or_default();
            sizes[smallest] += images.len();
            images.into_iter().for_each(|image| fold[image] = smallest);
        }
        fold
    }
}

/// What was said of each image.
#[derive(Default)]
struct Called {
    images: Vec<usize>,
    right: Vec<bool>,
    majority_right: Vec<bool>,
}

/// One patient's images: how many, and how many were called rightly by each.
type Tally = (u64, u64, u64);

impl Called {
    fn accuracy(&self, examples: &Examples<'_>) -> Accuracy {
        let mut by_patient: BTreeMap<usize, Tally> = BTreeMap::new();
        for (at, image) in self.images.iter().enumerate() {
            let (n, right, majority) = by_patient.entry(examples.patient[*image]).or_default();
            *n += 1;
            *right += u64::from(self.right[at]);
            *majority += u64::from(self.majority_right[at]);
        }
        let tallies: Vec<Tally> = by_patient.into_values().collect();
        let drawn =
            redraw(SEED, |random| shares((0..tallies.len()).map(|_| tallies[random.random_range(0..tallies.len())])));
        let (accuracy, majority) = shares(tallies.iter().copied());
        let estimate = |value, of: fn(&(f64, f64)) -> f64| {
            let Interval { low, high } = Interval::of(drawn.iter().map(of).collect());
            Estimate { value, low, high }
        };
        Accuracy {
            n: self.images.len() as u64,
            patients: tallies.len() as u64,
            accuracy: estimate(accuracy, |(share, _)| *share),
            majority: estimate(majority, |(_, share)| *share),
        }
    }
}

/// Called rightly, and by the commonest class.
fn shares(tallies: impl Iterator<Item = Tally>) -> (f64, f64) {
    let sum = |all: Tally, one: Tally| (all.0 + one.0, all.1 + one.1, all.2 + one.2);
    let (n, right, majority) = tallies.fold((0, 0, 0), sum);
    (right as f64 / n.max(1) as f64, majority as f64 / n.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLITS: [Option<Split>; 5] =
        [Some(Split::Train), Some(Split::Train), Some(Split::Train), Some(Split::Test), None];

    fn cycle<T: Clone>(values: &[T], n: usize) -> Vec<T> {
        values.iter().cycle().take(n).cloned().collect()
    }

    #[test]
    fn a_planted_shortcut_lies_above_the_majority_and_what_says_nothing_does_not() {
        let n = 200;
        let class = cycle(&[0, 0, 0, 1], n);
        let split = cycle(&SPLITS, n);
        let examples = Examples { class: &class, patient: &(0..n).collect::<Vec<_>>(), split: &split };
        let planted: Vec<Option<String>> = class.iter().map(|class| Some(format!("source of {class}"))).collect();
        let told = Shortcut::measure("source", "", &Seen::Category(&planted), &examples);
        assert_eq!((told.cross_validated.accuracy.value, told.cross_validated.majority.value), (1.0, 0.75));
        assert!(told.cross_validated.majority.low > 0.6 && told.cross_validated.majority.high < 0.9);
        let test = told.on_test.unwrap();
        assert_eq!((test.n, test.accuracy.value), (40, 1.0));
        let nothing = cycle(&[Some("a".to_owned()), Some("b".to_owned()), None, None, None, None, None], n);
        let silent = Shortcut::measure("source", "", &Seen::Category(&nothing), &examples);
        assert_eq!(silent.cross_validated.accuracy.value, 0.75);
    }

    #[test]
    fn the_majority_of_equally_common_classes_is_their_share() {
        let class = cycle(&[0, 1, 2], 30);
        let examples = Examples { class: &class, patient: &(0..30).collect::<Vec<_>>(), split: &[None; 30] };
        let nothing = vec![None; 30];
        let majority = Shortcut::measure("", "", &Seen::Category(&nothing), &examples).cross_validated.majority;
        assert!((majority.value - 1.0 / 3.0).abs() < 1e-9, "{majority:?}");
    }

    #[test]
    fn who_knows_the_patient_learns_nothing_from_it_for_others() {
        // Each patient has a value of their own on all of ten images: with images of one in two folds it would tell all.
        let patient: Vec<usize> = (0..400).map(|image| image / 10).collect();
        let class: Vec<usize> = patient.iter().map(|patient| patient * 7 % 2).collect();
        let value: Vec<f64> = patient.iter().map(|patient| ((patient * 7919) % 40) as f64).collect();
        let split = vec![None; 400];
        let examples = Examples { class: &class, patient: &patient, split: &split };
        let columns = Columns(vec![Columns::ranked(&value)]);
        let told = Shortcut::measure("file", "", &Seen::Features(columns), &examples);
        assert!(told.cross_validated.accuracy.low < 0.75, "{told:?}");
        assert_eq!((told.cross_validated.patients, told.on_test), (40, None));
    }

    #[test]
    fn the_interval_is_as_wide_as_there_are_few_patients() {
        let class = cycle(&[0, 1], 200);
        let split = vec![None; 200];
        let planted: Vec<Option<String>> = (0..200)
            .map(|image: usize| Some(format!("{}", usize::from((image / 2).is_multiple_of(4)) ^ (image % 2))))
            .collect();
        let width = |patient: Vec<usize>| {
            let examples = Examples { class: &class, patient: &patient, split: &split };
            let accuracy = Shortcut::measure("", "", &Seen::Category(&planted), &examples).cross_validated.accuracy;
            accuracy.high - accuracy.low
        };
        let (many, few) = (width((0..200).collect()), width((0..200).map(|image| image / 2 % 8).collect()));
        assert!(few > 1.5 * many, "{few} and {many}");
    }
}
