//! Training: takes a plan, data, a device and an observer; produces one model per stage, metrics and checkpoints. Knows neither HTTP nor SQL.
//!
//! A [`TrainingPlan`] is a list of stages (one image size each), a stage is a list of steps (one learning-rate schedule and scope each), and
//! a step is a number of epochs. The code follows that nesting:
//! - [`train`] goes through the stages;
//! - `stage::train` opens the decoded images of the stage, goes through its steps and evaluates the best epoch;
//! - `FitJob::run` goes through the epochs and batches of a step: this is the training loop;
//! - [`training_step`] trains on one batch: forward, loss, backward, update.
//!
//! Everything random (order, augmentation, mixup, dropout) is a pure function of the seed and of the position in the plan. A run can
//! therefore resume from a checkpoint at any batch and end with the same numbers.

mod augmenter;
mod batch_loader;
mod batches;
mod best_epoch;
mod bits;
mod cache_file;
mod cached_images;
mod checkpoint;
mod decode;
mod divergence;
mod features;
mod fit_job;
mod loss;
mod mixup;
mod position;
mod progress_meter;
mod random;
mod range_test;
mod running_metrics;
mod session;
mod setup;
mod stage;
mod step_trainer;
#[cfg(test)]
mod tests;
mod weight_average;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use burn::tensor::Device;

use crate::{
    domain::{
        ClassList, ConfusionMatrix, EpochRecord, ModelSpec, RangeTestResult, RunProgress, SelectionMetric, Split,
        TrainedBatch, TrainingPlan,
    },
    nn::{self, NnError},
};
pub use checkpoint::Checkpoint;
use checkpoint::ResumeState;
pub use loss::mean_cross_entropy;
pub use running_metrics::RunningMetrics;
use session::Session;
pub use step_trainer::{optimizer, training_step};

/// A labelled image of the data set, not decoded yet.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Index into the class list.
    pub class: usize,
    /// The split it belongs to.
    pub split: Split,
    /// Key of its encoded bytes. Different bytes have different keys.
    pub key: String,
    /// Number of its patient; `None` if the patient is unknown.
    pub patient: Option<u32>,
}

/// Reads the encoded bytes of a sample. Called from the training thread and its loader threads.
pub type ReadImage = Arc<dyn Fn(&Sample) -> std::io::Result<Vec<u8>> + Send + Sync>;

/// Blocks until no prediction waits for the device. Called from the training thread.
pub type WaitUntilIdle = Arc<dyn Fn() + Send + Sync>;

/// Everything that determines a training run.
pub struct TrainingJob {
    /// The plan. [`train`] refuses an invalid one.
    pub plan: TrainingPlan,
    /// The classes, in the order of the network's outputs.
    pub classes: ClassList,
    /// The samples of all splits.
    pub samples: Vec<Sample>,
    /// Reads the bytes of a sample.
    pub read: ReadImage,
    /// Folder for the decoded images of this data set, created if missing. Its contents can be deleted at any time.
    pub cache: PathBuf,
    /// Maximum number of pixels of an image.
    pub max_pixels: u64,
    /// Canonical ImageNet body weights, required if the plan starts from them.
    pub body: Option<Vec<u8>>,
    /// Random seed for shuffling, initialisation, augmentation and dropout.
    pub seed: u64,
    /// The device, without autodiff.
    pub device: Device,
    /// Called before each batch, and on a GPU also within batches that take longer than `max_yield`. On the CPU, the kernels of the
    /// training thread yield to those of other threads by themselves.
    pub wait_until_idle: WaitUntilIdle,
    /// Maximum time for which a GPU is occupied without yielding to predictions; at least one block of the network.
    pub max_yield: Duration,
    /// Checkpoint of an earlier run of the same job, to resume from. `None`: start from the beginning.
    pub checkpoint: Option<Checkpoint>,
}

/// Evaluation of a model on one split.
pub struct SplitEvaluation {
    /// The split.
    pub split: Split,
    /// Confusion matrix.
    pub confusion: ConfusionMatrix,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// The prediction for each sample of the split, in the job's order.
    pub outcomes: Vec<SampleOutcome>,
}

/// Prediction of a model for one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOutcome {
    /// The sample's key.
    pub key: String,
    /// Number of the sample's patient.
    pub patient: Option<u32>,
    /// The labelled class.
    pub truth: usize,
    /// The class with the highest probability.
    pub predicted: usize,
    /// Probability of each class, in the order of the class list.
    pub probabilities: Vec<f32>,
}

/// The model of a stage: its best epoch.
pub struct StageModel {
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Specification of the model.
    pub spec: ModelSpec,
    /// The model file ([`crate::nn::Network::to_bytes`]).
    pub bytes: Arc<Vec<u8>>,
    /// Evaluation on every split that has images.
    pub evaluations: Vec<SplitEvaluation>,
}

/// Cache of a stage's decoded images.
#[derive(Clone, Debug)]
pub struct ImageCache {
    /// Side of the images in pixels.
    pub side: u32,
    /// Number of images.
    pub images: usize,
    /// Size of the cache file in bytes.
    pub bytes: u64,
    /// Origin of the file.
    pub origin: CacheOrigin,
    /// Wall time for checking or creating the file.
    pub time: Duration,
}

/// Origin of a cache file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOrigin {
    /// Created by an earlier stage or run.
    Reused,
    /// Decoded and resized now.
    Created {
        /// Fault of the previous file, if there was one.
        damage: Option<String>,
    },
}

/// Receives the events of a run. An error from it ends the run.
pub trait Observer {
    /// Called after each batch and at each change of stage, step and epoch. Step 0 means that the images are being decoded; epoch 0 that
    /// the frozen body computes its features or that a range test is running.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError>;
    /// Called after each training batch, before [`Observer::progress`].
    fn batch(&mut self, _batch: &TrainedBatch) -> Result<(), ObserverError> {
        Ok(())
    }
    /// Called after each epoch, with a checkpoint taken after it.
    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// Called after each stage, with a checkpoint taken after it.
    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// Called with checkpoints within an epoch: at the plan's checkpoint interval, and before a run ends with [`Stop::Suspend`].
    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// Called when the decoded images of a stage are available.
    fn image_cache(&mut self, _cache: &ImageCache) {}
    /// Called after a pass of the frozen body over `images` images. Every epoch of a head step reuses these features.
    fn body_pass(&mut self, _images: usize, _time: Duration) {}
    /// Called after the learning-rate range test of a step.
    fn rate_choice(&mut self, _choice: &RangeTestResult) {}
    /// Called before each batch. `Some` ends the run with [`TrainingError::Stopped`].
    fn should_stop(&mut self) -> Option<Stop>;
}

/// The way in which a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The run is cancelled: no further checkpoint is written.
    Cancel,
    /// The run is suspended: it writes a checkpoint first, so that it can resume.
    Suspend,
}

/// Failure of the observer (database or disk).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ObserverError(pub String);

/// Name of a file. Errors of runs reach clients, which must not learn where the data folder is.
fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Error of a training run.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The observer stopped the run.
    #[error("stopped on request")]
    Stopped,
    /// The plan or the data set cannot be used: for example a class without training images, or an empty selection split.
    #[error("cannot train on this data set: {0}")]
    Data(String),
    /// An image is missing or unreadable.
    #[error("image {key}: {problem}")]
    Image {
        /// Key of the sample.
        key: String,
        /// Description of the problem.
        problem: String,
    },
    /// The cache file of decoded images cannot be written or read, or is damaged.
    #[error("image cache {}: {problem}", file_name(.path))]
    Cache {
        /// The file.
        path: PathBuf,
        /// Description of the problem and its remedy.
        problem: String,
    },
    /// The loss is NaN or infinite.
    #[error("the loss is not finite in stage {stage}, step {step}, epoch {epoch}: lower the learning rate")]
    NotFinite {
        /// Stage.
        stage: u32,
        /// Step.
        step: u32,
        /// Epoch.
        epoch: u32,
    },
    /// The loss or the weights are far beyond those of a network that learns.
    #[error("the run diverged in stage {stage}, step {step}, epoch {epoch}: {reason}: lower the learning rate")]
    Diverged {
        /// Stage.
        stage: u32,
        /// Step.
        step: u32,
        /// Epoch.
        epoch: u32,
        /// The loss or the weight, and its limit.
        reason: String,
    },
    /// The checkpoint to resume from is not a valid checkpoint of this job.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights or device failed.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The observer failed.
    #[error(transparent)]
    Observer(#[from] ObserverError),
}

/// A file that is not a usable checkpoint of the job.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint cannot be used: {0}")]
pub struct CheckpointError(String);

/// Trains all stages of the plan, or those that remain after the job's checkpoint. Each stage starts from the best epoch of the previous
/// one. The same job, seed and device give the same numbers, whether or not the run was resumed, as long as nothing else in the process
/// draws random numbers on the device.
///
/// # Errors
/// [`TrainingError`]. The observer has received all epochs, stages and checkpoints up to the error.
pub fn train(job: TrainingJob, observer: &mut dyn Observer) -> Result<(), TrainingError> {
    setup::validate(&job)?;
    let (mut state, spec) = initial_state(&job)?;
    let mut session = Session::new(&job, observer);
    let _memory = ReleaseMemoryOnDrop;
    while let Some(stage) = job.plan.stages.get(state.position.stage as usize - 1) {
        let spec = ModelSpec { image_size: stage.image_size, ..spec.clone() };
        state = stage::train(&mut session, state.position.stage, stage, &spec, state)?;
    }
    session.finish()
}

/// The state in which the run starts or resumes, and the specification of its network.
fn initial_state(job: &TrainingJob) -> Result<(ResumeState, ModelSpec), TrainingError> {
    if let Some(checkpoint) = &job.checkpoint {
        return checkpoint.resume_state(&job.plan, &job.device);
    }
    let (network, spec) = setup::initial_network(job)?;
    Ok((ResumeState::start_of_stage(1, network, &job.plan, job.classes.len()), spec))
}

/// Releases the memory that training steps have cached, however the run ends.
struct ReleaseMemoryOnDrop;

impl Drop for ReleaseMemoryOnDrop {
    fn drop(&mut self) {
        nn::release_memory();
    }
}

/// The selection score of an epoch or stage. Higher is better.
pub fn selection_score(metric: SelectionMetric, confusion: &ConfusionMatrix, loss: f64) -> f64 {
    match metric {
        SelectionMetric::Accuracy => confusion.averages().accuracy,
        SelectionMetric::MacroF1 => confusion.averages().macro_f1,
        SelectionMetric::Loss => -loss,
    }
}
