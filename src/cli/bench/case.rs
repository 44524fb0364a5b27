//! What is measured: each kind of work at each size and batch.

use clap::ValueEnum;
use serde::Serialize;

/// What `--case` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CaseChoice {
    /// From grey squares to probabilities, as the server does it.
    Predict,
    /// A step on a batch: input, forward, loss, backward, Adam, the whole network.
    Train,
    /// Both.
    All,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Work {
    Predict,
    Train,
}

/// One measurement to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) work: Work,
    /// Side in pixels.
    pub(super) image_size: u32,
    /// Images at once.
    pub(super) batch: u32,
    /// How often it is measured.
    pub(super) runs: u32,
}

/// What the flags say; an empty list is the work's own default.
pub(super) struct Selection<'a> {
    pub(super) choice: CaseChoice,
    pub(super) image_sizes: &'a [u32],
    pub(super) batches: &'a [u32],
    pub(super) runs: Option<u32>,
}

impl Selection<'_> {
    /// At least one.
    pub(super) fn cases(&self) -> Vec<Case> {
        let works: &[Work] = match self.choice {
            CaseChoice::Predict => &[Work::Predict],
            CaseChoice::Train => &[Work::Train],
            CaseChoice::All => &[Work::Predict, Work::Train],
        };
        works.iter().flat_map(|&work| self.of(work)).collect()
    }

    fn of(&self, work: Work) -> Vec<Case> {
        let runs = self.runs.unwrap_or_else(|| work.runs());
        let sizes = if self.image_sizes.is_empty() { work.image_sizes() } else { self.image_sizes };
        let at = |&image_size: &u32| {
            let batches = if self.batches.is_empty() { work.batches(image_size) } else { self.batches };
            batches.iter().map(move |&batch| Case { work, image_size, batch, runs })
        };
        sizes.iter().flat_map(at).collect()
    }
}

impl Work {
    /// As it is written in flags and answers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Train => "train",
        }
    }

    /// Runs before the first that counts: caches and memory pools fill, a GPU tunes its kernels.
    pub(super) fn warm_up(self) -> u32 {
        match self {
            Self::Predict => 3,
            Self::Train => 2,
        }
    }

    /// A step of training takes seconds, hence fewer of them.
    fn runs(self) -> u32 {
        match self {
            Self::Predict => 30,
            Self::Train => 10,
        }
    }

    /// Training: the stages of the recipe `covid-resnet`.
    fn image_sizes(self) -> &'static [u32] {
        match self {
            Self::Predict => &[224],
            Self::Train => &[128, 224, 229],
        }
    }

    /// Training: what 8 GB of memory hold.
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

    fn cases(choice: CaseChoice, image_sizes: &[u32], batches: &[u32]) -> Vec<(Work, u32, u32)> {
        let selection = Selection { choice, image_sizes, batches, runs: None };
        selection.cases().iter().map(|case| (case.work, case.image_size, case.batch)).collect()
    }

    #[test]
    fn what_is_not_named_is_the_works_own_default() {
        use Work::{Predict, Train};
        let predict = [(Predict, 224, 1), (Predict, 224, 8), (Predict, 224, 32)];
        let train = [(Train, 128, 32), (Train, 224, 8), (Train, 229, 8)];
        assert_eq!(cases(CaseChoice::Predict, &[], &[]), predict);
        assert_eq!(cases(CaseChoice::All, &[], &[]), [predict, train].concat());
        assert_eq!(cases(CaseChoice::Train, &[64, 256], &[]), [(Train, 64, 32), (Train, 256, 8)]);
    }

    #[test]
    fn what_is_named_is_measured_in_every_combination() {
        let expected = [(32, 1), (32, 2), (64, 1), (64, 2)].map(|(side, batch)| (Work::Predict, side, batch));
        assert_eq!(cases(CaseChoice::Predict, &[32, 64], &[1, 2]), expected);
    }
}
