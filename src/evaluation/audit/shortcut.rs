//! Shortcut baselines: how well the class is predicted without looking at pathology. A network must beat them before its score
//! says anything about lungs.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::forest::{self, Columns};
use crate::{
    domain::Split,
    evaluation::{Estimate, Interval, interval::bootstrap},
};

const FOLDS: usize = 5;
const SEED: u64 = 0;

/// Shortcut baseline: accuracy of predicting the class from features unrelated to pathology.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Shortcut {
    /// `source`, `collection`, `file`, `original` or `thumbnail`.
    pub name: String,
    /// Description of the features.
    pub features: String,
    /// Description of the predictor.
    pub model: String,
    /// Five-fold cross-validation over all labelled images, grouped by patient and near-duplicates.
    pub cross_validated: Accuracy,
    /// Fitted on `train` and scored on `test`, as a network is; null if either is empty.
    pub on_test: Option<Accuracy>,
}

/// Accuracy of a predictor, compared with the majority-class baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accuracy {
    /// Number of images.
    pub n: u64,
    /// Number of patients. An image without a patient id counts as a patient; near-duplicates count as one.
    pub patients: u64,
    /// Accuracy with its 95 % confidence interval (bootstrap over patients).
    pub accuracy: Estimate,
    /// Accuracy of the majority-class baseline: the majority class of all images, or of `train` for a score on `test`.
    pub majority: Estimate,
}

/// Class, patient group and split of each image.
pub(super) struct Samples<'a> {
    pub(super) class: &'a [usize],
    pub(super) patient: &'a [usize],
    pub(super) split: &'a [Option<Split>],
}

/// Features of each image.
pub(super) enum Features<'a> {
    /// One categorical value per image; unknown is a value too.
    Category(&'a [Option<String>]),
    /// Numeric features.
    Numeric(Columns),
}

impl Shortcut {
    pub(super) fn measure(name: &str, description: &str, features: &Features<'_>, samples: &Samples<'_>) -> Self {
        let model = match features {
            Features::Category(_) => "majority class of each value",
            Features::Numeric(_) => "extremely randomised trees",
        };
        Self {
            name: name.to_owned(),
            features: description.to_owned(),
            model: model.to_owned(),
            cross_validated: samples.cross_validated(features),
            on_test: samples.on_test(features),
        }
    }
}

impl Samples<'_> {
    fn cross_validated(&self, features: &Features<'_>) -> Accuracy {
        let fold = self.folds();
        let all: Vec<usize> = (0..fold.len()).collect();
        let mut predictions = Predictions::default();
        for held_out in 0..FOLDS {
            let (test, train): (Vec<usize>, Vec<usize>) = all.iter().partition(|image| fold[**image] == held_out);
            self.predict(features, &train, &test, &mut predictions);
        }
        // The majority class of all images, not of each training fold: with balanced classes the majority of the training fold is the
        // minority of the held-out fold, and the baseline would be too low.
        let majority = self.majority_class(all.iter());
        predictions.majority_correct = predictions.images.iter().map(|image| self.class[*image] == majority).collect();
        predictions.accuracy(self)
    }

    fn on_test(&self, features: &Features<'_>) -> Option<Accuracy> {
        let of = |split| (0..self.split.len()).filter(|image| self.split[*image] == Some(split)).collect::<Vec<_>>();
        let (train, test) = (of(Split::Train), of(Split::Test));
        if train.is_empty() || test.is_empty() {
            return None;
        }
        let mut predictions = Predictions::default();
        self.predict(features, &train, &test, &mut predictions);
        Some(predictions.accuracy(self))
    }

    fn predict(&self, features: &Features<'_>, train: &[usize], test: &[usize], predictions: &mut Predictions) {
        let predicted = match features {
            Features::Category(values) => self.majority_by_value(values, train, test),
            Features::Numeric(columns) => forest::predict(columns, self.class, train, test, SEED),
        };
        let majority = self.majority_class(train.iter());
        for (image, predicted) in test.iter().zip(predicted) {
            predictions.images.push(*image);
            predictions.correct.push(predicted == self.class[*image]);
            predictions.majority_correct.push(majority == self.class[*image]);
        }
    }

    fn majority_by_value(&self, values: &[Option<String>], train: &[usize], test: &[usize]) -> Vec<usize> {
        let mut by_value: HashMap<&Option<String>, Vec<usize>> = HashMap::new();
        train.iter().for_each(|image| by_value.entry(&values[*image]).or_default().push(*image));
        let overall = self.majority_class(train.iter());
        let of_value: HashMap<_, usize> =
            by_value.into_iter().map(|(value, images)| (value, self.majority_class(images.iter()))).collect();
        test.iter().map(|image| of_value.get(&values[*image]).copied().unwrap_or(overall)).collect()
    }

    fn majority_class<'i>(&self, images: impl Iterator<Item = &'i usize>) -> usize {
        let mut counts = vec![0.0; self.class.iter().max().map_or(1, |class| class + 1)];
        images.for_each(|image| counts[self.class[*image]] += 1.0);
        forest::argmax(&counts)
    }

    /// Fold of each image, grouped by patient: patients in random order, each assigned to the smallest fold so far.
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

/// Predictions and their correctness, one entry per predicted image.
#[derive(Default)]
struct Predictions {
    images: Vec<usize>,
    correct: Vec<bool>,
    majority_correct: Vec<bool>,
}

/// Counts of one patient: images, correct predictions, correct by the majority class.
type PatientCounts = (u64, u64, u64);

impl Predictions {
    fn accuracy(&self, samples: &Samples<'_>) -> Accuracy {
        let mut by_patient: BTreeMap<usize, PatientCounts> = BTreeMap::new();
        for (at, image) in self.images.iter().enumerate() {
            let (n, correct, majority) = by_patient.entry(samples.patient[*image]).or_default();
            *n += 1;
            *correct += u64::from(self.correct[at]);
            *majority += u64::from(self.majority_correct[at]);
        }
        let counts: Vec<PatientCounts> = by_patient.into_values().collect();
        let resamples =
            bootstrap(SEED, |random| shares((0..counts.len()).map(|_| counts[random.random_range(0..counts.len())])));
        let (accuracy, majority) = shares(counts.iter().copied());
        let estimate = |value, of: fn(&(f64, f64)) -> f64| {
            let Interval { low, high } = Interval::of(resamples.iter().map(of).collect());
            Estimate { value, low, high }
        };
        Accuracy {
            n: self.images.len() as u64,
            patients: counts.len() as u64,
            accuracy: estimate(accuracy, |(share, _)| *share),
            majority: estimate(majority, |(_, share)| *share),
        }
    }
}

/// Accuracy of the predictor and of the majority class.
fn shares(counts: impl Iterator<Item = PatientCounts>) -> (f64, f64) {
    let sum = |all: PatientCounts, one: PatientCounts| (all.0 + one.0, all.1 + one.1, all.2 + one.2);
    let (n, correct, majority) = counts.fold((0, 0, 0), sum);
    (correct as f64 / n.max(1) as f64, majority as f64 / n.max(1) as f64)
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
    fn a_planted_shortcut_beats_the_majority_class_and_noise_does_not() {
        let n = 200;
        let class = cycle(&[0, 0, 0, 1], n);
        let split = cycle(&SPLITS, n);
        let samples = Samples { class: &class, patient: &(0..n).collect::<Vec<_>>(), split: &split };
        let planted: Vec<Option<String>> = class.iter().map(|class| Some(format!("source of {class}"))).collect();
        let planted_result = Shortcut::measure("source", "", &Features::Category(&planted), &samples);
        assert_eq!(
            (planted_result.cross_validated.accuracy.value, planted_result.cross_validated.majority.value),
            (1.0, 0.75)
        );
        assert!(
            planted_result.cross_validated.majority.low > 0.6 && planted_result.cross_validated.majority.high < 0.9
        );
        let test = planted_result.on_test.unwrap();
        assert_eq!((test.n, test.accuracy.value), (40, 1.0));
        let noise = cycle(&[Some("a".to_owned()), Some("b".to_owned()), None, None, None, None, None], n);
        let noise_result = Shortcut::measure("source", "", &Features::Category(&noise), &samples);
        assert_eq!(noise_result.cross_validated.accuracy.value, 0.75);
    }

    #[test]
    fn the_majority_baseline_of_balanced_classes_is_their_share() {
        let class = cycle(&[0, 1, 2], 30);
        let samples = Samples { class: &class, patient: &(0..30).collect::<Vec<_>>(), split: &[None; 30] };
        let noise = vec![None; 30];
        let majority = Shortcut::measure("", "", &Features::Category(&noise), &samples).cross_validated.majority;
        assert!((majority.value - 1.0 / 3.0).abs() < 1e-9, "{majority:?}");
    }

    #[test]
    fn patient_identity_does_not_help_across_folds() {
        // Each patient has a unique value on ten images: with a patient in two folds, the value would reveal the class.
        let patient: Vec<usize> = (0..400).map(|image| image / 10).collect();
        let class: Vec<usize> = patient.iter().map(|patient| patient * 7 % 2).collect();
        let value: Vec<f64> = patient.iter().map(|patient| ((patient * 7919) % 40) as f64).collect();
        let split = vec![None; 400];
        let samples = Samples { class: &class, patient: &patient, split: &split };
        let columns = Columns(vec![Columns::ranked(&value)]);
        let planted_result = Shortcut::measure("file", "", &Features::Numeric(columns), &samples);
        assert!(planted_result.cross_validated.accuracy.low < 0.75, "{planted_result:?}");
        assert_eq!((planted_result.cross_validated.patients, planted_result.on_test), (40, None));
    }

    #[test]
    fn the_interval_widens_with_fewer_patients() {
        let class = cycle(&[0, 1], 200);
        let split = vec![None; 200];
        let planted: Vec<Option<String>> = (0..200)
            .map(|image: usize| Some(format!("{}", usize::from((image / 2).is_multiple_of(4)) ^ (image % 2))))
            .collect();
        let width = |patient: Vec<usize>| {
            let samples = Samples { class: &class, patient: &patient, split: &split };
            let accuracy = Shortcut::measure("", "", &Features::Category(&planted), &samples).cross_validated.accuracy;
            accuracy.high - accuracy.low
        };
        let (many, few) = (width((0..200).collect()), width((0..200).map(|image| image / 2 % 8).collect()));
        assert!(few > 1.5 * many, "{few} and {many}");
    }
}
