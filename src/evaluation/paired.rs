//! Paired tests of two models on the same images. Overlapping confidence intervals do not show that two models perform equally;
//! paired tests compare them image by image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Estimate, Interval, clusters::Clusters, interval::bootstrap, scores::log_loss};
use crate::domain::{ConfusionMatrix, EvaluatedImage, SelectionMetric};

/// Seed of the bootstrap, fixed so that the same predictions always give the same comparison.
const BOOTSTRAP_SEED: u64 = 0;

/// Paired test of two models. Differences are the score of this model minus the score of the first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PairedTest {
    /// Images that both models were evaluated on; all other values refer to these.
    pub n: u64,
    /// Images that both models classified correctly.
    pub both_correct: u64,
    /// Images that only the first model classified correctly.
    pub only_first_correct: u64,
    /// Images that only this model classified correctly.
    pub only_this_correct: u64,
    /// Images that neither model classified correctly.
    pub neither_correct: u64,
    /// Two-sided p-value of the exact McNemar test (1947, binomial form, not mid-p) of equal accuracy.
    pub mcnemar_exact_p: f64,
    /// Difference of the accuracies; 95 % confidence interval by paired percentile bootstrap over patients.
    pub accuracy_difference: Estimate,
    /// Difference of the macro F1 scores; 95 % confidence interval by paired percentile bootstrap over patients.
    pub macro_f1_difference: Estimate,
    /// Difference of the log losses, in nats: below 0 if this model is better; 95 % confidence interval by paired percentile bootstrap over
    /// patients.
    pub log_loss_difference: Estimate,
}

impl PairedTest {
    /// Compares the predictions of two models with the same `classes` classes. Images that only one model was evaluated on are
    /// ignored.
    ///
    /// # Errors
    /// A reason for users, if the models share no image or an image was evaluated under two labels.
    pub fn new(first: &[EvaluatedImage], this: &[EvaluatedImage], classes: usize) -> Result<Self, String> {
        let pairs = pairs(first, this)?;
        let cells = cells(&pairs, std::iter::repeat(1));
        let n: u64 = cells.values().sum();
        let count = |first_correct, this_correct| {
            let counted = cells
                .iter()
                .filter(|(cell, _)| (cell.first_correct(), cell.this_correct()) == (first_correct, this_correct));
            counted.map(|(_, images)| images).sum::<u64>()
        };
        let (only_first_correct, only_this_correct) = (count(true, false), count(false, true));
        let [accuracy_difference, macro_f1_difference, log_loss_difference] = differences(&pairs, classes);
        Ok(Self {
            n,
            both_correct: count(true, true),
            only_first_correct,
            only_this_correct,
            neither_correct: count(false, false),
            mcnemar_exact_p: mcnemar_exact(only_first_correct, only_this_correct),
            accuracy_difference,
            macro_f1_difference,
            log_loss_difference,
        })
    }

    /// True if this model is significantly worse than the first: the interval of the difference contains no value of an equal or better one.
    pub fn is_worse(&self, metric: SelectionMetric) -> bool {
        match metric {
            SelectionMetric::Accuracy => self.accuracy_difference.high < 0.0,
            SelectionMetric::MacroF1 => self.macro_f1_difference.high < 0.0,
            SelectionMetric::Loss => self.log_loss_difference.low > 0.0,
        }
    }
}

/// True class of an image and the predictions of both models.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    truth: usize,
    first: usize,
    this: usize,
}

impl Cell {
    fn first_correct(&self) -> bool {
        self.first == self.truth
    }

    fn this_correct(&self) -> bool {
        self.this == self.truth
    }
}

/// An image that both models were evaluated on.
struct Pair {
    cell: Cell,
    /// Log loss of this model minus that of the first.
    log_loss_difference: f64,
    patient: Option<u32>,
}

/// The shared images.
fn pairs(first: &[EvaluatedImage], this: &[EvaluatedImage]) -> Result<Vec<Pair>, String> {
    let first: BTreeMap<_, _> = first.iter().map(|outcome| (&outcome.sha256, outcome)).collect();
    let mut pairs = Vec::new();
    let mut relabelled = 0;
    for (this, first) in this.iter().filter_map(|this| Some((this, first.get(&this.sha256)?))) {
        relabelled += u64::from(this.truth != first.truth);
        let cell = Cell { truth: this.truth, first: first.predicted, this: this.predicted };
        let log_loss_difference = log_loss(this) - log_loss(first);
        pairs.push(Pair { cell, log_loss_difference, patient: this.patient });
    }
    match relabelled {
        0 if pairs.is_empty() => {
            Err("the two models were evaluated on different images: no image is in both sets".into())
        }
        0 => Ok(pairs),
        images => Err(format!(
            "{images} of the images that both models were evaluated on had a different label at one of the evaluations"
        )),
    }
}

/// Counts of images by true class and both predictions, each image as often as its weight says.
fn cells(pairs: &[Pair], weights: impl Iterator<Item = u32>) -> BTreeMap<Cell, u64> {
    let mut cells = BTreeMap::new();
    pairs.iter().zip(weights).for_each(|(pair, weight)| *cells.entry(pair.cell).or_default() += u64::from(weight));
    cells
}

/// Two-sided p-value of the exact McNemar test: twice the smaller tail of Binomial(`b + c`, 1/2), at most 1. Summed in logarithms,
/// because 2^-10000 underflows a double.
fn mcnemar_exact(b: u64, c: u64) -> f64 {
    let n = b + c;
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for i in 0..b.min(c) {
        log_term += ((n - i) as f64 / (i + 1) as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Differences of accuracy, macro F1 and log loss with paired bootstrap intervals: patients are resampled with all images and both predictions.
fn differences(pairs: &[Pair], classes: usize) -> [Estimate; 3] {
    let clusters = Clusters::new(pairs.iter().map(|pair| pair.patient));
    let scores = |weights: &[u32]| {
        let cells = cells(pairs, weights.iter().copied());
        let [first, this] = confusions(&cells, classes).map(|confusion| confusion.averages());
        let weighted = pairs.iter().zip(weights).map(|(pair, &weight)| pair.log_loss_difference * f64::from(weight));
        let images: u64 = cells.values().sum();
        [this.accuracy - first.accuracy, this.macro_f1 - first.macro_f1, weighted.sum::<f64>() / images as f64]
    };
    let resamples = bootstrap(BOOTSTRAP_SEED, |rng| scores(&clusters.draw(rng)));
    let values = scores(&vec![1; pairs.len()]);
    std::array::from_fn(|score| {
        let Interval { low, high } = Interval::of(resamples.iter().map(|scores| scores[score]).collect());
        Estimate { value: values[score], low, high }
    })
}

/// Confusion matrices of the first model and of this one.
fn confusions(cells: &BTreeMap<Cell, u64>, classes: usize) -> [ConfusionMatrix; 2] {
    let matrix = |predicted: fn(&Cell) -> usize| {
        let mut rows = vec![vec![0; classes]; classes];
        cells.iter().for_each(|(cell, images)| rows[cell.truth][predicted(cell)] += images);
        ConfusionMatrix::from_rows(rows)
    };
    [matrix(|cell| cell.first), matrix(|cell| cell.this)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Sha256;

    /// (true class, prediction of the first model, prediction of this model, number of images).
    const CELLS: [(usize, usize, usize, usize); 13] = [
        (0, 0, 0, 40),
        (0, 0, 1, 3),
        (0, 1, 0, 5),
        (0, 2, 0, 2),
        (1, 1, 1, 30),
        (1, 0, 1, 8),
        (1, 1, 2, 2),
        (1, 2, 1, 3),
        (1, 0, 0, 2),
        (2, 2, 2, 20),
        (2, 0, 2, 4),
        (2, 2, 1, 1),
        (2, 1, 1, 3),
    ];

    fn outcomes() -> (Vec<EvaluatedImage>, Vec<EvaluatedImage>) {
        let images = CELLS.iter().flat_map(|&(truth, first, this, n)| vec![(truth, first, this); n]).enumerate();
        images.map(|(i, (truth, first, this))| (outcome(i, truth, first), outcome(i, truth, this))).unzip()
    }

    fn outcome(image: usize, truth: usize, predicted: usize) -> EvaluatedImage {
        EvaluatedImage {
            sha256: Sha256::of(&image.to_le_bytes()),
            patient: None,
            truth,
            predicted,
            probabilities: (0..3).map(|class| if class == predicted { 0.8 } else { 0.1 }).collect(),
        }
    }

    #[test]
    fn mcnemar_agrees_with_exact_fractions() {
        // 2 * sum(C(b + c, i) for i <= min(b, c)) / 2 ** (b + c), at most 1, in Python's exact fractions.
        let known = [
            (12, 5, 0.143463134765625),
            (3, 15, 0.007537841796875),
            (0, 6, 0.03125),
            (121, 59, 4.434449263755176e-06),
            (1500, 1400, 0.06598734966518381),
            (7, 7, 1.0),
            (1, 0, 1.0),
            (0, 0, 1.0),
        ];
        for (b, c, p) in known {
            assert!((mcnemar_exact(b, c) / p - 1.0).abs() < 1e-9, "{b} and {c}: {}, not {p}", mcnemar_exact(b, c));
            assert_eq!(mcnemar_exact(b, c), mcnemar_exact(c, b));
        }
        assert!(mcnemar_exact(20_000, 1000) < 1e-300, "no overflow");
    }

    #[test]
    fn discordant_pairs_are_counted_on_shared_images() {
        let (first, this) = outcomes();
        let test = PairedTest::new(&first, &this, 3).unwrap();
        assert_eq!((test.n, test.both_correct, test.neither_correct), (123, 90, 5));
        assert_eq!((test.only_first_correct, test.only_this_correct), (6, 22));
        // 2 * sum(C(28, i) for i <= 6) / 2 ** 28, by the same fractions.
        assert!((test.mcnemar_exact_p - 0.003719165921211243).abs() < 1e-12, "{}", test.mcnemar_exact_p);
    }

    #[test]
    fn intervals_agree_with_an_image_level_bootstrap_in_numpy() {
        // Computed with NumPy 2.4 from the same cells: 100,000 resamples of 123 images with replacement
        // (`Generator.choice`, seed 20261125), F1 from the two confusion matrices, percentiles 2.5 and 97.5:
        // macro-F1 0.7781524 and 0.9067014, difference 0.1285490, interval 0.0473 to 0.2140.
        let (first, this) = outcomes();
        let Estimate { value, low, high } = PairedTest::new(&first, &this, 3).unwrap().macro_f1_difference;
        assert!((value - 0.12854899882866333).abs() < 1e-12, "{value}");
        assert!((low - 0.0473).abs() < 0.01 && (high - 0.2140).abs() < 0.01, "{low} to {high}");
    }

    #[test]
    fn images_of_one_patient_widen_the_intervals_and_decide_whether_a_model_is_worse() {
        let (first, this) = outcomes();
        let of_patients = |images: &[EvaluatedImage], per_patient: u32| -> Vec<EvaluatedImage> {
            let number = |(at, image): (usize, &EvaluatedImage)| EvaluatedImage {
                patient: Some(at as u32 / per_patient),
                ..image.clone()
            };
            images.iter().enumerate().map(number).collect()
        };
        let test = |per_patient| {
            PairedTest::new(&of_patients(&this, per_patient), &of_patients(&first, per_patient), 3).unwrap()
        };
        let width = |test: &PairedTest| test.accuracy_difference.high - test.accuracy_difference.low;
        let (images, patients) = (test(1), test(40));
        assert!(width(&patients) > 1.5 * width(&images), "{images:?} {patients:?}");
        for metric in [SelectionMetric::Accuracy, SelectionMetric::MacroF1, SelectionMetric::Loss] {
            assert!(
                images.is_worse(metric) && !PairedTest::new(&first, &this, 3).unwrap().is_worse(metric),
                "{metric:?}"
            );
        }
        // Each wrong image costs ln(0.8 / 0.1), and the first model makes 16 more errors among 123 images.
        let expected = 16.0 / 123.0 * 8.0_f64.ln();
        assert!((images.log_loss_difference.value - expected).abs() < 1e-6, "{images:?}");
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let (first, _) = outcomes();
        let test = PairedTest::new(&first, &first, 3).unwrap();
        let zero = Estimate { value: 0.0, low: 0.0, high: 0.0 };
        assert_eq!((test.mcnemar_exact_p, test.accuracy_difference, test.macro_f1_difference), (1.0, zero, zero));
    }

    #[test]
    fn swapping_the_models_swaps_the_signs() {
        let (first, this) = outcomes();
        let (forward, backward) =
            (PairedTest::new(&first, &this, 3).unwrap(), PairedTest::new(&this, &first, 3).unwrap());
        assert_eq!(forward.accuracy_difference.value, -backward.accuracy_difference.value);
        assert_eq!(forward.only_first_correct, backward.only_this_correct);
        assert_eq!(forward.mcnemar_exact_p, backward.mcnemar_exact_p);
    }

    #[test]
    fn only_shared_images_count_in_any_order() {
        let (mut first, this) = outcomes();
        first.reverse();
        first.extend((1000..1010).map(|image| outcome(image, 0, 1)));
        let test = PairedTest::new(&first, &this[..100], 3).unwrap();
        assert_eq!(test.n, 100);
        let (first, _) = outcomes();
        assert_eq!(PairedTest::new(&first[..100], &this, 3).unwrap(), test);
    }

    #[test]
    fn disjoint_images_and_changed_labels_are_refused_with_a_reason() {
        let (first, this) = outcomes();
        let others: Vec<_> = (1000..1010).map(|image| outcome(image, 0, 0)).collect();
        assert!(PairedTest::new(&first, &others, 3).unwrap_err().contains("different images"));
        let mut relabelled = this;
        (relabelled[0].truth, relabelled[1].truth) = (1, 1);
        assert!(PairedTest::new(&first, &relabelled, 3).unwrap_err().starts_with("2 of the images"));
    }
}
