//! Live statistics of a served model: traffic, confidence, latency, input drift (population stability index) and agreement with
//! feedback or another model.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Interval, wilson};
use crate::domain::{Histogram, InputHistograms, PredictionStats, Statistic};

/// Minimum share of the training images in each bin of the population stability index.
const BIN_SHARE: f64 = 0.1;

/// Minimum number of images for an index.
const MIN_IMAGES: u64 = 100;

/// Conventional thresholds of the index.
const MODERATE: f64 = 0.1;
const STRONG: f64 = 0.25;

/// Volume, classes, confidence and latency of predictions.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveTraffic {
    /// Number of predictions.
    pub predictions: u64,
    /// Predictions by class.
    pub classes: BTreeMap<String, u64>,
    /// Confidence: probability of the predicted class.
    pub confidence: Option<LiveConfidence>,
    /// Latency from arrival of the image to its response.
    pub latency: Option<LiveLatency>,
}

/// Confidence of predictions: probability of the predicted class. Not a measure of accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveConfidence {
    /// Mean.
    pub mean: f64,
    /// 10th percentile, to within 0.02.
    pub p10: f64,
    /// Median, to within 0.02.
    pub p50: f64,
}

/// Latency in milliseconds, to within 9 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveLatency {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

impl LiveTraffic {
    /// Computes the statistics from stored counts.
    pub fn of(counts: &PredictionStats) -> Self {
        let confidence = || {
            let (mean, p10, p50) = (counts.mean_confidence()?, counts.confidence(0.1)?, counts.confidence(0.5)?);
            Some(LiveConfidence { mean, p10, p50 })
        };
        let latency = || Some(LiveLatency { p50_ms: counts.milliseconds(0.5)?, p99_ms: counts.milliseconds(0.99)? });
        let (predictions, classes) = (counts.predictions(), counts.classes().clone());
        Self { predictions, classes, confidence: confidence(), latency: latency() }
    }
}

/// Drift of an image statistic between served and training images.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Drift {
    /// Statistic.
    pub statistic: Statistic,
    /// Population stability index: 0 for identical distributions, below 0.1 stable, above 0.25 strong change. Null for fewer than
    /// 100 images.
    pub psi: Option<f64>,
    /// Expected index by chance for this number of images.
    pub by_chance: Option<f64>,
    /// Verdict on the index.
    pub verdict: Verdict,
    /// Compared bins.
    pub groups: Vec<DriftGroup>,
}

/// Verdict on a population stability index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Too few images.
    TooFew,
    /// Index below 0.1.
    Stable,
    /// Index from 0.1 to 0.25: worth a look.
    Moderate,
    /// Index above 0.25: the images differ from the training images.
    Strong,
}

/// Bin of values, from its lower edge to the next bin.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DriftGroup {
    /// Lower edge; the first bin includes all smaller values.
    pub from: f64,
    /// Share of the training images.
    pub trained: f64,
    /// Share of the served images.
    pub live: f64,
}

impl Drift {
    /// Computes the drift of all statistics.
    pub fn of_all(trained: &InputHistograms, live: &InputHistograms) -> Vec<Self> {
        Statistic::ALL.into_iter().map(|statistic| Self::of(statistic, trained, live)).collect()
    }

    fn of(statistic: Statistic, trained: &InputHistograms, live: &InputHistograms) -> Self {
        let (trained, live) = (trained.histogram(statistic), live.histogram(statistic));
        let starts = group_starts(&trained);
        let (trained_in, live_in) = (grouped(&trained, &starts), grouped(&live, &starts));
        let (n, m) = (trained.total() as f64, live.total() as f64);
        let group = |(at, start): (usize, &u16)| DriftGroup {
            from: statistic.edge(*start),
            trained: share(trained_in[at], n),
            live: share(live_in[at], m),
        };
        let groups: Vec<DriftGroup> = starts.iter().enumerate().map(group).collect();
        let enough = trained.total().min(live.total()) >= MIN_IMAGES;
        let psi = enough.then(|| stability(&trained_in, &live_in));
        // Under no drift the index is approximately chi-squared with bins - 1 degrees of freedom, scaled by 1/n + 1/m.
        let by_chance = enough.then(|| (starts.len() as f64 - 1.0) * (1.0 / n + 1.0 / m));
        Self { statistic, psi, by_chance, verdict: Verdict::of(psi), groups }
    }
}

impl Verdict {
    fn of(psi: Option<f64>) -> Self {
        match psi {
            None => Self::TooFew,
            Some(psi) if psi < MODERATE => Self::Stable,
            Some(psi) if psi < STRONG => Self::Moderate,
            Some(_) => Self::Strong,
        }
    }
}

fn share(count: u64, of: f64) -> f64 {
    if of > 0.0 { count as f64 / of } else { 0.0 }
}

/// First histogram bins of the groups: each group has at least [`BIN_SHARE`] of the counts.
fn group_starts(counts: &Histogram) -> Vec<u16> {
    let enough = BIN_SHARE * counts.total() as f64;
    let (mut starts, mut held, mut left) = (vec![0], 0.0, counts.total() as f64);
    for (bin, count) in counts.bins() {
        // The remainder must be enough for the last group, too.
        if held >= enough && left >= enough {
            starts.push(bin);
            held = 0.0;
        }
        held += count as f64;
        left -= count as f64;
    }
    starts
}

fn grouped(counts: &Histogram, starts: &[u16]) -> Vec<u64> {
    let mut groups = vec![0; starts.len()];
    for (bin, count) in counts.bins() {
        let group = starts.iter().rposition(|start| *start <= bin).unwrap_or(0);
        groups[group] += count;
    }
    groups
}

/// Population stability index, with half an image added to each group so that empty groups stay finite.
fn stability(expected: &[u64], found: &[u64]) -> f64 {
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as f64 + 0.5 * counts.len() as f64;
    let (all_expected, all_found) = (total(expected), total(found));
    let pairs = expected.iter().zip(found);
    pairs
        .map(|(expected, found)| {
            let (expected, found) = ((*expected as f64 + 0.5) / all_expected, (*found as f64 + 0.5) / all_found);
            (found - expected) * (found / expected).ln()
        })
        .sum()
}

/// Agreement of a model with feedback or another model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Agreement {
    /// Number of compared images.
    pub compared: u64,
    /// Number of images on which both agree.
    pub agreed: u64,
    /// Share of images on which they disagree; null if nothing was compared.
    pub disagreement: Option<f64>,
    /// 95 % Wilson interval of the disagreement.
    pub interval: Option<Interval>,
}

impl Agreement {
    /// Agreement on `agreed` of `compared` images.
    pub fn of(compared: u64, agreed: u64) -> Self {
        let some = compared > 0;
        let differ = compared.saturating_sub(agreed);
        let (low, high) = wilson(differ, compared);
        Self {
            compared,
            agreed,
            disagreement: some.then(|| differ as f64 / compared as f64),
            interval: some.then_some(Interval { low, high }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::InputStatistics;

    fn counted(greys: impl Iterator<Item = f32>) -> InputHistograms {
        let mut counts = InputHistograms::default();
        greys.for_each(|grey| counts.record(&InputStatistics([grey, 40.0, 0.1, 0.0, 5.0, 1.0])));
        counts
    }

    fn spread(images: u32, from: f32, width: f32) -> InputHistograms {
        counted((0..images).map(|at| from + width * at as f32 / images as f32))
    }

    fn of_grey(trained: &InputHistograms, live: &InputHistograms) -> Drift {
        Drift::of_all(trained, live).remove(0)
    }

    #[test]
    fn the_same_images_do_not_drift_and_darker_ones_do() {
        let trained = spread(1000, 60.0, 120.0);
        let same = of_grey(&trained, &spread(500, 60.0, 120.0));
        assert!(same.psi.unwrap() < 0.02 && same.verdict == Verdict::Stable, "{same:?}");
        assert!((8..=10).contains(&same.groups.len()), "{same:?}");
        assert!(same.groups.iter().all(|group| group.trained >= 0.1 - 1e-9));
        let sum = |share: fn(&DriftGroup) -> f64| same.groups.iter().map(share).sum::<f64>();
        assert!((sum(|group| group.trained) - 1.0).abs() < 1e-9 && (sum(|group| group.live) - 1.0).abs() < 1e-9);
        let darker = of_grey(&trained, &spread(500, 20.0, 120.0));
        assert!(darker.psi.unwrap() > 0.25 && darker.verdict == Verdict::Strong, "{darker:?}");
        let shifted = of_grey(&trained, &spread(500, 70.0, 120.0));
        assert!(same.psi < shifted.psi && shifted.psi < darker.psi);
    }

    #[test]
    fn the_index_matches_its_definition() {
        // (1/2, 1/2) against (1/4, 3/4), with enough images that the added half image is negligible.
        let found = stability(&[50_000, 50_000], &[25_000, 75_000]);
        let expected = -0.25 * (0.5f64).ln() + 0.25 * (1.5f64).ln();
        assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
    }

    #[test]
    fn too_few_images_give_no_index_and_none_are_no_error() {
        let trained = spread(1000, 60.0, 120.0);
        for live in [spread(99, 0.0, 10.0), InputHistograms::default()] {
            let drift = of_grey(&trained, &live);
            assert_eq!((drift.psi, drift.verdict), (None, Verdict::TooFew));
        }
        assert_eq!(of_grey(&InputHistograms::default(), &trained).psi, None);
    }

    #[test]
    fn the_index_by_chance_matches_simulation() {
        // A fixed pseudo-random sequence.
        let drawn = |seed: u32, images: u32| {
            counted((0..images).map(move |at| {
                let mixed = (at + seed * 7919).wrapping_mul(2_654_435_761);
                60.0 + 120.0 * ((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 24) as f32
            }))
        };
        let trained = drawn(1, 2000);
        let drifts: Vec<Drift> = (2..42).map(|seed| of_grey(&trained, &drawn(seed, 200))).collect();
        let mean = drifts.iter().map(|drift| drift.psi.unwrap()).sum::<f64>() / drifts.len() as f64;
        let expected = drifts[0].by_chance.unwrap();
        assert!((0.5..2.0).contains(&(mean / expected)), "{mean} and {expected}");
    }

    #[test]
    fn agreement_has_an_interval_unless_nothing_was_compared() {
        let none = Agreement::of(0, 0);
        assert_eq!((none.disagreement, none.interval), (None, None));
        let some = Agreement::of(100, 90);
        let interval = some.interval.unwrap();
        assert_eq!(some.disagreement, Some(0.1));
        assert!(interval.low < 0.1 && 0.1 < interval.high);
    }
}
