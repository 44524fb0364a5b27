//! Writes the checkpoints of a run, each with what it follows, beside the training that goes on meanwhile.

use jiff::Timestamp;
use tokio::{runtime::Handle, task::JoinHandle};

use super::WorkerContext;
use crate::{
    domain::{EpochRecord, EvaluatedImage, EvaluationId, ModelId, Sha256},
    store::{Evaluated, Evaluation, Model, Run, StoreError, StoredCheckpoint, StoredFile, runs},
    training::{Checkpoint, SampleOutcome, SplitEvaluation, StageModel},
};

/// What a checkpoint follows.
pub(super) enum Milestone {
    /// Nothing: it is within an epoch.
    None,
    Epoch(EpochRecord),
    Stage(StageModel),
}

/// A checkpoint that is to be kept.
pub(super) struct Keepsake {
    pub(super) milestone: Milestone,
    pub(super) checkpoint: Checkpoint,
    /// Its number in the run.
    pub(super) sequence: u32,
    /// Batches that the run has trained.
    pub(super) steps: u64,
}

/// Knows the run and where its checkpoints go.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) context: WorkerContext,
    pub(super) run: Run,
    pub(super) synthetic: bool,
}

impl Keeper {
    /// Writes on a thread of its own.
    pub(super) fn begin(&self, keepsake: Keepsake) -> UnderWay {
        let keeper = self.clone();
        let write = move || keeper.write(&keepsake).map_err(|error| Box::new((keepsake, error)));
        UnderWay(self.context.runtime.spawn_blocking(write))
    }

    /// Writes the file and then its row, with what it follows. Blocks.
    pub(super) fn write(&self, keepsake: &Keepsake) -> Result<(), StoreError> {
        let Keepsake { milestone, checkpoint, sequence, .. } = keepsake;
        let WorkerContext { blobs, checkpoints, runtime, .. } = &self.context;
        let id = self.run.id;
        let file = checkpoints.write(id, *sequence, &|path| checkpoint.write(path))?;
        let stored = stored(keepsake, file);
        let obsolete = match milestone {
            Milestone::None => self.add(runs::Milestone::default(), &stored)?,
            Milestone::Epoch(epoch) => {
                self.add(runs::Milestone { epoch: Some(epoch), ..Default::default() }, &stored)?
            }
            Milestone::Stage(stage) => {
                // Held until the rows are committed.
                let blob = runtime.block_on(blobs.put(stage.bytes.to_vec()))?;
                let model = self.model(stage, ModelId::new(), blob.sha256().clone());
                let evaluated = self.evaluated(stage, model.id)?;
                self.add(runs::Milestone { stage: Some((&model, &evaluated)), ..Default::default() }, &stored)?
            }
        };
        if let Err(error) = runtime.block_on(checkpoints.remove(id, &obsolete)) {
            tracing::warn!(run = %id, %error, "an old checkpoint stays until the next start");
        }
        Ok(())
    }

    fn add(&self, milestone: runs::Milestone<'_>, stored: &StoredCheckpoint) -> Result<Vec<String>, StoreError> {
        let WorkerContext { db, runtime, .. } = &self.context;
        runtime.block_on(runs::add_checkpoint(db, self.run.id, milestone, stored))
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

    fn evaluated(&self, stage: &StageModel, id: ModelId) -> Result<Vec<Evaluated>, StoreError> {
        let evaluated = |of: &SplitEvaluation| {
            let outcomes = of.outcomes.iter().map(outcome).collect::<Result<_, _>>()?;
            Ok(Evaluated { evaluation: self.evaluation(of, stage, id), outcomes })
        };
        stage.evaluations.iter().map(evaluated).collect()
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
            loss: of.loss,
            seconds: of.seconds,
            created_at: Timestamp::now(),
        }
    }
}

/// What could not be kept, and why.
type Failed = Box<(Keepsake, StoreError)>;

/// A checkpoint that is being written.
pub(super) struct UnderWay(JoinHandle<Result<(), Failed>>);

impl UnderWay {
    pub(super) fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for it; what was not written comes back with the reason.
    ///
    /// # Panics
    /// If the writing panicked.
    pub(super) fn wait(self, runtime: &Handle) -> Result<(), Failed> {
        runtime.block_on(self.0).expect("writing a checkpoint does not panic")
    }
}

fn stored(keepsake: &Keepsake, file: StoredFile) -> StoredCheckpoint {
    let Keepsake { checkpoint, sequence, steps, .. } = keepsake;
    StoredCheckpoint {
        sequence: *sequence,
        file,
        position: checkpoint.position(),
        epochs: checkpoint.epochs(),
        steps: *steps,
        created_at: Timestamp::now(),
    }
}

/// The keys of a run's samples are the hashes of their images.
fn outcome(of: &SampleOutcome) -> Result<EvaluatedImage, StoreError> {
    let SampleOutcome { key, truth, predicted, probabilities } = of.clone();
    let sha256 = Sha256::try_from(key).map_err(|error| StoreError::Row(format!("outcomes.sha256: {error}")))?;
    Ok(EvaluatedImage { sha256, truth, predicted, probabilities })
}
