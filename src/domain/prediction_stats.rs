//! What is counted of predictions and of the images they are about, small enough to be kept for each hour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bins of a statistic over its range.
const BINS: u16 = 64;

/// Bins of a confidence, 0 to 1.
const CONFIDENCE_BINS: f64 = 50.0;

/// The shortest time that is told from another, in milliseconds, and the bins by which one doubles: each is 9 % wider than the one before.
const SHORTEST_MS: f64 = 0.1;
const BINS_A_DOUBLING: f64 = 8.0;
const MOST_TIME_BINS: f64 = 240.0;

/// A property of an image that does not depend on what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Mean grey level, 0 to 255.
    MeanGrey,
    /// Standard deviation of the grey levels.
    Contrast,
    /// Share of pixels below 16 of 255.
    DarkShare,
    /// Share of pixels above 239 of 255.
    BrightShare,
    /// Mean difference of neighbouring pixels, in grey levels.
    Detail,
    /// Columns over rows.
    AspectRatio,
}

impl Statistic {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::MeanGrey, Self::Contrast, Self::DarkShare, Self::BrightShare, Self::Detail, Self::AspectRatio];

    /// Lower and upper end of the range that is told apart; what lies outside counts with the end.
    fn range(self) -> (f64, f64) {
        match self {
            Self::MeanGrey => (0.0, 256.0),
            Self::Contrast => (0.0, 128.0),
            Self::DarkShare | Self::BrightShare => (0.0, 1.0),
            Self::Detail => (0.0, 32.0),
            Self::AspectRatio => (0.5, 2.0),
        }
    }

    fn bin(self, value: f32) -> u16 {
        let (low, high) = self.range();
        let place = (f64::from(value) - low) / (high - low) * f64::from(BINS);
        place.clamp(0.0, f64::from(BINS - 1)) as u16
    }

    /// Where a bin begins.
    pub fn edge(self, bin: u16) -> f64 {
        let (low, high) = self.range();
        low + (high - low) * f64::from(bin) / f64::from(BINS)
    }
}

/// The statistics of one image, in the order of [`Statistic::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputStatistics(pub [f32; 6]);

/// How often each bin was met; those that were not are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

impl Histogram {
    fn count(&mut self, bin: u16) {
        *self.0.entry(bin).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(bin, count)| *self.0.entry(*bin).or_default() += count);
    }

    /// Of all bins.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The bins that were met, rising.
    pub fn bins(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.0.iter().map(|(bin, count)| (*bin, *count))
    }

    /// The bin of the value below which `share` of all are, 0 to 1; none where there are none.
    fn quantile(&self, share: f64) -> Option<u16> {
        let wanted = (share * self.total() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.bins()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map(|(bin, _)| bin)
    }
}

/// The statistics of many images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputHistograms(BTreeMap<Statistic, Histogram>);

impl InputHistograms {
    /// One more image.
    pub fn record(&mut self, image: &InputStatistics) {
        for (statistic, value) in Statistic::ALL.into_iter().zip(image.0) {
            self.0.entry(statistic).or_default().count(statistic.bin(value));
        }
    }

    /// Of one statistic; empty where no image was counted.
    pub fn histogram(&self, statistic: Statistic) -> Histogram {
        self.0.get(&statistic).cloned().unwrap_or_default()
    }

    /// How many images were counted.
    pub fn images(&self) -> u64 {
        self.0.values().next().map_or(0, Histogram::total)
    }

    fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(statistic, counts)| self.0.entry(*statistic).or_default().merge(counts));
    }
}

/// What the predictions of a model in some time were like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictionStats {
    predictions: u64,
    classes: BTreeMap<String, u64>,
    confidence_sum: f64,
    confidence: Histogram,
    time: Histogram,
    inputs: InputHistograms,
}

impl PredictionStats {
    /// One more prediction: the class that was found, its probability, the milliseconds from the image's arrival to its answer, and what
    /// the image was like.
    pub fn record(&mut self, class: &str, confidence: f32, milliseconds: f64, image: &InputStatistics) {
        self.predictions += 1;
        *self.classes.entry(class.to_owned()).or_default() += 1;
        let confidence = f64::from(confidence);
        self.confidence_sum += confidence;
        self.confidence.count((confidence * CONFIDENCE_BINS).clamp(0.0, CONFIDENCE_BINS - 1.0) as u16);
        let doublings = (milliseconds / SHORTEST_MS).max(1.0).log2();
        self.time.count((doublings * BINS_A_DOUBLING).min(MOST_TIME_BINS) as u16);
        self.inputs.record(image);
    }

    /// Those of another time as well.
    pub fn merge(&mut self, other: &Self) {
        self.predictions += other.predictions;
        other.classes.iter().for_each(|(class, count)| *self.classes.entry(class.clone()).or_default() += count);
        self.confidence_sum += other.confidence_sum;
        self.confidence.merge(&other.confidence);
        self.time.merge(&other.time);
        self.inputs.merge(&other.inputs);
    }

    /// How many.
    pub fn predictions(&self) -> u64 {
        self.predictions
    }

    /// How many of each class; those that never were are left out.
    pub fn classes(&self) -> &BTreeMap<String, u64> {
        &self.classes
    }

    /// Mean probability of the class that was found.
    pub fn mean_confidence(&self) -> Option<f64> {
        (self.predictions > 0).then(|| self.confidence_sum / self.predictions as f64)
    }

    /// The confidence below which `share` of the predictions are, to 0.02.
    pub fn confidence(&self, share: f64) -> Option<f64> {
        self.confidence.quantile(share).map(|bin| (f64::from(bin) + 0.5) / CONFIDENCE_BINS)
    }

    /// The time below which `share` of the predictions are, in milliseconds, to 9 %.
    pub fn milliseconds(&self, share: f64) -> Option<f64> {
        let middle = |bin: u16| SHORTEST_MS * ((f64::from(bin) + 0.5) / BINS_A_DOUBLING).exp2();
        self.time.quantile(share).map(middle)
    }

    /// What the images were like.
    pub fn inputs(&self) -> &InputHistograms {
        &self.inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(predictions: &[(&str, f32, f64)]) -> PredictionStats {
        let mut counts = PredictionStats::default();
        let image = InputStatistics([100.0, 40.0, 0.1, 0.0, 5.0, 1.0]);
        predictions.iter().for_each(|(class, confidence, time)| counts.record(class, *confidence, *time, &image));
        counts
    }

    #[test]
    fn what_is_counted_apart_and_joined_is_what_is_counted_together() {
        let all = [("normal", 0.9, 40.0), ("normal", 0.7, 41.0), ("COVID-19", 1.0, 400.0), ("pneumonia", 0.4, 0.0)];
        let mut joined = counted(&all[..1]);
        joined.merge(&counted(&all[1..]));
        let together = counted(&all);
        assert_eq!(joined, together);
        assert_eq!((together.predictions(), together.classes()["normal"]), (4, 2));
        assert!((together.mean_confidence().unwrap() - 0.75).abs() < 1e-6);
        assert!((together.milliseconds(0.5).unwrap() / 40.0 - 1.0).abs() < 0.09);
        assert!((together.milliseconds(1.0).unwrap() / 400.0 - 1.0).abs() < 0.09);
        assert!((together.confidence(0.25).unwrap() - 0.4).abs() <= 0.02);
        assert_eq!(together.inputs().images(), 4);
        let text = serde_json::to_string(&together).unwrap();
        assert_eq!(serde_json::from_str::<PredictionStats>(&text).unwrap(), together);
    }

    #[test]
    fn nothing_has_no_quantile_and_what_is_out_of_range_counts_with_the_end() {
        let none = PredictionStats::default();
        assert_eq!((none.milliseconds(0.5), none.confidence(0.5), none.mean_confidence()), (None, None, None));
        let mut counts = InputHistograms::default();
        for value in [-1.0, 1e9, f32::NAN] {
            counts.record(&InputStatistics([value; 6]));
        }
        for statistic in Statistic::ALL {
            assert_eq!(
                counts.histogram(statistic).bins().collect::<Vec<_>>(),
                [(0, 2), (BINS - 1, 1)],
                "{statistic:?}"
            );
        }
        assert_eq!((Statistic::MeanGrey.edge(0), Statistic::MeanGrey.edge(32)), (0.0, 128.0));
    }
}
