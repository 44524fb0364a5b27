//! An observer that remembers.

use super::*;

/// What the observer was told.
pub(super) struct Told {
    pub(super) progress: Vec<RunProgress>,
    pub(super) batches: Vec<TrainedBatch>,
    pub(super) epochs: Vec<EpochRecord>,
    pub(super) stages: Vec<StageModel>,
    pub(super) body_passes: Vec<usize>,
    pub(super) caches: Vec<ImageCache>,
    pub(super) rate_choices: Vec<RangeTestResult>,
    pub(super) asked: usize,
    /// How often it may be asked before it says stop.
    pub(super) patience: Option<usize>,
    /// In which way.
    pub(super) how: Stop,
    /// Calls that came after it said stop.
    pub(super) after_stop: usize,
    /// The last one, as it was written.
    pub(super) checkpoint: Option<Vec<u8>>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            progress: Vec::new(),
            batches: Vec::new(),
            epochs: Vec::new(),
            stages: Vec::new(),
            body_passes: Vec::new(),
            caches: Vec::new(),
            asked: 0,
            patience: None,
            how: Stop::ForGood,
            after_stop: 0,
            checkpoint: None,
            rate_choices: Vec::new(),
        }
    }
}

impl Told {
    fn keep(&mut self, checkpoint: &Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        checkpoint.write(&path).unwrap();
        self.checkpoint = Some(std::fs::read(path).unwrap());
    }

    fn note(&mut self) {
        self.after_stop += usize::from(self.patience.is_some_and(|patience| self.asked > patience));
    }
}

impl Observer for Told {
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError> {
        self.note();
        self.progress.push(progress.clone());
        Ok(())
    }

    fn batch(&mut self, batch: &TrainedBatch) -> Result<(), ObserverError> {
        self.note();
        self.batches.push(*batch);
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.note();
        self.epochs.push(epoch.clone());
        self.keep(&checkpoint);
        Ok(())
    }

    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.note();
        self.stages.push(model);
        self.keep(&checkpoint);
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.keep(&checkpoint);
        Ok(())
    }

    fn image_cache(&mut self, cache: &ImageCache) {
        self.caches.push(cache.clone());
    }

    fn body_pass(&mut self, images: usize, _time: Duration) {
        self.body_passes.push(images);
    }

    fn rate_choice(&mut self, choice: &RangeTestResult) {
        self.rate_choices.push(choice.clone());
    }

    fn should_stop(&mut self) -> Option<Stop> {
        self.asked += 1;
        self.patience.is_some_and(|patience| self.asked > patience).then_some(self.how)
    }
}
