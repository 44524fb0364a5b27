//! Scores of predictions, each with its number of images and patients and a 95 % confidence interval.
//!
//! Intervals come from a patient-clustered percentile bootstrap (Efron 1979; clusters: Field & Welsh 2007, Journal of the Royal
//! Statistical Society B 69:369): patients are drawn with replacement, each with all images, because images of one patient are alike and
//! count for less than as many patients. Where all resamples agree, such as for a class without an error, the bootstrap says nothing. The
//! interval is then the Wilson interval of that share of the patients.

mod ranking;
mod values;

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use self::values::Evaluated;
use super::{Interval, clusters::Clusters, interval::wilson_of_share};
use crate::domain::{AverageScores, ClassList, ClassScores, EvaluatedImage, Score, Scores};

/// Number of bootstrap resamples.
const RESAMPLES: u64 = 2000;

/// Seed of the bootstrap, fixed so that the same predictions always give the same intervals.
const SEED: u64 = 0;

/// Scores of `images`.
///
/// # Panics
/// If a class index or a number of probabilities does not agree with `classes`.
pub fn scores(images: &[EvaluatedImage], classes: &ClassList) -> Scores {
    let clusters = Clusters::new(images.iter().map(|image| image.patient));
    let evaluated = Evaluated::new(images, classes.len());
    let values = evaluated.values(&vec![1; images.len()]);
    let resamples = resamples(&evaluated, &clusters, values.len());
    let mut columns = values.into_iter().zip(resamples);
    let mut next = |metric: Metric| {
        let (value, resamples) = columns.next().expect("one column for each metric");
        metric.score(value, resamples, images, &clusters)
    };
    assemble(classes, &mut next)
}

/// Log loss of an image: negative logarithm of the true class's probability, which is limited to the distance of 1 to the next f64, as in
/// scikit-learn.
pub(super) fn log_loss(image: &EvaluatedImage) -> f64 {
    -f64::from(image.probabilities[image.truth]).clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
}

/// Puts scores in their fields, in the order of [`Evaluated::values`].
fn assemble(classes: &ClassList, next: &mut impl FnMut(Metric) -> Score) -> Scores {
    let mut of_all = |kind| next(Metric { kind, class: None });
    let [accuracy, balanced_accuracy, mcc, brier, log_loss] =
        [Kind::Accuracy, Kind::Average, Kind::Mcc, Kind::Brier, Kind::LogLoss].map(&mut of_all);
    let mut average = || {
        let [precision, recall, f1] = [Kind::Average; 3].map(&mut of_all);
        let [roc_auc, pr_auc] = [Kind::AverageArea; 2].map(&mut of_all);
        AverageScores { precision, recall, f1, roc_auc, pr_auc }
    };
    let [micro, macro_, weighted] = [average(), average(), average()];
    let mut of_class = |class| {
        let mut score = |kind| next(Metric { kind, class: Some(class) });
        ClassScores {
            precision: score(Kind::Precision),
            recall: score(Kind::Recall),
            specificity: score(Kind::Specificity),
            npv: score(Kind::Npv),
            f1: score(Kind::Recall),
            mcc: score(Kind::Mcc),
            roc_auc: score(Kind::Area),
            pr_auc: score(Kind::Area),
            brier: score(Kind::ClassBrier),
        }
    };
    let per_class = classes.names().iter().enumerate().map(|(class, name)| (name.clone(), of_class(class))).collect();
    Scores { accuracy, balanced_accuracy, mcc, brier, log_loss, micro, macro_, weighted, per_class }
}

/// A score that is to be assembled.
#[derive(Clone, Copy)]
struct Metric {
    kind: Kind,
    class: Option<usize>,
}

/// Kind of a metric: the images that it is about, its range, and why it can be undefined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accuracy,
    Average,
    AverageArea,
    Precision,
    Recall,
    Specificity,
    Npv,
    Mcc,
    Area,
    Brier,
    ClassBrier,
    LogLoss,
}

impl Metric {
    fn score(self, value: Option<f64>, resamples: Vec<f64>, images: &[EvaluatedImage], clusters: &Clusters) -> Score {
        let counted = || images.iter().zip(clusters.of_image()).filter(|(image, _)| self.is_about(image));
        let patients = counted().map(|(_, cluster)| cluster).collect::<HashSet<_>>().len() as u64;
        let interval = value.and_then(|value| self.interval(value, resamples, patients));
        Score {
            value,
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
            n: counted().count() as u64,
            patients,
            undefined: value.is_none().then(|| self.reason().to_owned()),
        }
    }

    fn is_about(self, image: &EvaluatedImage) -> bool {
        let Some(class) = self.class else { return true };
        match self.kind {
            Kind::Precision => image.predicted == class,
            Kind::Recall => image.truth == class,
            Kind::Specificity => image.truth != class,
            Kind::Npv => image.predicted != class,
            _ => true,
        }
    }

    /// Smallest and largest possible value; `None` if there is no largest one.
    fn range(self) -> Option<(f64, f64)> {
        match self.kind {
            Kind::LogLoss => None,
            Kind::Mcc => Some((-1.0, 1.0)),
            Kind::Brier => Some((0.0, 2.0)),
            _ => Some((0.0, 1.0)),
        }
    }

    /// The 2.5 % and 97.5 % percentiles of the resamples, or the Wilson interval where they do not differ.
    fn interval(self, value: f64, resamples: Vec<f64>, patients: u64) -> Option<Interval> {
        let percentiles = (!resamples.is_empty()).then(|| Interval::of(resamples));
        if let Some(interval) = percentiles.filter(|interval| interval.low < interval.high) {
            return Some(interval);
        }
        let (low, high) = self.range()?;
        let (share_low, share_high) = wilson_of_share((value - low) / (high - low), patients);
        Some(Interval { low: low + share_low * (high - low), high: low + share_high * (high - low) })
    }

    fn reason(self) -> &'static str {
        match (self.kind, self.class) {
            (Kind::Precision, _) => "no image was predicted as this class",
            (Kind::Recall, Some(_)) => "the class has no images",
            (Kind::Specificity, _) => "no image belongs to another class",
            (Kind::Npv, _) => "every image was predicted as this class",
            (Kind::Mcc, _) => "all images belong to one class, or all were predicted as one class",
            (Kind::Area | Kind::AverageArea, _) => "a ranking needs images of the class and of another class",
            _ => "there are no images",
        }
    }
}

/// The defined values of each metric over all resamples.
fn resamples(evaluated: &Evaluated<'_>, clusters: &Clusters, metrics: usize) -> Vec<Vec<f64>> {
    let rows = resampled(clusters, |weights| evaluated.values(weights));
    (0..metrics).map(|metric| rows.iter().filter_map(|row| row[metric]).collect()).collect()
}

/// `statistic` of the weights of the images in each resample. The generator of each resample has a stream of its own, so that the result
/// does not depend on the number of threads.
pub(super) fn resampled<T: Send>(clusters: &Clusters, statistic: impl Fn(&[u32]) -> T + Sync) -> Vec<T> {
    let resample = |stream: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(stream);
        statistic(&clusters.draw(&mut rng))
    };
    (0..RESAMPLES).into_par_iter().map(resample).collect()
}

#[cfg(test)]
mod tests;
