//! What is known of a model while it serves: how much, how sure, how fast, how far its images are from those it was trained on, and who
//! disagrees with it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Interval, wilson};
use crate::domain::{Histogram, InputHistograms, PredictionStats, Statistic};

/// Share of the training images that each group of the population stability index has at least.
const GROUP: f64 = 0.1;

/// Below this many images an index says nothing.
const LEAST_IMAGES: u64 = 100;

/// The customary bounds of the index.
const MODERATE: f64 = 0.1;
const STRONG: f64 = 0.25;

/// Volume, classes, confidence and time of some predictions.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveTraffic {
    /// How many.
    pub predictions: u64,
    /// How many of each class.
    pub classes: BTreeMap<String, u64>,
    /// Probability of the class that was found.
    pub confidence: Option<LiveConfidence>,
    /// From an image's arrival to its answer.
    pub latency: Option<LiveLatency>,
}

/// How sure the model was. It is not how often it was right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveConfidence {
    /// Mean.
    pub mean: f64,
    /// A tenth of the predictions are below, to 0.02.
    pub p10: f64,
    /// Half of them are below, to 0.02.
    pub p50: f64,
}

/// How long it took, in milliseconds, to 9 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct LiveLatency {
    /// Median.
    pub p50_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
}

impl LiveTraffic {
    /// From what was counted.
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

/// How much a statistic of the images that came differs from that of the training images.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Drift {
    /// Of what.
    pub statistic: Statistic,
    /// Population stability index: 0 for the same distribution; below 0.1 counts as stable, above 0.25 as a strong change. Null for fewer
    /// than 100 images.
    pub psi: Option<f64>,
    /// What chance alone would give on average for so many images.
    pub by_chance: Option<f64>,
    /// The index in a word.
    pub verdict: Verdict,
    /// The groups that were compared.
    pub groups: Vec<DriftGroup>,
}

/// What an index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Too few images came to say.
    TooFew,
    /// No more than a little.
    Stable,
    /// To be looked at.
    Moderate,
    /// The images are others than the model was trained on.
    Strong,
}

/// Values from one edge up to the next.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DriftGroup {
    /// Where it begins; the first has all below as well.
    pub from: f64,
    /// Share of the training images.
    pub trained: f64,
    /// Share of the images that came.
    pub live: f64,
}

impl Drift {
    /// Of all statistics.
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
        let enough = trained.total().min(live.total()) >= LEAST_IMAGES;
        let psi = enough.then(|| stability(&trained_in, &live_in));
        // The index is about a chi-squared of so many degrees of freedom, over the harmonic mean of both numbers.
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

/// The bins at which groups begin that have [`GROUP`] of the counts each, or as much more as a single bin has.
fn group_starts(counts: &Histogram) -> Vec<u16> {
    let enough = GROUP * counts.total() as f64;
    let (mut starts, mut held, mut left) = (vec![0], 0.0, counts.total() as f64);
    for (bin, count) in counts.bins() {
        // What remains for the last group has to be enough, too.
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

/// With half an image in each group, so that an empty one is no infinity.
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

/// How often two agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Agreement {
    /// Images that both said something about.
    pub compared: u64,
    /// Of these, how many they call the same.
    pub agreed: u64,
    /// Share of those on which they differ; null where nothing was compared.
    pub disagreement: Option<f64>,
    /// Its 95 % interval (Wilson).
    pub interval: Option<Interval>,
}

impl Agreement {
    /// Of so many compared.
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
    fn the_index_is_the_sum_of_its_definition() {
        // Halves against a quarter and three quarters: 0.25 ln(1.5) + 0.25 ln(2), nearly, for so many that half an image is nothing.
        let found = stability(&[50_000, 50_000], &[25_000, 75_000]);
        let expected = -0.25 * (0.5f64).ln() + 0.25 * (1.5f64).ln();
        assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
    }

    #[test]
    fn few_images_say_nothing_and_none_are_no_error() {
        let trained = spread(1000, 60.0, 120.0);
        for live in [spread(99, 0.0, 10.0), InputHistograms::default()] {
            let drift = of_grey(&trained, &live);
            assert_eq!((drift.psi, drift.verdict), (None, Verdict::TooFew));
        }
        assert_eq!(of_grey(&InputHistograms::default(), &trained).psi, None);
    }

    #[test]
    fn chance_alone_gives_what_it_is_said_to_give() {
        // A fixed sequence that is spread as if drawn.
        let drawn = |seed: u32, images: u32| {
            counted((0..images).map(move |at| {
                let mixed = (at + seed * 7919).wrapping_mul(2_654_435_761);
                60.0 + 120.0 * ((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 24) as f32
            }))
        };
        let trained = drawn(1, 2000);
        let drifts: Vec<Drift> = (2..42).map(|seed| of_grey(&trained, &drawn(seed, 200))).collect();
        let mean = drifts.iter().map(|drift| drift.psi.unwrap()).sum::<f64>() / drifts.len() as f64;
        let said = drifts[0].by_chance.unwrap();
        assert!((0.5..2.0).contains(&(mean / said)), "{mean} and {said}");
    }

    #[test]
    fn agreement_names_its_interval_or_nothing() {
        let none = Agreement::of(0, 0);
        assert_eq!((none.disagreement, none.interval), (None, None));
        let some = Agreement::of(100, 90);
        let interval = some.interval.unwrap();
        assert_eq!(some.disagreement, Some(0.1));
        assert!(interval.low < 0.1 && 0.1 < interval.high);
    }
}
