//! What is said about a case.

use std::io::{self, Write, stdout};

use serde::Serialize;

use super::case::Work;
use crate::domain::Architecture;

/// One case, measured.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) case: Work,
    pub(super) architecture: Architecture,
    /// Side in pixels.
    pub(super) image_size: u32,
    /// Images at once.
    pub(super) batch: u32,
    pub(super) device: String,
    pub(super) precision: &'static str,
    /// That compute on the CPU; none on a GPU.
    pub(super) threads: Option<usize>,
    #[serde(flatten)]
    pub(super) times: Times,
    pub(super) peak_memory_bytes: Option<u64>,
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

/// How long it took.
#[derive(Debug, Serialize)]
pub(super) struct Times {
    median_ms: f64,
    /// The slowest run, where there are fewer than a hundred.
    p99_ms: f64,
    /// Images of all runs over the time of all runs.
    images_per_second: f64,
}

impl Times {
    /// Of at least one run on `batch` images.
    pub(super) fn of(samples_ms: &[f64], batch: u32) -> Self {
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

/// For scripts that compare.
#[derive(Debug, Serialize)]
pub(super) struct Details {
    pub(super) samples_ms: Vec<f64>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// What was computed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// Of each image, by class.
    Probabilities(Vec<Vec<f32>>),
    /// Mean cross-entropy of each step before its update, those of the warm-up first.
    Losses(Vec<f64>),
}

/// Writes the measurements as they come.
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
    fn the_median_lies_in_the_middle_and_the_slow_runs_count_in_the_throughput() {
        let times = Times::of(&[10.0, 30.0, 20.0, 40.0], 8);
        assert_eq!((times.median_ms, times.p99_ms, times.images_per_second), (25.0, 40.0, 320.0));
        assert_eq!(Times::of(&[7.0], 1).median_ms, 7.0);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Times::of(&many, 1).p99_ms, 198.0);
    }
}
