//! Writes the checkpoints of a run, each with the records that belong to it, while training continues.

use jiff::Timestamp;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    domain::{EpochRecord, EvaluatedImage, EvaluationId, ModelId, Sha256},
    evaluation, nn,
    store::{
        Blobs, CheckpointFiles, Db, Evaluation, EvaluationRecord, Model, Run, StoreError, StoredCheckpoint, StoredFile,
        runs, runs::CheckpointRecords,
    },
    training::{Checkpoint, SampleOutcome, SplitEvaluation, StageModel},
};

/// Reason for which a checkpoint is written.
pub(super) enum CheckpointTrigger {
    /// The interval of the plan is over, or training stops. The checkpoint is within an epoch.
    Interval,
    /// An epoch has ended.
    Epoch(EpochRecord),
    /// A stage has ended.
    Stage(StageModel),
}

/// A checkpoint that is not written yet.
pub(super) struct PendingCheckpoint {
    pub(super) trigger: CheckpointTrigger,
    pub(super) checkpoint: Checkpoint,
    /// Number of the checkpoint in the run.
    pub(super) sequence: u32,
    /// Batches that the run has trained.
    pub(super) steps: u64,
}

/// Writes checkpoints of one run.
#[derive(Clone)]
pub(super) struct CheckpointWriter {
    pub(super) db: Db,
    pub(super) blobs: Blobs,
    pub(super) files: CheckpointFiles,
    pub(super) runtime: Handle,
    pub(super) run: Run,
    /// True if the run trains on synthetic images.
    pub(super) synthetic: bool,
}

impl CheckpointWriter {
    /// Starts writing on another thread.
    pub(super) fn start(&self, pending: PendingCheckpoint) -> WriteHandle {
        let writer = self.clone();
        let write = move || writer.write(&pending).map_err(|error| Box::new((pending, error)));
        WriteHandle(self.runtime.spawn_blocking(write))
    }

    /// Writes the file and then, in one transaction, the rows. Blocks.
    pub(super) fn write(&self, pending: &PendingCheckpoint) -> Result<(), StoreError> {
        let PendingCheckpoint { trigger, checkpoint, sequence, .. } = pending;
        let id = self.run.id;
        let file = self.files.write(id, *sequence, &|path| checkpoint.write(path))?;
        let stored = stored(pending, file);
        let obsolete = match trigger {
            CheckpointTrigger::Interval => self.add(CheckpointRecords::default(), &stored)?,
            CheckpointTrigger::Epoch(epoch) => {
                self.add(CheckpointRecords { epoch: Some(epoch), ..Default::default() }, &stored)?
            }
            CheckpointTrigger::Stage(stage) => {
                // Held until the rows are committed.
                let bytes = self.model_file(stage)?;
                let byte_length = bytes.len() as u64;
                let blob = self.runtime.block_on(self.blobs.put(bytes))?;
                let model = Model { byte_length, ..self.model(stage, ModelId::new(), blob.sha256().clone()) };
                let evaluations = self.evaluations(stage, model.id)?;
                self.add(CheckpointRecords { stage: Some((&model, &evaluations)), ..Default::default() }, &stored)?
            }
        };
        if let Err(error) = self.runtime.block_on(self.files.remove(id, &obsolete)) {
            tracing::warn!(run = %id, %error, "an old checkpoint cannot be removed; the next start tries again");
        }
        Ok(())
    }

    fn add(&self, records: CheckpointRecords<'_>, stored: &StoredCheckpoint) -> Result<Vec<String>, StoreError> {
        self.runtime.block_on(runs::add_checkpoint(&self.db, self.run.id, records, stored))
    }

    /// The model file to store, with a mark if the run trains on synthetic images.
    fn model_file(&self, stage: &StageModel) -> Result<Vec<u8>, StoreError> {
        if !self.synthetic {
            return Ok(stage.bytes.to_vec());
        }
        nn::marked_synthetic(&stage.bytes).map_err(|error| StoreError::Task(format!("the model of a stage: {error}")))
    }

    fn model(&self, model: &StageModel, id: ModelId, sha256: Sha256) -> Model {
        Model {
            id,
            run_id: Some(self.run.id),
            stage: Some(model.stage),
            name: format!("model{}", model.stage),
            sha256,
            byte_length: model.bytes.len() as u64,
            spec: model.spec.clone(),
            synthetic: self.synthetic,
            aliases: Vec::new(),
            created_at: Timestamp::now(),
        }
    }

    fn evaluations(&self, stage: &StageModel, id: ModelId) -> Result<Vec<EvaluationRecord>, StoreError> {
        let record = |of: &SplitEvaluation| {
            let images = of.outcomes.iter().map(evaluated_image).collect::<Result<Vec<_>, _>>()?;
            let scores = Some(evaluation::scores(&images, &stage.spec.classes));
            Ok(EvaluationRecord { evaluation: Evaluation { scores, ..self.evaluation(of, stage, id) }, images })
        };
        stage.evaluations.iter().map(record).collect()
    }

    fn evaluation(&self, of: &SplitEvaluation, model: &StageModel, model_id: ModelId) -> Evaluation {
        Evaluation {
            id: EvaluationId::new(),
            model_id,
            run_id: Some(self.run.id),
            stage: Some(model.stage),
            dataset_id: self.run.dataset_id,
            dataset_fingerprint: self.run.dataset_fingerprint.clone(),
            split: of.split,
            selection_split: Some(self.run.plan.selection.split),
            classes: model.spec.classes.clone(),
            confusion_matrix: of.confusion.clone(),
            scores: None,
            loss: of.loss,
            seconds: of.seconds,
            created_at: Timestamp::now(),
        }
    }
}

/// A checkpoint that could not be written, with the error.
type Failed = Box<(PendingCheckpoint, StoreError)>;

/// A checkpoint that another thread is writing.
pub(super) struct WriteHandle(JoinHandle<Result<(), Failed>>);

impl WriteHandle {
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end. Returns a checkpoint that was not written, with the error.
    ///
    /// # Panics
    /// When the other thread panicked.
    pub(super) fn wait(self, runtime: &Handle) -> Result<(), Failed> {
        runtime.block_on(self.0).expect("writing a checkpoint does not panic")
    }
}

fn stored(pending: &PendingCheckpoint, file: StoredFile) -> StoredCheckpoint {
    let PendingCheckpoint { checkpoint, sequence, steps, .. } = pending;
    StoredCheckpoint {
        sequence: *sequence,
        file,
        position: checkpoint.position(),
        epochs: checkpoint.epochs(),
        steps: *steps,
        created_at: Timestamp::now(),
    }
}

/// Names the image by its hash, which is the key of the sample.
fn evaluated_image(of: &SampleOutcome) -> Result<EvaluatedImage, StoreError> {
    let SampleOutcome { key, patient, truth, predicted, probabilities } = of.clone();
    let sha256 = Sha256::try_from(key).map_err(|error| StoreError::Row(format!("outcomes.sha256: {error}")))?;
    Ok(EvaluatedImage { sha256, patient, truth, predicted, probabilities })
}
