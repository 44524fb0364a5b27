//! 95 % confidence intervals: Wilson score interval for proportions, percentile bootstrap for other scores.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Averages, ClassMetrics, ConfusionMatrix};

/// The 0.975 quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Number of bootstrap resamples; the ends of the interval then vary by about a twentieth of its width.
const RESAMPLES: usize = 1000;

/// 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// 95 % Wilson score interval for a proportion of `correct` out of `n` (Wilson 1927): `(low, high)`. Unlike the normal
/// approximation it stays within 0 and 1 and does not collapse at 0 or `n`. Returns `(0, 1)` for `n` = 0.
pub fn wilson(correct: u64, n: u64) -> (f64, f64) {
    wilson_of_share(if n == 0 { 0.0 } else { correct as f64 / n as f64 }, n)
}

/// The same for a share, which need not be a whole number of `n`.
pub(super) fn wilson_of_share(share: f64, n: u64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let n = n as f64;
    let scale = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Percentile bootstrap (Efron 1979) of the scores of a confusion matrix. Resampling images with replacement is a multinomial draw
/// over the cells of the matrix. Deterministic for a matrix and seed.
pub(super) struct Bootstrap(Vec<(Averages, Vec<ClassMetrics>)>);

impl Bootstrap {
    pub(super) fn of(confusion: &ConfusionMatrix, seed: u64) -> Self {
        let scores = |sample: ConfusionMatrix| (sample.averages(), sample.per_class());
        Self(bootstrap(seed, |rng| scores(resample(confusion, rng))))
    }

    /// Interval of an average.
    pub(super) fn interval(&self, score: impl Fn(&Averages) -> f64) -> Interval {
        Interval::of(self.0.iter().map(|(averages, _)| score(averages)).collect())
    }

    /// Interval of the F1 of a class, over the resamples in which it is defined; none if there are none.
    pub(super) fn f1(&self, class: usize) -> Option<Interval> {
        let defined: Vec<f64> = self.0.iter().filter_map(|(_, classes)| classes[class].f1).collect();
        (!defined.is_empty()).then(|| Interval::of(defined))
    }
}

impl Interval {
    /// The 2.5 % and 97.5 % percentiles of bootstrap scores.
    pub(super) fn of(scores: Vec<f64>) -> Self {
        Self::between_tails(scores, 0.025)
    }

    /// The percentiles of bootstrap scores that leave out a share of `tail` on each side.
    pub(super) fn between_tails(mut scores: Vec<f64>, tail: f64) -> Self {
        scores.sort_by(f64::total_cmp);
        let at = |share: f64| scores[(share * (scores.len() - 1) as f64).round() as usize];
        Self { low: at(tail), high: at(1.0 - tail) }
    }
}

/// Statistic of each bootstrap resample: calls `sample` [`RESAMPLES`] times with a seeded generator.
pub(super) fn bootstrap<T>(seed: u64, mut sample: impl FnMut(&mut ChaCha8Rng) -> T) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..RESAMPLES).map(|_| sample(&mut rng)).collect()
}

/// Resamples the images of a confusion matrix with replacement.
fn resample(confusion: &ConfusionMatrix, rng: &mut ChaCha8Rng) -> ConfusionMatrix {
    let size = confusion.rows().len();
    let sample = multinomial(&confusion.rows().concat(), rng);
    ConfusionMatrix::from_rows(sample.chunks(size).map(<[u64]>::to_vec).collect())
}

/// Multinomial draw over `cells` with as many trials as they count in total. Uses a chain of binomial draws, so the cost does not
/// depend on the number of images.
fn multinomial(cells: &[u64], rng: &mut ChaCha8Rng) -> Vec<u64> {
    let mut left_to_draw: u64 = cells.iter().sum();
    let mut left_in_cells = left_to_draw;
    let mut draw = |&cell: &u64| {
        let drawn = if cell == left_in_cells { left_to_draw } else { binomial(left_to_draw, cell, left_in_cells, rng) };
        left_in_cells -= cell;
        left_to_draw -= drawn;
        drawn
    };
    cells.iter().map(&mut draw).collect()
}

fn binomial(n: u64, part: u64, whole: u64, rng: &mut ChaCha8Rng) -> u64 {
    let share = part as f64 / whole as f64;
    Binomial::new(n, share).expect("a part of a whole is a probability").sample(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: (f64, f64), low: f64, high: f64) {
        assert!((actual.0 - low).abs() < 5e-5 && (actual.1 - high).abs() < 5e-5, "{actual:?}, not {low} to {high}");
    }

    #[test]
    fn wilson_agrees_with_the_textbook() {
        // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (score without continuity correction).
        near(wilson(81, 263), 0.2553, 0.3662);
        near(wilson(15, 148), 0.0624, 0.1605);
        near(wilson(0, 20), 0.0, 0.1611);
        near(wilson(1, 29), 0.0061, 0.1718);
    }

    #[test]
    fn wilson_is_symmetric_and_covers_everything_without_data() {
        let ((low, high), (mirrored_low, mirrored_high)) = (wilson(3, 40), wilson(37, 40));
        assert!((low - (1.0 - mirrored_high)).abs() < 1e-12 && (high - (1.0 - mirrored_low)).abs() < 1e-12);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(20, 20).1, 1.0);
    }

    #[test]
    fn a_resample_preserves_the_total_and_empty_cells() {
        let confusion = ConfusionMatrix::from_rows(vec![vec![50, 3], vec![0, 40]]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100 {
            let drawn = resample(&confusion, &mut rng);
            assert_eq!((drawn.total(), drawn.rows()[1][0]), (93, 0));
        }
    }

    #[test]
    fn the_bootstrap_of_an_accuracy_is_close_to_wilson() {
        let confusion = ConfusionMatrix::from_rows(vec![vec![420, 80], vec![120, 380]]);
        let bootstrap = Bootstrap::of(&confusion, 7).interval(|averages| averages.accuracy);
        let (low, high) = wilson(800, 1000);
        assert!((bootstrap.low - low).abs() < 0.005 && (bootstrap.high - high).abs() < 0.005, "{bootstrap:?}");
    }

    #[test]
    fn the_interval_depends_on_the_seed_alone() {
        let confusion = ConfusionMatrix::from_rows(vec![vec![42, 8, 3], vec![12, 38, 1], vec![2, 2, 9]]);
        let interval = |seed| Bootstrap::of(&confusion, seed).interval(|averages| averages.macro_f1);
        assert_eq!(interval(1), interval(1));
        assert_ne!(interval(1), interval(2));
    }
}
