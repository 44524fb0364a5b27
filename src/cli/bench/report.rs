//! Report of a benchmark: a table, or JSON lines.

use std::io::{self, Write, stdout};

use serde::Serialize;

use super::case::Workload;
use crate::domain::Architecture;

/// Measurement of a case.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) case: Workload,
    pub(super) architecture: Architecture,
    /// Width and height in pixels.
    pub(super) image_size: u32,
    /// Batch size.
    pub(super) batch: u32,
    pub(super) device: String,
    pub(super) precision: &'static str,
    /// Number of CPU threads; `None` on a GPU.
    pub(super) threads: Option<usize>,
    #[serde(flatten)]
    pub(super) times: Times,
    /// Time before the first repetition: loading, tuning of GPU kernels and warm-up runs.
    pub(super) warm_up_ms: f64,
    pub(super) peak_memory_bytes: Option<u64>,
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

/// Duration statistics over the repetitions.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    median_ms: f64,
    /// 99th percentile; the slowest repetition if there are fewer than a hundred.
    p99_ms: f64,
    /// Throughput over all repetitions.
    images_per_second: f64,
}

impl Times {
    /// Statistics of at least one repetition on `batch` images.
    pub(super) fn new(samples_ms: &[f64], batch: u32) -> Self {
        let mut sorted = samples_ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let seconds = sorted.iter().sum::<f64>() / 1e3;
        Self {
            median_ms: f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]),
            p99_ms: sorted[(count * 99).div_ceil(100) - 1],
            images_per_second: count as f64 * f64::from(batch) / seconds,
        }
    }
}

/// Output of `--details`, for scripts that compare implementations.
#[derive(Debug, Serialize)]
pub(super) struct Details {
    pub(super) samples_ms: Vec<f64>,
    #[serde(flatten)]
    pub(super) results: Results,
}

/// Computed values.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Results {
    /// Probabilities of each image, by class.
    Probabilities(Vec<Vec<f32>>),
    /// Mean cross-entropy of each step before its update, starting with the warm-up.
    Losses(Vec<f64>),
}

/// Prints measurements one by one.
pub(super) struct Report {
    json: bool,
}

impl Report {
    pub(super) fn begin(json: bool) -> io::Result<Self> {
        if !json {
            writeln!(stdout(), "{}", row(HEADINGS.map(String::from)))?;
        }
        Ok(Self { json })
    }

    pub(super) fn add(&mut self, measurement: &Measurement) -> io::Result<()> {
        let line = if self.json { serde_json::to_string(measurement)? } else { row(measurement.cells()) };
        writeln!(stdout(), "{line}")
    }
}

const HEADINGS: [&str; 11] = [
    "case",
    "network",
    "pixels",
    "batch",
    "device",
    "precision",
    "threads",
    "median ms",
    "p99 ms",
    "images/s",
    "peak MiB",
];

fn row(cells: [String; 11]) -> String {
    let widths = [7, 10, 6, 5, 9, 9, 7, 10, 10, 8, 8];
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
    padded.collect::<Vec<_>>().join("  ")
}

impl Measurement {
    fn cells(&self) -> [String; 11] {
        let Times { median_ms, p99_ms, images_per_second } = self.times;
        let or_none = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
        [
            self.case.name().into(),
            self.architecture.to_string(),
            self.image_size.to_string(),
            self.batch.to_string(),
            self.device.clone(),
            self.precision.into(),
            or_none(self.threads.map(|threads| threads as u64)),
            format!("{median_ms:.1}"),
            format!("{p99_ms:.1}"),
            format!("{images_per_second:.1}"),
            or_none(self.peak_memory_bytes.map(|bytes| bytes >> 20)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_median_99th_percentile_and_throughput() {
        let times = Times::new(&[10.0, 30.0, 20.0, 40.0], 8);
        assert_eq!((times.median_ms, times.p99_ms, times.images_per_second), (25.0, 40.0, 320.0));
        assert_eq!(Times::new(&[7.0], 1).median_ms, 7.0);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Times::new(&many, 1).p99_ms, 198.0);
    }
}
