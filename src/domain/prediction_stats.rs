//! Statistics of predictions and of their input images, as histograms small enough to be stored for every hour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Number of bins of an image statistic over its range.
const BINS: u16 = 64;

/// Number of bins of the confidence, 0 to 1.
const CONFIDENCE_BINS: f64 = 50.0;

/// Logarithmic bins of the latency: all times up to `MIN_MS` share the first bin, and `BINS_PER_DOUBLING` bins double the time, so that
/// each bin is 9 % wider than the previous one.
const MIN_MS: f64 = 0.1;
const BINS_PER_DOUBLING: f64 = 8.0;
const MAX_TIME_BIN: f64 = 240.0;

/// Statistic of an input image: a property of exposure, sharpness or shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Mean grey level, 0 to 255.
    MeanGrey,
    /// Standard deviation of the grey levels, 0 to 128.
    Contrast,
    /// Fraction of pixels with a grey level below 16 of 255.
    DarkShare,
    /// Fraction of pixels with a grey level above 239 of 255.
    BrightShare,
    /// Mean absolute difference of horizontally neighbouring pixels, in grey levels.
    Detail,
    /// Width divided by height.
    AspectRatio,
}

impl Statistic {
    /// All statistics.
    pub const ALL: [Self; 6] =
        [Self::MeanGrey, Self::Contrast, Self::DarkShare, Self::BrightShare, Self::Detail, Self::AspectRatio];

    /// Lower and upper end of the histogram. Values outside fall into the first or last bin.
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
        let position = (f64::from(value) - low) / (high - low) * f64::from(BINS);
        position.clamp(0.0, f64::from(BINS - 1)) as u16
    }

    /// Lower edge of a bin.
    pub fn edge(self, bin: u16) -> f64 {
        let (low, high) = self.range();
        low + (high - low) * f64::from(bin) / f64::from(BINS)
    }
}

/// The statistics of one image, in the order of [`Statistic::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputStatistics(pub [f32; 6]);

/// Histogram: counts by bin. Empty bins are omitted.
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

    /// Sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The non-empty bins with their counts, in ascending order.
    pub fn bins(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.0.iter().map(|(bin, count)| (*bin, *count))
    }

    /// The bin that contains the `fraction` quantile, 0 to 1; none for an empty histogram.
    fn quantile(&self, fraction: f64) -> Option<u16> {
        let rank = (fraction * self.total() as f64).ceil().max(1.0) as u64;
        let mut cumulative = 0;
        self.bins()
            .find(|(_, count)| {
                cumulative += count;
                cumulative >= rank
            })
            .map(|(bin, _)| bin)
    }
}

/// Histograms of the statistics of many images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputHistograms(BTreeMap<Statistic, Histogram>);

impl InputHistograms {
    /// Adds an image.
    pub fn record(&mut self, image: &InputStatistics) {
        for (statistic, value) in Statistic::ALL.into_iter().zip(image.0) {
            self.0.entry(statistic).or_default().count(statistic.bin(value));
        }
    }

    /// The histogram of a statistic; empty if no image was recorded.
    pub fn histogram(&self, statistic: Statistic) -> Histogram {
        self.0.get(&statistic).cloned().unwrap_or_default()
    }

    /// The number of recorded images.
    pub fn images(&self) -> u64 {
        self.0.values().next().map_or(0, Histogram::total)
    }

    fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(statistic, counts)| self.0.entry(*statistic).or_default().merge(counts));
    }
}

/// Statistics of a model's predictions in a period.
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
    /// Adds a prediction: the predicted class, its probability, the milliseconds from the arrival of the image to the response, and the
    /// statistics of the image.
    pub fn record(&mut self, class: &str, confidence: f32, milliseconds: f64, image: &InputStatistics) {
        self.predictions += 1;
        *self.classes.entry(class.to_owned()).or_default() += 1;
        let confidence = f64::from(confidence);
        self.confidence_sum += confidence;
        self.confidence.count((confidence * CONFIDENCE_BINS).clamp(0.0, CONFIDENCE_BINS - 1.0) as u16);
        let doublings = (milliseconds / MIN_MS).max(1.0).log2();
        self.time.count((doublings * BINS_PER_DOUBLING).min(MAX_TIME_BIN) as u16);
        self.inputs.record(image);
    }

    /// Adds the statistics of another period.
    pub fn merge(&mut self, other: &Self) {
        self.predictions += other.predictions;
        other.classes.iter().for_each(|(class, count)| *self.classes.entry(class.clone()).or_default() += count);
        self.confidence_sum += other.confidence_sum;
        self.confidence.merge(&other.confidence);
        self.time.merge(&other.time);
        self.inputs.merge(&other.inputs);
    }

    /// The number of predictions.
    pub fn predictions(&self) -> u64 {
        self.predictions
    }

    /// The number of predictions of each class. Classes that were never predicted are omitted.
    pub fn classes(&self) -> &BTreeMap<String, u64> {
        &self.classes
    }

    /// The mean probability of the predicted class.
    pub fn mean_confidence(&self) -> Option<f64> {
        (self.predictions > 0).then(|| self.confidence_sum / self.predictions as f64)
    }

    /// The `fraction` quantile of the confidence, with a resolution of 0.02.
    pub fn confidence(&self, fraction: f64) -> Option<f64> {
        self.confidence.quantile(fraction).map(|bin| (f64::from(bin) + 0.5) / CONFIDENCE_BINS)
    }

    /// The `fraction` quantile of the latency in milliseconds, with a relative resolution of 9 %.
    pub fn milliseconds(&self, fraction: f64) -> Option<f64> {
        let middle = |bin: u16| MIN_MS * ((f64::from(bin) + 0.5) / BINS_PER_DOUBLING).exp2();
        self.time.quantile(fraction).map(middle)
    }

    /// Histograms of the input images.
    pub fn inputs(&self) -> &InputHistograms {
        &self.inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(predictions: &[(&str, f32, f64)]) -> PredictionStats {
        let mut counts = PredictionStats::default();
        let image = InputStatistics([100.0, 40.0, 0.1, 0.0, 5.0, 1.0]);
        predictions.iter().for_each(|(class, confidence, time)| counts.record(class, *confidence, *time, &image));
        counts
    }

    #[test]
    fn merged_stats_equal_those_recorded_together() {
        let all = [("normal", 0.9, 40.0), ("normal", 0.7, 41.0), ("COVID-19", 1.0, 400.0), ("pneumonia", 0.4, 0.0)];
        let mut merged = stats(&all[..1]);
        merged.merge(&stats(&all[1..]));
        let together = stats(&all);
        assert_eq!(merged, together);
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
    fn empty_stats_have_no_quantiles_and_outliers_fall_into_the_outer_bins() {
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
