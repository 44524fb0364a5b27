//! An observer that records all events.

use super::*;

/// Records the events of a run, and stops it if requested.
pub(super) struct RecordingObserver {
    pub(super) progress: Vec<RunProgress>,
    pub(super) batches: Vec<TrainedBatch>,
    pub(super) epochs: Vec<EpochRecord>,
    pub(super) stages: Vec<StageModel>,
    pub(super) body_passes: Vec<usize>,
    pub(super) caches: Vec<ImageCache>,
    pub(super) rate_choices: Vec<RangeTestResult>,
    /// Number of stop checks.
    pub(super) stop_checks: usize,
    /// Number of stop checks after which it stops the run.
    pub(super) stop_after: Option<usize>,
    /// Way in which it stops the run.
    pub(super) stop_mode: Stop,
    /// Number of events received after the stop.
    pub(super) after_stop: usize,
    /// File of the last checkpoint.
    pub(super) checkpoint: Option<Vec<u8>>,
}

impl Default for RecordingObserver {
    fn default() -> Self {
        Self {
            progress: Vec::new(),
            batches: Vec::new(),
            epochs: Vec::new(),
            stages: Vec::new(),
            body_passes: Vec::new(),
            caches: Vec::new(),
            stop_checks: 0,
            stop_after: None,
            stop_mode: Stop::Cancel,
            after_stop: 0,
            checkpoint: None,
            rate_choices: Vec::new(),
        }
    }
}

impl RecordingObserver {
    fn write(&mut self, checkpoint: &Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        checkpoint.write(&path).unwrap();
        self.checkpoint = Some(std::fs::read(path).unwrap());
    }

    fn note(&mut self) {
        self.after_stop += usize::from(self.stop_after.is_some_and(|stop_after| self.stop_checks > stop_after));
    }
}

impl Observer for RecordingObserver {
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
        self.write(&checkpoint);
        Ok(())
    }

    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.note();
        self.stages.push(model);
        self.write(&checkpoint);
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.write(&checkpoint);
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
        self.stop_checks += 1;
        self.stop_after.is_some_and(|stop_after| self.stop_checks > stop_after).then_some(self.stop_mode)
    }
}
