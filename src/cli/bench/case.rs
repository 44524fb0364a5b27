//! Benchmark cases: every workload with every image size and batch size.

use clap::ValueEnum;
use serde::Serialize;

/// Values of `--case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CaseChoice {
    /// Inference, from decoded grey images to probabilities.
    Predict,
    /// A training step of all layers: input, forward, loss, backward and optimiser.
    Train,
    /// Both.
    All,
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Workload {
    Predict,
    Train,
}

/// A benchmark case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) workload: Workload,
    /// Width and height in pixels.
    pub(super) image_size: u32,
    /// Batch size.
    pub(super) batch: u32,
    /// Number of measured repetitions.
    pub(super) runs: u32,
}

/// Cases selected by the flags. An empty list means the default of the workload.
pub(super) struct Selection<'a> {
    pub(super) choice: CaseChoice,
    pub(super) image_sizes: &'a [u32],
    pub(super) batches: &'a [u32],
    pub(super) runs: Option<u32>,
}

impl Selection<'_> {
    /// The selected cases, at least one.
    pub(super) fn cases(&self) -> Vec<Case> {
        let workloads: &[Workload] = match self.choice {
            CaseChoice::Predict => &[Workload::Predict],
            CaseChoice::Train => &[Workload::Train],
            CaseChoice::All => &[Workload::Predict, Workload::Train],
        };
        workloads.iter().flat_map(|&workload| self.cases_of(workload)).collect()
    }

    fn cases_of(&self, workload: Workload) -> Vec<Case> {
        let runs = self.runs.unwrap_or_else(|| workload.runs());
        let sizes = if self.image_sizes.is_empty() { workload.image_sizes() } else { self.image_sizes };
        let cases_of_size = |&image_size: &u32| {
            let batches = if self.batches.is_empty() { workload.batches(image_size) } else { self.batches };
            batches.iter().map(move |&batch| Case { workload, image_size, batch, runs })
        };
        sizes.iter().flat_map(cases_of_size).collect()
    }
}

impl Workload {
    /// Name in flags and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Train => "train",
        }
    }

    /// Number of warm-up repetitions, which fill caches and memory pools and let a GPU tune its kernels.
    pub(super) fn warm_up(self) -> u32 {
        match self {
            Self::Predict => 3,
            Self::Train => 2,
        }
    }

    /// Default number of repetitions. A training step takes seconds, hence fewer.
    fn runs(self) -> u32 {
        match self {
            Self::Predict => 30,
            Self::Train => 10,
        }
    }

    /// Default image sizes; for training those of the stages of the recipe `covid-resnet`.
    fn image_sizes(self) -> &'static [u32] {
        match self {
            Self::Predict => &[224],
            Self::Train => &[128, 224, 229],
        }
    }

    /// Default batch sizes; for training those that fit into 8 GB of memory.
    fn batches(self, image_size: u32) -> &'static [u32] {
        match self {
            Self::Predict => &[1, 8, 32],
            Self::Train if image_size <= 128 => &[32],
            Self::Train => &[8],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(choice: CaseChoice, image_sizes: &[u32], batches: &[u32]) -> Vec<(Workload, u32, u32)> {
        let selection = Selection { choice, image_sizes, batches, runs: None };
        selection.cases().iter().map(|case| (case.workload, case.image_size, case.batch)).collect()
    }

    #[test]
    fn uses_the_defaults_of_the_workload_for_missing_flags() {
        use Workload::{Predict, Train};
        let predict = [(Predict, 224, 1), (Predict, 224, 8), (Predict, 224, 32)];
        let train = [(Train, 128, 32), (Train, 224, 8), (Train, 229, 8)];
        assert_eq!(cases(CaseChoice::Predict, &[], &[]), predict);
        assert_eq!(cases(CaseChoice::All, &[], &[]), [predict, train].concat());
        assert_eq!(cases(CaseChoice::Train, &[64, 256], &[]), [(Train, 64, 32), (Train, 256, 8)]);
    }

    #[test]
    fn measures_every_combination_of_the_flags() {
        let expected = [(32, 1), (32, 2), (64, 1), (64, 2)].map(|(side, batch)| (Workload::Predict, side, batch));
        assert_eq!(cases(CaseChoice::Predict, &[32, 64], &[1, 2]), expected);
    }
}
