//! The training loop: plan, data, device and observer in, stage models and numbers out. Knows no HTTP and no SQL.

use std::sync::Arc;

use burn::tensor::Device;

use crate::{
    domain::{ClassList, ConfusionMatrix, EpochRecord, ModelSpec, RunProgress, Split, TrainingPlan},
    nn::NnError,
};

/// One labelled image of a training set, still to be decoded.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Index into the class list.
    pub class: usize,
    /// Which split it is in.
    pub split: Split,
    /// Where its bytes are.
    pub key: String,
}

/// Gives the bytes of a sample. Called from the training thread and its loaders.
pub type ReadImage = Arc<dyn Fn(&Sample) -> std::io::Result<Vec<u8>> + Send + Sync>;

/// All a run needs.
pub struct TrainingJob {
    /// Checked with [`TrainingPlan::problems`].
    pub plan: TrainingPlan,
    /// Outputs in order.
    pub classes: ClassList,
    /// Train, validation and test samples.
    pub samples: Vec<Sample>,
    /// Their bytes.
    pub read: ReadImage,
    /// Largest accepted image.
    pub max_pixels: u64,
    /// Canonical ImageNet body weights when the plan asks for them.
    pub body: Option<Vec<u8>>,
    /// Shuffling, initialisation and dropout.
    pub seed: u64,
    /// Without autodiff; the loop adds it.
    pub device: Device,
}

/// Predictions of a model on one split.
pub struct SplitEvaluation {
    /// The split.
    pub split: Split,
    /// Counts.
    pub confusion: ConfusionMatrix,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Wall time.
    pub seconds: f64,
}

/// The best epoch of a stage.
pub struct StageModel {
    /// From 1.
    pub stage: u32,
    /// What the tensors are.
    pub spec: ModelSpec,
    /// The model file ([`crate::nn::Network::to_bytes`]).
    pub bytes: Vec<u8>,
    /// On every split that has images.
    pub evaluations: Vec<SplitEvaluation>,
}

/// Told what happens; an error from it ends the run.
pub trait Observer {
    /// After each batch and at each change of stage, step and epoch.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError>;
    /// After each epoch.
    fn epoch(&mut self, epoch: &EpochRecord) -> Result<(), ObserverError>;
    /// After each stage.
    fn stage(&mut self, model: StageModel) -> Result<(), ObserverError>;
    /// Asked before each batch: true ends the run with [`TrainingError::Stopped`].
    fn should_stop(&mut self) -> bool;
    /// Called before each batch: returns when no prediction waits for the device.
    fn yield_device(&mut self);
}

/// The observer's own failure (database, disk).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ObserverError(pub String);

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// Asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// Nothing to train on, a class without training images, an empty selection split.
    #[error("the data set cannot be trained on: {0}")]
    Data(String),
    /// An image is missing or unreadable.
    #[error("image {key}: {problem}")]
    Image {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// NaN or infinity.
    #[error("the loss is not finite in stage {stage}, step {step}, epoch {epoch}: lower the learning rate")]
    NotFinite {
        /// Stage.
        stage: u32,
        /// Step.
        step: u32,
        /// Epoch.
        epoch: u32,
    },
    /// Weights or device.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The observer failed.
    #[error(transparent)]
    Observer(#[from] ObserverError),
}

/// Trains all stages.
pub fn train(_job: TrainingJob, _observer: &mut dyn Observer) -> Result<(), TrainingError> {
    unimplemented!()
}
