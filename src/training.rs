//! The training loop: plan, data, device and observer in, stage models and numbers out. Knows no HTTP and no SQL.

mod augment;
mod average;
mod batches;
mod best;
mod checkpoint;
mod course;
mod decode;
mod features;
mod feed;
mod fit;
mod grey_file;
mod images;
mod loss;
mod meter;
mod mixup;
mod random;
mod range_test;
mod session;
mod stage;
mod start;
mod tally;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use burn::tensor::Device;

use crate::{
    domain::{
        ClassList, ConfusionMatrix, EpochRecord, ModelSpec, RangeTestResult, RunProgress, SelectionMetric, Split,
        TrainedBatch, TrainingPlan,
    },
    nn::{self, NnError},
};
use checkpoint::Standing;
pub use checkpoint::{Checkpoint, CheckpointError};
pub use fit::{optimizer, training_step};
pub use loss::mean_cross_entropy;
use session::Session;
pub use tally::Tally;

/// One labelled image of a training set, still to be decoded.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Index into the class list.
    pub class: usize,
    /// Which split it is in.
    pub split: Split,
    /// Where its bytes are; other bytes have another key.
    pub key: String,
}

/// Gives the bytes of a sample. Called from the training thread and its loaders.
pub type ReadImage = Arc<dyn Fn(&Sample) -> std::io::Result<Vec<u8>> + Send + Sync>;

/// Returns when no prediction waits for the device. Called from the training thread.
pub type GiveWay = Arc<dyn Fn() + Send + Sync>;

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
    /// Folder of the decoded images of this data set, made when missing: what is in there can be made again at any time.
    pub cache: PathBuf,
    /// Largest accepted image.
    pub max_pixels: u64,
    /// Canonical ImageNet body weights when the plan asks for them.
    pub body: Option<Vec<u8>>,
    /// Shuffling, initialisation and dropout.
    pub seed: u64,
    /// Without autodiff; the loop adds it.
    pub device: Device,
    /// Called before each batch, and within those that hold a GPU for longer than `max_yield`. On the CPU, operations themselves give way
    /// to those of other threads ([`nn::lower_thread_priority`]).
    pub give_way: GiveWay,
    /// For how long a GPU may be held at a stretch; at least one block of the network.
    pub max_yield: Duration,
    /// Where an earlier call with the same job came to; none: from the beginning.
    pub checkpoint: Option<Checkpoint>,
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
    /// What was predicted of each image, in the job's order.
    pub outcomes: Vec<SampleOutcome>,
}

/// What a model made of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOutcome {
    /// The sample's key.
    pub key: String,
    /// The sample's class.
    pub truth: usize,
    /// The most probable class.
    pub predicted: usize,
    /// In the order of the class list.
    pub probabilities: Vec<f32>,
}

/// The best epoch of a stage.
pub struct StageModel {
    /// From 1.
    pub stage: u32,
    /// What the tensors are.
    pub spec: ModelSpec,
    /// The model file ([`crate::nn::Network::to_bytes`]).
    pub bytes: Arc<Vec<u8>>,
    /// On every split that has images.
    pub evaluations: Vec<SplitEvaluation>,
}

/// How a stage got its images.
#[derive(Clone, Debug)]
pub struct ImageCache {
    /// Side of the images in pixels.
    pub side: u32,
    /// How many.
    pub images: usize,
    /// Size of their file.
    pub bytes: u64,
    /// Whether it was there.
    pub origin: CacheOrigin,
    /// Wall time until all of it was checked or made.
    pub time: Duration,
}

/// Where the file of a stage's images came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOrigin {
    /// From an earlier stage or run.
    Reused,
    /// Decoded and resized now.
    Made {
        /// What was wrong with the one that was there.
        damage: Option<String>,
    },
}

/// Told what happens; an error from it ends the run.
pub trait Observer {
    /// After each batch and at each change of stage, step and epoch. Step 0: the images are being decoded; epoch 0: the
    /// frozen body computes its features, or a range test runs.
    fn progress(&mut self, progress: &RunProgress) -> Result<(), ObserverError>;
    /// After each batch that the network was trained on, before its progress.
    fn batch(&mut self, _batch: &TrainedBatch) -> Result<(), ObserverError> {
        Ok(())
    }
    /// After each epoch, with the checkpoint that follows it.
    fn epoch(&mut self, epoch: &EpochRecord, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// After each stage, with the checkpoint that follows it.
    fn stage(&mut self, model: StageModel, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// Within an epoch: when the plan's time for it is over, and before the run ends with [`Stop::ToGoOn`].
    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ObserverError>;
    /// When a stage has its images.
    fn image_cache(&mut self, _cache: &ImageCache) {}
    /// After each pass of the frozen body over `images` images, whose features then serve every epoch of a head step.
    fn body_pass(&mut self, _images: usize, _time: Duration) {}
    /// After the range test of a step.
    fn rate_choice(&mut self, _choice: &RangeTestResult) {}
    /// Asked before each batch: any answer ends the run with [`TrainingError::Stopped`].
    fn should_stop(&mut self) -> Option<Stop>;
}

/// How a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What it has learnt since its last checkpoint is not wanted.
    ForGood,
    /// It writes a checkpoint first.
    ToGoOn,
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
    /// The file of decoded images cannot be written or read, or no longer holds what was written.
    #[error("the image cache {path}: {problem}")]
    Cache {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what helps.
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
    /// The checkpoint to go on from is none, or not of this job.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights or device.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The observer failed.
    #[error(transparent)]
    Observer(#[from] ObserverError),
}

/// Trains all stages, or what a checkpoint left of them: each starts from the best epoch of the one before. The same job, seed and device
/// give the same numbers, whether or not it went on from a checkpoint, as long as nothing else in the process draws random numbers on the
/// device meanwhile.
///
/// # Errors
/// [`TrainingError`]; the epochs, stages and checkpoints of before stay with the observer.
pub fn train(job: TrainingJob, observer: &mut dyn Observer) -> Result<(), TrainingError> {
    start::check(&job)?;
    let (mut standing, spec) = standing(&job)?;
    let mut session = Session::new(&job, observer);
    let _memory = Memory;
    while let Some(stage) = job.plan.stages.get(standing.position.stage as usize - 1) {
        let spec = ModelSpec { image_size: stage.image_size, ..spec.clone() };
        standing = stage::train(&mut session, standing.position.stage, stage, &spec, standing)?;
    }
    session.finish()
}

/// Where the job begins or goes on, and what its network is.
fn standing(job: &TrainingJob) -> Result<(Standing, ModelSpec), TrainingError> {
    if let Some(checkpoint) = &job.checkpoint {
        return checkpoint.standing(&job.plan, &job.device);
    }
    let (network, spec) = start::network(job)?;
    Ok((Standing::at_stage(1, network, &job.plan, job.classes.len()), spec))
}

/// Gives the memory of the steps back, however the run ends.
struct Memory;

impl Drop for Memory {
    fn drop(&mut self) {
        nn::release_memory();
    }
}

/// The score by which epochs and stages are compared; higher is better.
pub fn selection_score(metric: SelectionMetric, confusion: &ConfusionMatrix, loss: f64) -> f64 {
    match metric {
        SelectionMetric::Accuracy => confusion.averages().accuracy,
        SelectionMetric::MacroF1 => confusion.averages().macro_f1,
        SelectionMetric::Loss => -loss,
    }
}
